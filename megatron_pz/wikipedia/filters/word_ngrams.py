"""Hash all word n-grams of a text, vectorised, to measure the overlap between texts."""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Final

import numpy as np

_BASE: Final = 0x9E3779B97F4A7C15
"""Base of the hash: odd, so that it has an inverse modulo 2^64; otherwise arbitrary (2^64 over the golden ratio)."""
_SPREAD: Final = np.uint64(0xD6E8FEB86659FD93)
_SHIFT: Final = np.uint64(32)
_SMALLEST_TABLE: Final = 16

_BEYOND_ASCII: Final = re.compile(r"[^\x00-\x7f]+")
_FIRST_MARK: Final = "\u0300"
"""The first character that combines with the one before it."""
_OFTEN_SEEN: Final = 8
"""Characters of the longest part that is kept folded."""
_NOT_IN_WORDS: Final = re.compile(r"[^\w\x00-\x7f]+")
_UNSPACED: Final = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)
"""Thai, Lao, Burmese, Khmer, kana and Han."""
_ASCII: Final = bytes(
    ord(chr(code).lower()) if chr(code) in string.ascii_letters + string.digits or code > 127 else ord(" ")
    for code in range(128)
) + bytes(range(128, 256))


@lru_cache(maxsize=1)  # two filters use the words of one article
def normalised_words(text: str) -> bytes:
    """Return the words in UTF-8 with single spaces between them, without case, punctuation and compatibility forms.

    In scripts without spaces between words, each character is a word.
    """
    if not text.isascii():
        text = "".join(_folded_parts(text))
    spaced = np.frombuffer(text.encode("utf-8", "surrogatepass").translate(_ASCII), dtype=np.uint8)
    is_space = spaced == ord(" ")
    return spaced[~is_space | ~np.roll(is_space, 1)].tobytes().strip()


def _folded_parts(text: str) -> Iterator[str]:
    """Yield the parts of a text; fold those beyond ASCII, which in most languages are few and recur."""
    done = 0
    for part in _BEYOND_ASCII.finditer(text):
        start, end = part.span()
        if text[start] >= _FIRST_MARK:
            start = max(start - 1, 0)  # it may combine with the letter before it, unlike ASCII characters
        yield text[done:start]
        folded = text[start:end]
        yield _fold_again(folded) if len(folded) <= _OFTEN_SEEN else _fold(folded)
        done = end
    yield text[done:]


def _fold(text: str) -> str:
    words = _NOT_IN_WORDS.sub(" ", unicodedata.normalize("NFKC", text).casefold())
    return _UNSPACED.sub(r" \g<0> ", words)


_fold_again = lru_cache(maxsize=1 << 14)(_fold)


def ngram_hashes(words: bytes, lengths: Sequence[int]) -> list[np.ndarray]:
    """Return 64-bit hashes of all n-grams in text order: for every length, uint64 ``[max(words - length + 1, 0)]``.

    These are polynomial hashes modulo 2^64 by prefix sums; the cost hardly depends on the lengths.

    Args:
        words: Result of :func:`normalised_words`.
        lengths: Numbers of words of an n-gram.
    """
    text = np.frombuffer(words, dtype=np.uint8)
    powers, inverses = _power_tables(1 << max(len(text).bit_length(), _SMALLEST_TABLE))
    prefix = np.zeros(len(text) + 1, dtype=np.uint64)
    np.cumsum(text * powers[: len(text)], out=prefix[1:])
    spaces = np.flatnonzero(text == ord(" "))
    starts, ends = np.concatenate(([0], spaces + 1)), np.concatenate((spaces, [len(text)]))
    count = len(starts) if words else 0
    return [
        _hashes(prefix, inverses, starts[: max(count - length + 1, 0)], ends[length - 1 : count]) for length in lengths
    ]


def _hashes(prefix: np.ndarray, inverses: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Compute the hashes of the ranges ``[starts, ends)`` of the text."""
    hashes = (prefix[ends] - prefix[starts]) * inverses[starts]
    return (hashes ^ (hashes >> _SHIFT)) * _SPREAD


@lru_cache(maxsize=4)
def _power_tables(length: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the powers 0, 1, … of the base and of its inverse."""
    bases = (_BASE, pow(_BASE, -1, 1 << 64))
    tables = [np.full(length, base, dtype=np.uint64) for base in bases]
    for table in tables:
        table[0] = 1
        np.cumprod(table, out=table)
    return tables[0], tables[1]
