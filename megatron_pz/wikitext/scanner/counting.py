"""Counting words."""

from __future__ import annotations

import re

try:
    import cython
except ImportError:
    from megatron_pz.wikitext import no_cython as cython

_WORD = re.compile(r"[^ \n]+")


def words_of(text: str) -> int:
    """Words of a text: what spaces and newlines, the only white space in an article, set apart."""
    if cython.compiled:
        return word_starts(text)  # type: ignore[name-defined] # noqa: F821 - in counting.pxd
    return len(_WORD.findall(text))
