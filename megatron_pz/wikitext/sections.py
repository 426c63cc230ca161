"""Sections of an article's text."""

from __future__ import annotations


def without_empty_sections(paragraphs: list[tuple[int, str]]) -> list[str]:
    """The texts, less the headings that nothing follows.

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
