"""Sections of an article's text."""

from __future__ import annotations

import re
from collections.abc import Mapping

_CITATION = re.compile(
    r"\b(?:ISBN|ISSN|OCLC|LCCN|PMID|ed\.|eds\.|hrsg\.|vol\. ?\d|pp?\. ?\d|s\. ?\d|стр?\. ?\d)|\bdoi:|https?://|"
    r"[(（]\d{4}[a-z]?[)）]|[,.:] \d{4}[a-z]?[.,;]|(?:, | )\d{4}\.?$",
    re.IGNORECASE,
)
"""Matches what tells a line of a bibliography that is written without a bullet."""


def without_empty_sections(texts: list[str], levels: Mapping[int, int]) -> list[str]:
    """Return the texts, less the headings that nothing follows.

    Args:
        texts: Headings and paragraphs.
        levels: Levels of the headings, by index.
    """
    kept: list[str] = []
    following = 1  # level of the next heading that stays; prose follows every heading above it
    for index in reversed(range(len(texts))):
        level = levels.get(index, 0)
        if level == 0:
            following = 7
        elif level >= following:
            continue
        else:
            following = level
        kept.append(texts[index])
    return kept[::-1]


def is_citation(line: str) -> bool:
    """Return whether a line without a bullet looks like one of a bibliography."""
    return _CITATION.search(line) is not None
