"""What the common inline templates show in an article's text.

A template that is not listed here is dropped: on Wikipedia the long tail is navigation, citations, infoboxes and
maintenance notices. Parameters arrive already rendered, innermost templates first. Sources: the templates' own
documentation pages on English Wikipedia; names that other wikis share mean the same there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from megatron_pz.wikitext.marks import DROPPED, IN_ONE_LINE, MARKS, PARAGRAPH, ROW, SOUND
from megatron_pz.wikitext.templates import dates, french, languages, quantities, signs, words
from megatron_pz.wikitext.templates.parameters import Parameters, Render, first

TEMPLATES: Final[Mapping[str, Render]] = (
    words.RENDERERS | languages.RENDERERS | dates.RENDERERS | quantities.RENDERERS | signs.RENDERERS | french.RENDERERS
)
"""Renderers by normalised name (:func:`template_name`)."""

_PARSER_FUNCTIONS: Final[Mapping[str, Callable[[str], str]]] = {
    "formatnum": str.strip,
    "lc": str.lower,
    "uc": str.upper,
    "lcfirst": lambda text: text[:1].lower() + text[1:],
    "ucfirst": lambda text: text[:1].upper() + text[1:],
    "nowrap": str.strip,
}
_ENGLISH = ("en", "simple")
PAGE_TITLE: Final = ("pagename", "fullpagename", "basepagename", "subst:pagename")
_MOST_SHOWN_NAMES = 20_000
_shown_names: dict[tuple[str, bool, str], str] = {}  # of what shown_name has met
_SOUND_PREFIXES = ("ipa-", "ipac-")


def template_name(text: str) -> str:
    """A template's name as a key of :data:`TEMPLATES`: without the namespace, white space and case normalised."""
    name = " ".join(MARKS.sub("", text).replace("_", " ").split()).casefold()
    return name.removeprefix("template:").lstrip()


def is_shown(name: str, language: str) -> bool:
    """Whether a template of this normalised name leaves text; its parameters are not even read otherwise."""
    if language == "fr" and name in french.OF_FRENCH_WIKIS:
        return True
    return name in TEMPLATES or name.partition(":")[0] in _PARSER_FUNCTIONS or name.startswith(_SOUND_PREFIXES)


def shown_name(text: str, keeps_infoboxes: bool, language: str = "en") -> str:
    """The normalised name of a template that leaves text; empty for one that leaves none."""
    key = (text, keeps_infoboxes, language)
    name = _shown_names.get(key)
    if name is None:
        if len(_shown_names) >= _MOST_SHOWN_NAMES:
            _shown_names.clear()
        name = template_name(text)
        shown = is_shown(name, language) or name in PAGE_TITLE or (keeps_infoboxes and is_infobox(name))
        name = _shown_names[key] = name if shown else ""
    return name


def is_infobox(name: str) -> bool:
    return name.startswith("infobox") or name.endswith(("infobox", "taxobox"))


def _infobox(parameters: Parameters) -> str:
    """One ``name: value`` a line."""
    rows = ((name, " ".join(value.translate(IN_ONE_LINE).split())) for name, value in parameters.items())
    shown = "".join(f"\n{ROW}{name.replace('_', ' ')}: {value}" for name, value in rows if value)
    return f"{PARAGRAPH}{shown}{PARAGRAPH}"


def render(name: str, first_field: str, parameters: Parameters, language: str = "en") -> str:
    """The text that a template shows, or a mark that something was dropped.

    Args:
        name: Normalised name.
        first_field: The name as written, with a parser function's argument after its colon.
        parameters: What follows the first ``|``.
        language: Of the wiki: the names of languages that ``{{lang-ru|…}}`` puts first are known in English only.
    """
    if name.startswith("lang-") and language not in _ENGLISH:
        return first(parameters) or DROPPED
    renderer = (french.OF_FRENCH_WIKIS.get(name) if language == "fr" else None) or TEMPLATES.get(name)
    if renderer is not None:
        return renderer(parameters) or DROPPED
    if is_infobox(name):
        return _infobox(parameters)
    function, colon, _ = name.partition(":")
    if colon and function in _PARSER_FUNCTIONS:
        return _PARSER_FUNCTIONS[function](first_field.partition(":")[2].strip())
    return SOUND if name.startswith(_SOUND_PREFIXES) else DROPPED
