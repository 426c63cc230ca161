"""Load the names that the wikis of each language use: ``data/names/<language>.toml`` and ``data/wikis.toml``."""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

_DATA: Final = Path(__file__).with_name("data")
_NAMES: Final = _DATA / "names"
_EVERYWHERE: Final = "en"
_DOT_ABOVE: Final = "\u0307"
_PROJECTS: Final = (
    "wiki", "wiktionary", "wikiquote", "wikibooks", "wikinews", "wikisource", "wikiversity", "wikivoyage"
)  # fmt: skip


def folded(name: str) -> str:
    """Normalise case and white space of a name; a Turkish dotted capital I becomes an i."""
    return "_".join(name.replace("_", " ").split()).casefold().replace(_DOT_ABOVE, "")


@functools.cache
def _wikis() -> Mapping[str, Any]:
    return tomllib.loads((_DATA / "wikis.toml").read_text(encoding="utf-8"))


@functools.cache
def language_codes() -> frozenset[str]:
    """Return the codes of all Wikipedias, as in their addresses."""
    return frozenset(_wikis()["languages"].split())


@functools.cache
def interlanguage_prefixes() -> frozenset[str]:
    """Return the prefixes, before the colon, of links to the same article in another language."""
    return language_codes() | frozenset(_wikis()["other_prefixes"].split())


def wiki_code(language: str) -> str:
    """Return the code of a language in the tables: ``no`` for ``nb``."""
    language = language.casefold().replace("_", "-")
    return _wikis()["same_wiki"].get(language, language)


def code_of_database(name: str) -> str:
    """Return the language of a wiki by its database's name, empty for multilingual wikis.

    ``simplewiki`` is ``simple``, ``zh_yuewiki`` is ``zh-yue``; ``commonswiki`` has no language.
    """
    for project in sorted(_PROJECTS, key=len, reverse=True):
        if name.endswith(project):
            code = name.removesuffix(project).replace("_", "-")
            return wiki_code(code) if code in language_codes() or code in _wikis()["same_wiki"] else ""
    return ""


def chain(language: str) -> tuple[str, ...]:
    """Return the languages whose names apply on a wiki: its own, its fallbacks, English."""
    code = wiki_code(language)
    codes = [code]
    while (code := _wikis()["fallback"].get(code, "")) and code not in codes:
        codes.append(code)
    return (*dict.fromkeys((*codes, _EVERYWHERE)),)


def languages() -> list[str]:
    """Return the languages that have a file."""
    return sorted(path.stem for path in _NAMES.glob("*.toml"))


@functools.cache
def _file(language: str) -> Mapping[str, list[str]]:
    path = _NAMES / f"{language}.toml"
    return tomllib.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


@functools.cache
def names(table: str, language: str) -> tuple[str, ...]:
    """Return the names of one table that apply on a wiki of this language, as written."""
    return tuple(name for code in chain(language) for name in _file(code).get(table, ()))


@functools.cache
def folded_names(table: str, language: str) -> frozenset[str]:
    """Return the names of one table that apply on a wiki of this language, folded."""
    return frozenset(map(folded, names(table, language)))


@functools.cache
def names_of_all(table: str) -> tuple[str, ...]:
    """Return the names of one table in all languages."""
    return tuple(dict.fromkeys(name for code in languages() for name in _file(code).get(table, ())))
