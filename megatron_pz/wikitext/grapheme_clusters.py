"""Recognize characters that no boundary separates, by the grapheme clusters of UAX #29."""

from __future__ import annotations

from typing import Final

import regex

EXTENDS: Final = regex.compile(r"[\p{M}\p{GCB=Extend}\p{GCB=SpacingMark}\u200d]")
"""Matches a character that belongs to the cluster of the preceding one: marks, skin tones, tags of flags."""
FIRST_MARK: Final = "\u0300"
"""No character before this one extends another; the comparison is faster than the pattern."""
_FLAG_LETTERS_BEFORE: Final = regex.compile(r"(?r)\p{Regional_Indicator}+")


def is_inside_flag(text: str, position: int) -> bool:
    """Return whether the letters around an offset are a pair that makes a flag."""
    if not "\U0001f1e6" <= text[position] <= "\U0001f1ff":
        return False
    letters = _FLAG_LETTERS_BEFORE.match(text, 0, position)
    return letters is not None and len(letters[0]) % 2 == 1
