"""Sections of an article's text."""

from __future__ import annotations

import re
from typing import Final

from megatron_pz.wikitext.marks import HEADING, INDENT, ITEM, ROW

_LEAST_PROSE: Final = 25
"""Letters that make a closing section worth a look: "See also the notes above" has fewer."""
_FIRST_WIDE: Final = "\u2e80"
_LETTERS_OF_A_WIDE_SIGN: Final = 3
"""One Chinese or Japanese sign says about as much as three letters of an alphabet."""
_CITATION = re.compile(
    r"\b(?:ISBN|ISSN|OCLC|LCCN|PMID|ed\.|eds\.|hrsg\.|vol\. ?\d|pp?\. ?\d|s\. ?\d|стр?\. ?\d)|\bdoi:|https?://|"
    r"[(（]\d{4}[a-z]?[)）]|[,.:] \d{4}[a-z]?[.,;]|(?:, | )\d{4}\.?$",
    re.IGNORECASE,
)
"""What a line of a bibliography holds that is written without a bullet."""


def without_empty_sections(paragraphs: list[tuple[int, str]]) -> list[str]:
    """Return the texts, less the headings that nothing follows.

    Args:
        paragraphs: Level of a heading or 0, and text.
    """
    kept: list[str] = []
    following = 1  # level of the next heading that stays; prose follows every heading above it
    for level, text in reversed(paragraphs):
        if level == 0:
            following = 7
        elif level >= following:
            continue
        else:
            following = level
        kept.append(text)
    return kept[::-1]


def is_apparatus(marked: str) -> bool:
    """Whether a closing section holds lists and references rather than prose.

    Args:
        marked: Its text with the marks of :mod:`megatron_pz.wikitext.marks`; references and templates are gone.
    """
    prose = listed = 0
    for line in marked.split("\n"):
        line = line.lstrip(" \t\x01\x02")
        if line.startswith(HEADING):
            continue
        if line.startswith((ITEM, INDENT, ROW)) or _CITATION.search(line):
            listed += _letters(line)
        else:
            prose += _letters(line)
    return prose < _LEAST_PROSE or prose <= listed


def _letters(text: str) -> int:
    if text.isascii() or max(text) < _FIRST_WIDE:
        return sum(map(str.isalnum, text))
    return sum(_LETTERS_OF_A_WIDE_SIGN if sign >= _FIRST_WIDE else 1 for sign in text if sign.isalnum())
