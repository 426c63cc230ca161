"""Render the text that inline templates show in an article.

The rows under ``megatron_pz/wikitext/data/templates/`` define the text of templates, the templates that show no word,
and those that are pronunciations. Any other template is unknown and leaves the mark of :func:`mark_of`. Parameters are
already rendered, innermost templates first.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from typing import Final

from megatron_pz.wikitext.language_data import ENGLISH, template_rows
from megatron_pz.wikitext.marks import DROPPED, HOLES, IN_ONE_LINE, MARKS, PARAGRAPH, ROW, SOUND, UNKNOWN, UNREAD
from megatron_pz.wikitext.templates import (
    amounts,
    countries,
    dates,
    expressions,
    formulas,
    french,
    languages,
    numbers,
    other_wikis,
    patterns,
    quantities,
    roads,
    units,
    words,
)
from megatron_pz.wikitext.templates.parameters import Parameters, Render, first, second
from megatron_pz.wikitext.wiki_names import names_of_all

_NUMERIC: Final[Mapping[str, Render]] = {**quantities.FUNCTIONS, **formulas.FUNCTIONS, **amounts.FUNCTIONS}
"""Functions that read numbers or signs from their arguments, and so understand none with a hole."""
FUNCTIONS: Final[Mapping[str, Render]] = {
    **words.FUNCTIONS,
    **languages.FUNCTIONS,
    **dates.FUNCTIONS,
    **_NUMERIC,
    **french.FUNCTIONS,
    **other_wikis.FUNCTIONS,
    **countries.FUNCTIONS,
    **numbers.FUNCTIONS,
    **roads.FUNCTIONS,
}
"""Functions by the names used in the rows of ``[templates.computed]``."""

PARSER_FUNCTIONS: Final[Mapping[str, Callable[[str], str]]] = {
    "lc": str.lower,
    "uc": str.upper,
    "lcfirst": lambda text: text[:1].lower() + text[1:],
    "ucfirst": lambda text: text[:1].upper() + text[1:],
    "nowrap": str.strip,
    "#expr": expressions.value_of,
}
_FORMATTED_NUMBER: Final = "formatnum"
PAGE_TITLE: Final = ("pagename", "fullpagename", "basepagename")
_ANY_WIKI: Final = ""
"""Language without a file of its own; its rows are those that apply on every wiki."""
_SHIP: Final = "ship"
_SHIP_PREFIX: Final = "#ship:"
"""Prefix of the key of a ship's prefix, which is written in capitals."""
_PARENTHESES: Final = ("()", "（）")
_MAX_KNOWN_NAMES = 20_000
LEARNED: Final = "\0"
"""Prefix of the name of a template known only from the dump, not from a table (``from_dump``)."""
_HOLE = re.compile(f"[{''.join(HOLES)}]")
_FRACTION_NAME = re.compile(r"\d{1,3}/\d{1,3}")


def template_name(text: str) -> str:
    """Normalise a template's name: no namespace in any language, single spaces, lower case."""
    name = " ".join(MARKS.sub("", text).replace("_", " ").split()).casefold()
    prefix, colon, rest = name.partition(":")
    return rest.lstrip() if colon and prefix.rstrip() in _namespaces() else name


@functools.cache
def _namespaces() -> frozenset[str]:
    """Return the prefixes that may precede a template's name and a colon: the namespace, and words without effect."""
    return frozenset(name.casefold() for name in (*names_of_all("template"), "subst", "safesubst", "msg"))


def is_shown(name: str, language: str) -> bool:
    """Return whether a template of this normalised name shows text; otherwise its parameters are not read."""
    rows = template_rows(language)
    return (
        name in rows.text
        or name in rows.computed
        or (name.startswith("lang-") and name not in rows.sounds)
        or name.partition(":")[0] in PARSER_FUNCTIONS
        or name.startswith(f"{_FORMATTED_NUMBER}:")
        or _FRACTION_NAME.fullmatch(name) is not None
        or (language == "fr" and french.named_ordinal(name) != "")
    )


def mark_of(name: str, language: str) -> str:
    """Choose the mark of a template that shows no text: a pronunciation, a wordless template, or a hole."""
    rows = template_rows(language)
    if name in rows.sounds:
        return SOUND
    return DROPPED if name in rows.wordless or not name else UNKNOWN


@functools.cache
def known_names(keeps_infoboxes: bool, language: str) -> dict[str, tuple[str, str]]:
    """Return the cache of :func:`name_and_mark` by its ``text``, which that function fills and bounds."""
    return {}


def name_and_mark(text: str, keeps_infoboxes: bool, language: str = "en") -> tuple[str, str]:
    """Return a template's normalised name if it shows text, otherwise an empty name and the mark that it leaves."""
    names = known_names(keeps_infoboxes, language)
    known = names.get(text)
    if known is None:
        if len(names) >= _MAX_KNOWN_NAMES:
            names.clear()
        name, is_prefix = template_name(text), words.is_ship_prefix(text.rpartition(":")[2].strip())
        if country := countries.of_template(text, language):
            known = countries.PREFIX + country, ""
        elif language not in ENGLISH and is_prefix and template_rows(_ANY_WIKI).computed.get(name) == _SHIP:
            known = _SHIP_PREFIX + name, ""  # {{RMS|Titanic}} in German, where {{rmS|Cuira}} is a language
        elif not is_prefix and template_rows(language).computed.get(name) == _SHIP:
            known = "", UNKNOWN  # {{ins|words}} marks insertions, {{INS|Vikrant}} is a ship
        elif is_shown(name, language) or name in PAGE_TITLE or (keeps_infoboxes and is_infobox(name)):
            known = name, ""
        else:
            known = "", mark_of(name, language)
        names[text] = known
    return known


def shown_name(text: str, keeps_infoboxes: bool, language: str = "en") -> str:
    """Return the normalised name of a template that shows text, or an empty string for one that shows none."""
    return name_and_mark(text, keeps_infoboxes, language)[0]


def is_infobox(name: str) -> bool:
    """Return whether a template of this normalised name is an infobox."""
    return name.startswith("infobox") or name.endswith(("infobox", "taxobox"))


def _infobox(parameters: Parameters) -> str:
    """Render an infobox as lines of ``name: value``."""
    pairs = ((name, " ".join(value.translate(IN_ONE_LINE).split())) for name, value in parameters.items())
    shown = "".join(f"\n{ROW}{name.replace('_', ' ')}: {value}" for name, value in pairs if value)
    return f"{PARAGRAPH}{shown}{PARAGRAPH}"


def render(name: str, first_field: str, parameters: dict[str, str], language: str = "en", before: str = "") -> str:
    """Render the text that a template shows, or the mark of its loss.

    Args:
        name: Normalised name.
        first_field: The name as written, with a parser function's argument after its colon.
        parameters: The fields after the first ``|``.
        language: Language of the wiki.
        before: A few characters of the text in front of the template.
    """
    if name.startswith(countries.PREFIX):
        return countries.render(name, parameters)
    if name.startswith(_SHIP_PREFIX):
        return words.ship({**parameters, "0": name.removeprefix(_SHIP_PREFIX)})
    rows = template_rows(language)
    if (pattern := rows.text.get(name)) is not None:
        shown = patterns.compiled(pattern)(parameters)
        is_twice = shown[:1] == before[-1:] and shown[:1] + shown[-1:] in _PARENTHESES
        return shown[1:-1] if is_twice else shown
    if (function := rows.computed.get(name)) is not None:
        if function in _NUMERIC and any(map(_HOLE.search, parameters.values())):
            return UNREAD
        parameters["0"], parameters["<"], parameters["@"] = name, before, language
        is_foreign = language not in ENGLISH
        if function == "quantity":
            return units.local_quantity(parameters, language) if is_foreign else units.quantity(parameters)
        return FUNCTIONS[function](parameters) or UNREAD
    if name.startswith("lang-"):
        shown = languages.labelled(name.removeprefix("lang-"), parameters, language)
        return shown.removeprefix("en ") if language == "fr" and before.endswith("en ") else shown
    if is_infobox(name):
        return _infobox(parameters)
    if _FRACTION_NAME.fullmatch(name):
        return quantities.named_fraction(name)
    if language == "fr" and (shown := french.named_ordinal(name)):
        return UNREAD if second(parameters) else f"{shown} {first(parameters)}".rstrip()
    function_name, colon, _ = name.partition(":")
    if colon and function_name in PARSER_FUNCTIONS:
        return PARSER_FUNCTIONS[function_name](first_field.partition(":")[2].strip()) or UNREAD
    if function_name == _FORMATTED_NUMBER:
        return numbers.formatted(first_field.partition(":")[2].strip(), first(parameters), language) or UNREAD
    return UNKNOWN
