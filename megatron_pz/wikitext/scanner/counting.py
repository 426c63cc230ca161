"""Count words."""

from __future__ import annotations

import re

try:
    import cython
except ImportError:
    from megatron_pz.wikitext import no_cython as cython

_WORD = re.compile(r"[^ \n]+")


def is_simply_spaced(text: str) -> bool:
    """Return whether the text certainly has only scripts with spaces between words, and no other white space."""
    if cython.compiled:
        return not may_be_special(text)  # type: ignore[name-defined] # noqa: F821 - in counting.pxd
    return False


def words_of(text: str) -> int:
    """Count the words of a text, separated by spaces and newlines, the only white space in an article."""
    if cython.compiled:
        return word_starts(text)  # type: ignore[name-defined] # noqa: F821 - in counting.pxd
    return len(_WORD.findall(text))
