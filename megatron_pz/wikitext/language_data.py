"""Load the tables of templates and names, one file per language under ``data/templates/``.

English rows apply on every wiki, because many wikis import English templates; rows of the wiki's own language take
precedence. ``data/templates/README.md`` explains the rows to contributors who know the language but not the code.
"""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

DIRECTORY: Final = Path(__file__).with_name("data") / "templates"
_EVERYWHERE: Final = "en"
ENGLISH: Final = ("en", "simple")
"""Wikis in English."""


@dataclass(frozen=True)
class NameSet:
    """Template names. ``cite *`` stands for all names with this beginning, ``* icon`` for all with this ending."""

    exact: frozenset[str]
    prefixes: tuple[str, ...]
    suffixes: tuple[str, ...]

    @classmethod
    def of(cls, names: Iterator[str]) -> NameSet:
        """Group the names by the position of their star."""
        exact, prefixes, suffixes = set(), set(), set()
        for name in names:
            if name.endswith("*"):
                prefixes.add(name[:-1])
            elif name.startswith("*"):
                suffixes.add(name[1:])
            else:
                exact.add(name)
        return cls(frozenset(exact), tuple(sorted(prefixes)), tuple(sorted(suffixes)))

    def __contains__(self, name: str) -> bool:
        return name in self.exact or name.startswith(self.prefixes) or name.endswith(self.suffixes)


@dataclass(frozen=True)
class TemplateRows:
    """The kinds of one wiki's templates. All names are normalised as by ``templates.template_name``."""

    text: Mapping[str, str]
    """Pattern of what the template shows (``templates.patterns``)."""
    computed: Mapping[str, str]
    """Name of the function that makes what the template shows (``templates.FUNCTIONS``)."""
    wordless: NameSet
    """Templates that show no word: notes, maintenance tags, anchors, boxes."""
    sounds: NameSet
    """Pronunciations: the words that introduce them vanish with them."""


@functools.cache
def language_file(language: str) -> Mapping[str, Any]:
    """Read a language's file; return an empty table if there is none."""
    path = DIRECTORY / f"{language}.toml"
    if not (language.replace("-", "").isalnum() and path.is_file()):
        return {}
    return tomllib.loads(path.read_text(encoding="utf-8"))


def languages() -> list[str]:
    """List the languages that have a file."""
    return sorted(path.stem for path in DIRECTORY.glob("*.toml"))


def _by_name(table: Mapping[str, list[str]]) -> dict[str, str]:
    return {name: row for row, names in table.items() for name in names}


@functools.cache
def template_rows(language: str) -> TemplateRows:
    """Collect the rows that apply on a wiki of this language."""
    text: dict[str, str] = {}
    computed: dict[str, str] = {}
    wordless: set[str] = set()
    sounds: set[str] = set()
    for source in dict.fromkeys([_EVERYWHERE, language]):
        file = language_file(source).get("templates", {})
        own_text, own_computed = _by_name(file.get("text", {})), _by_name(file.get("computed", {}))
        foreign = set() if language in ENGLISH else set(file.get("only_in_english", []))
        own_text, own_computed = (
            {name: row for name, row in rows.items() if name not in foreign} for rows in (own_text, own_computed)
        )
        own_wordless, own_sounds = set(file.get("wordless", [])) - foreign, set(file.get("sounds", []))
        own = own_text.keys() | own_computed.keys() | own_wordless | own_sounds
        text = {name: row for name, row in text.items() if name not in own} | own_text
        computed = {name: row for name, row in computed.items() if name not in own} | own_computed
        wordless = (wordless - own) | own_wordless
        sounds = (sounds - own) | own_sounds
    return TemplateRows(text, computed, NameSet.of(iter(wordless)), NameSet.of(iter(sounds)))
