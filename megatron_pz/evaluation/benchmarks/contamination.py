"""Find the benchmark questions that occur in a training corpus.

A question is contaminated if a passage contains 13 consecutive words of it, ignoring case and punctuation (GPT-3,
arXiv 2005.14165, appendix C), as in preprocessing (:mod:`megatron_pz.wikipedia.filters.decontamination`). A question
of 8 to 12 words is contaminated if it occurs as a whole; shorter questions are not searched for. Options are ignored.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from megatron_pz.wikipedia.filters.decontamination import SHORTEST, HashSet
from megatron_pz.wikipedia.filters.word_ngrams import ngram_hashes, normalised_words

WORDS = 13


@dataclass(frozen=True)
class Contamination:
    """Overlap of one benchmark with a training corpus."""

    corpus: tuple[str, ...]
    """Names of the corpora, without their folders."""
    passages: int
    words: int
    """Number of consecutive words that make an overlap."""
    questions: tuple[str, ...]
    """Identifiers of the questions that overlap."""
    too_short: int
    """Number of questions of fewer than 8 words, which cannot be searched for."""


class QuestionIndex:
    """Records which of a list of texts share an n-gram with the passages read so far."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._length: list[int] = []
        self._ngrams: list[np.ndarray] = []
        for text in texts:
            normalised = normalised_words(text)
            length = min(normalised.count(b" ") + 1, WORDS)
            usable = length >= SHORTEST
            self._length.append(length if usable else 0)
            self._ngrams.append(ngram_hashes(normalised, [length])[0] if usable else np.empty(0, np.uint64))
        self._known = {
            length: HashSet(
                np.concatenate([own for own, each in zip(self._ngrams, self._length, strict=True) if each == length])
            )
            for length in sorted(set(self._length) - {0})
        }
        self._seen: set[int] = set()

    def too_short(self) -> list[bool]:
        """Return for each text whether it is too short to be searched for."""
        return [length == 0 for length in self._length]

    def read(self, passages: Iterable[str]) -> None:
        """Search passages for the texts."""
        lengths = list(self._known)
        for passage in passages:
            for known, hashes in zip(
                self._known.values(), ngram_hashes(normalised_words(passage), lengths), strict=True
            ):
                self._seen.update(known.common(hashes).tolist())

    def overlapping(self) -> list[bool]:
        """Return for each text whether a passage read so far overlaps with it."""
        seen = np.array(sorted(self._seen), dtype=np.uint64)
        return [bool(np.isin(own, seen).any()) for own in self._ngrams]
