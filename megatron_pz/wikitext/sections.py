"""Recognize closing sections, empty sections and citations in an article's text."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping

_CITATION = re.compile(
    r"\b(?:ISBN|ISSN|OCLC|LCCN|PMID|ed\.|eds\.|hrsg\.|vol\. ?\d|pp?\. ?\d|s\. ?\d|стр?\. ?\d)|\bdoi:|https?://",
    re.IGNORECASE,
)
"""Matches text that identifies a bibliography line without a bullet."""
_YEAR_OF_A_BOOK = re.compile(
    r"[(（]\d{4}[a-z]?[)）](?!\s*[a-zß-öø-ÿа-яё\u3040-\u9fff])|(?<!\d)[,.:] \d{4}[a-z]?[.,;]"
    r"|(?:, |\b[^\W\d_a-zß-öø-ÿа-яё][\w.-]*+ )\d{4}\.?$"
)
"""Matches a year after authors, a place or a publisher, as in a bibliography. Prose may contain one, too."""
_WORDS_OF_A_BOOK = 25
"""A longer line (in words) counts as a bibliography entry only with further evidence."""


_JOINTS = re.compile(
    r"\s*[,/・、，;&+]\s*|\s+(?:and|und|et|y|e|ed|и|та|i|en|og|och|ja|ve|و|और)\s+|\s+و|[와과]\s+"
    r"|\s*(?:和|与|與|及び|および|及|と|และ)\s*"
)
"""Matches the text between two names in a heading: "Notes and sources"."""


@functools.lru_cache(maxsize=4096)
def is_closing_heading(heading: str, names: frozenset[str]) -> bool:
    """Return whether a heading consists of one or several of the casefolded names of closing sections."""
    name = heading.casefold().strip(": ")
    if name in names:
        return True
    parts = _JOINTS.split(name)
    return len(parts) > 1 and names.issuperset(parts)


def without_empty_sections(texts: list[str], levels: Mapping[int, int]) -> list[str]:
    """Return the texts without the headings of empty sections.

    Args:
        texts: Headings and paragraphs.
        levels: Levels of the headings, by index.
    """
    kept: list[str] = []
    following = 1  # level of the next kept heading; every heading above it is followed by prose
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
    """Return whether a line without a bullet looks like a bibliography entry."""
    if _CITATION.search(line):
        return True
    return _YEAR_OF_A_BOOK.search(line) is not None and len(line.split()) <= _WORDS_OF_A_BOOK
