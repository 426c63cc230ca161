"""Render words that a pattern cannot express: ship names, citations by author, links to other wikis, lists, verse."""

from __future__ import annotations

import re
import sys
import unicodedata
from string import hexdigits

from megatron_pz.wikitext.marks import BREAK, DROPPED, INDENT, ITEM, PARAGRAPH, SOUND, UNREAD
from megatron_pz.wikitext.templates.parameters import (
    Parameters,
    Render,
    first,
    knows,
    positional,
    second,
    unless_empty,
)
from megatron_pz.wikitext.wiki_names import language_codes

_SHIP_PREFIXES = {"hnlms": "HNLMS", "hswms": "HSwMS", "hdms": "HDMS", "hnoms": "HNoMS",
                  "smu": "SM", "gs": "German submarine"}  # fmt: skip
_WHOLE_NAME, _HULL, _NAME, _NAME_AND_HULL, _NAME_WITHOUT_HULL = ("", "0"), "1", "2", "3", "6"


_ITEM_NUMBER = re.compile(r"Q\d+")
_PARTS_OF_A_LIST = re.compile(f"[{ITEM}{INDENT}{BREAK}\n]+")


def _list_items(parameters: Parameters) -> list[str]:
    """List the items of a list template, which are its arguments or the lines of a list in one of them."""
    parts = (part.strip() for value in positional(parameters) for part in _PARTS_OF_A_LIST.split(value))
    return [part for part in parts if part]


def items(parameters: Parameters) -> str:
    """Render a list with one item per line, or with commas inside a line of text."""
    before = parameters["<"].rstrip(f" {DROPPED}")
    if before and before[-1] not in "\n:：":
        return items_in_line(parameters)
    return "".join(f"\n{ITEM}{item}" for item in _list_items(parameters)) + "\n"


def items_in_line(parameters: Parameters) -> str:
    """Render ``{{hlist|a|b}}`` -> a, b."""
    return unless_empty(", ".join(_list_items(parameters)))


def verse(parameters: Parameters) -> str:
    """Render a poem, keeping its line ends."""
    text = parameters.get("1") or parameters.get("text") or parameters.get("texte") or parameters.get("content") or ""
    if parameters["0"] == "verse translation" and second(parameters):
        text = f"{text.strip()}{PARAGRAPH}{second(parameters)}"
    return f"{PARAGRAPH}{text.strip().replace(chr(10), BREAK)}{PARAGRAPH}" if text else UNREAD


def _ship_name(prefix: str, name: str, hull: str, form: str) -> str:
    """Render name and hull number in one of the forms that ship templates select by number."""
    if not name:
        return UNREAD
    whole = f"{prefix} {name}".strip()
    if form in _WHOLE_NAME:
        return f"{whole} ({hull})" if hull else whole
    forms = {
        _HULL: hull or UNREAD,
        _NAME: name,
        _NAME_AND_HULL: f"{name} ({hull})" if hull else name,
        _NAME_WITHOUT_HULL: whole,
    }
    return forms.get(form, UNREAD)


def is_ship_prefix(name: str) -> bool:
    """Return whether a template's name is written as a ship's prefix: in capitals, or as in ``HNoMS``."""
    return name.isupper() or name in _SHIP_PREFIXES.values()


def ship(parameters: Parameters) -> str:
    """Render ``{{USS|Enterprise|CVN-65}}`` -> USS Enterprise (CVN-65)."""
    prefix = parameters["0"]
    prefix = _SHIP_PREFIXES.get(prefix, prefix.upper())
    return _ship_name(prefix, first(parameters), second(parameters), parameters.get("3", ""))


def ship_with_prefix(parameters: Parameters) -> str:
    """Render ``{{ship|French ship|Océan|1790}}`` -> French ship Océan (1790)."""
    return _ship_name(first(parameters), second(parameters), parameters.get("3", ""), parameters.get("4", ""))


def ship_class(parameters: Parameters) -> str:
    """Render ``{{sclass|Iowa|battleship}}`` -> Iowa-class battleship."""
    name, kind, form = first(parameters), second(parameters), parameters.get("3", "")
    if not name or not kind or form not in ("", "0", "4"):
        return UNREAD
    return f"{name}-class {kind}"


def _harvard(style: str) -> Render:
    """Render author-year citations inside a sentence: Smith (2005), (Smith 2005) or Smith 2005."""

    def render(parameters: Parameters) -> str:
        values = [value for value in positional(parameters) if value]
        if not values:
            return UNREAD
        *authors, year = values if len(values) > 1 else [values[0], ""]
        names = authors[0] if len(authors) == 1 else f"{', '.join(authors[:-1])} & {authors[-1]}"
        if style == "text":
            return f"{names} ({year})" if year else names
        plain = f"{names} {year}".strip()
        return f"({plain})" if style == "parenthesis" else plain

    return render


def cited_authors(parameters: Parameters) -> str:
    """Render ``{{harvs|txt|first=Emmy|last=Noether|year=1921}}`` -> Emmy Noether (1921)."""
    names = [_author(parameters, number) for number in ("", "2", "3", "4")]
    authors = [name for name in (names[0] or _author(parameters, "1"), *names[1:]) if name]
    years = [year for number in ("", "1", "2", "3") if (year := parameters.get(f"year{number}", ""))]
    if not authors or not years or parameters.get("last5"):
        return UNREAD
    named = authors[0] if len(authors) == 1 else f"{', '.join(authors[:-1])} & {authors[-1]}"
    form = parameters.get("txt") or first(parameters)
    if form in ("txt", "yes", "y"):
        return f"{named} ({', '.join(years)})"
    return f"{named} {', '.join(years)}" if form == "nb" else f"({named} {', '.join(years)})"


def _author(parameters: Parameters, number: str) -> str:
    names = (parameters.get(f"{name}{number}", "") for name in ("first", "last"))
    return " ".join(name for name in names if name) if parameters.get(f"last{number}") else ""


def bible_verse(parameters: Parameters) -> str:
    """Render ``{{bibleverse|Mark|16:8|KJV}}`` and the older ``{{bibleverse||Mark|16:8|KJV}}`` -> Mark 16:8."""
    values = [*positional(parameters), "", "", "", "", ""]
    if values[0] in ("", "1", "2", "3", "4"):
        number, book, verse, _, label = values[:5]
    else:
        number, (book, verse, _, label) = "", values[:4]
    if not book:
        return UNREAD
    return label or " ".join(filter(None, [number, book, verse]))


def interlanguage_link(parameters: Parameters) -> str:
    """Render ``{{ill|title|language|title there|lt=label}}`` -> label; old uses put the language first.

    A title such as ``Q42`` is the number of a Wikidata item, whose label is unknown here.
    """
    if label := parameters.get("lt") or parameters.get("display"):
        return label
    title = first(parameters)
    if title in language_codes():  # the meaning of the third one differs between wikis; the fourth is the label
        return parameters.get("4") or (UNREAD if parameters.get("3") else unless_empty(second(parameters)))
    return UNREAD if _ITEM_NUMBER.fullmatch(title) else unless_empty(title)


def as_written(parameters: Parameters) -> str:
    """Render ``{{sic|teh}}`` -> teh [sic]; with ``hide=y`` only the word."""
    values = positional(parameters)
    known = ("hide", "nolink", "expected", "reason", "force")
    if not knows(parameters, known):
        return UNREAD
    hidden = bool(parameters.get("hide")) or values[:1] in (["hide"], ["?"])
    text = "".join(values[1:] if values[:1] in (["hide"], ["?"]) else values)
    return text or UNREAD if hidden else f"{text} [sic]".lstrip()


def unicode_character(parameters: Parameters) -> str:
    """Render ``{{unichar|A9|copyright sign}}`` -> U+00A9 © COPYRIGHT SIGN."""
    code = first(parameters).removeprefix("U+")
    if not 2 <= len(code) <= 6 or set(code) - set(hexdigits) or (number := int(code, 16)) > sys.maxunicode:
        return UNREAD
    character = chr(number)
    name = second(parameters).upper() or unicodedata.name(character, "")
    shown = character if character.isprintable() and not character.isspace() else ""
    return " ".join(filter(None, [f"U+{number:04X}", shown, name]))


def post_nominals(parameters: Parameters) -> str:
    """Render ``{{post-nominals|country=GBR|KCB|OBE}}`` -> KCB, OBE; a space separates them from a name."""
    letters = [*positional(parameters), parameters.get("list", ""), parameters.get("unlinked", "")]
    joint = " " if parameters.get("commas") == "no" else ", "
    space = " " if parameters["<"][-1:].isalnum() else ""
    return unless_empty(space + joint.join(filter(None, letters)) if any(letters) else "")


def season(parameters: Parameters) -> str:
    """Render ``{{nbay|1990}}`` -> 1990–91; ``start`` and ``end`` select one of the years."""
    year, form = first(parameters), second(parameters)
    if not (year.isascii() and year.isdecimal() and len(year) == 4):
        return UNREAD
    following = str(int(year) + 1)
    short = following if following.endswith("00") else following[2:]
    return {"": f"{year}–{short}", "start": year, "end": following}.get(form, UNREAD)


_INVITATIONS = frozenset(["", *"listen pronunciation play pronounced anhören aussprache ton hör écouter nghe".split()])


def audio(parameters: Parameters) -> str:
    """Render ``{{audio|a.ogg|Berlin}}`` -> Berlin; a label that only invites to listen is not shown."""
    label = second(parameters)
    if label.casefold().strip("() ?/i") not in _INVITATIONS:
        return label
    before = parameters.get("<", "").casefold().rstrip(" :")
    return SOUND if before.endswith(("pronounced", "pronunciation", "aussprache")) else DROPPED


FUNCTIONS: dict[str, Render] = {
    "items": items,
    "items_in_line": items_in_line,
    "verse": verse,
    "ship": ship,
    "ship_with_prefix": ship_with_prefix,
    "ship_class": ship_class,
    "harvard_text": _harvard("text"),
    "harvard_parenthesis": _harvard("parenthesis"),
    "harvard_plain": _harvard("plain"),
    "interlanguage_link": interlanguage_link,
    "as_written": as_written,
    "season": season,
    "post_nominals": post_nominals,
    "unicode_character": unicode_character,
    "cited_authors": cited_authors,
    "bible_verse": bible_verse,
    "audio": audio,
}
