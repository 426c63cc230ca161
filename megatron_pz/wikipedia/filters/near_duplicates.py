"""Find articles that nearly repeat an earlier one, by MinHash signatures of their word 5-grams and LSH.

Workers compute signatures (with rensa), and the parent compares them; see ``duplicates``. A signature has 128 slots.
The share of equal slots estimates the Jaccard similarity of the 5-grams to about 4 percentage points. Two texts become
candidates if all slots of one band are equal. The width of a band is chosen so that texts at the threshold become
candidates in nine of ten cases.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from megatron_pz.runtime.errors import BadInput
from megatron_pz.wikipedia.filters.sorted_keys import SortedKeys
from megatron_pz.wikipedia.filters.word_ngrams import ngram_hashes, normalised_words
from megatron_pz.wikipedia.tokenize.incremental_tokenization import PARAGRAPH_BREAK

SLOTS: Final = 128
SHINGLE_WORDS: Final = 5
_SEED: Final = 1
_RECALL: Final = 0.9
"""Minimum probability that two texts at the threshold share a band."""
_ROWS: Final = (16, 8, 4, 2)
"""Candidate numbers of slots per band, from the one with the fewest matches."""
_CHANCE: Final = 1 / 256
"""Probability that the low bytes of two different slots are equal."""
_FACTOR: Final = np.uint64(0x9E3779B97F4A7C15)


def rows_of(threshold: float) -> int:
    """Return the number of slots of a band for a similarity threshold.

    Raises :class:`BadInput` for a threshold that is invalid or too low for LSH with this many slots.
    """
    for rows in _ROWS:
        if 0 < threshold <= 1 and 1 - (1 - threshold**rows) ** (SLOTS // rows) >= _RECALL:
            return rows
    raise BadInput(f"--near-duplicates {threshold:g}: must be from 0.2 to 1, a similarity such as 0.8")


def signature_fields(threshold: float) -> list[tuple[str, str, tuple[int]]]:
    """Return the fields of a signature on disk: a key for each band, and the low byte of every slot."""
    return [("bands", "<u8", (SLOTS // rows_of(threshold),)), ("slots", "u1", (SLOTS,))]


class Signer:
    """Computes the signatures of articles.

    Args:
        threshold: Minimum similarity at which a later article is dropped.

    Raises:
        BadInput: rensa is missing, or the threshold is invalid.
    """

    def __init__(self, threshold: float) -> None:
        self._rows = rows_of(threshold)
        try:
            from rensa import RMinHash
        except ImportError:
            raise BadInput(f"--near-duplicates {threshold:g}: needs rensa; pip install rensa") from None
        self._digests: Any = RMinHash.digest_matrix_from_flat_token_hashes
        self._powers = _FACTOR ** np.arange(self._rows, dtype=np.uint64)

    def sign(self, paragraphs: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Return the values of :func:`signature_fields` for an article."""
        words = normalised_words(PARAGRAPH_BREAK.join(paragraphs))
        (shingles,) = ngram_hashes(words, [min(SHINGLE_WORDS, words.count(b" ") + 1)])
        ends = np.array([0, len(shingles)], dtype=np.uint64)
        slots = np.array(self._digests(shingles, ends, SLOTS, _SEED).to_rows()[0], dtype=np.uint64)
        bands = (slots.reshape(-1, self._rows) * self._powers).sum(axis=1, dtype=np.uint64)
        return bands, slots.astype(np.uint8)


class NearDuplicates:
    """Processes the signatures of a corpus once, in order, and keeps the first of similar articles.

    Among articles that share a band, only the first is stored for it, so the time is always linear in the number of
    articles. The memory is 12 bytes per band and 128 for the slots of every kept article; at a threshold of 0.8 (16
    bands) 320 bytes, or 2.2 GB for the seven million articles of the English Wikipedia.

    Args:
        threshold: Minimum similarity at which an article is dropped.
    """

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._bands = [SortedKeys(np.dtype(np.uint64)) for _ in range(SLOTS // rows_of(threshold))]
        self._slots = np.empty((0, SLOTS), dtype=np.uint8)
        self._kept = 0

    def drop(self, signatures: np.ndarray, considered: np.ndarray) -> np.ndarray:
        """Return which of the next articles, in order, are similar to a kept one.

        Args:
            signatures: ``[articles]`` with :func:`signature_fields`.
            considered: ``[articles]`` bool; the others are dropped for another reason and are not compared.

        Returns:
            ``[articles]`` bool.
        """
        keys = signatures["bands"]
        known = np.stack([band.find(keys[:, number]) for number, band in enumerate(self._bands)], axis=1)
        goes = np.zeros(len(signatures), dtype=bool)
        new: dict[tuple[int, int], int] = {}  # (band, key) -> article among these
        for article in np.flatnonzero(considered & ((known >= 0).any(axis=1) | _shares_band(keys, considered))):
            fresh = [(band, int(keys[article, band])) for band in np.flatnonzero(known[article] < 0)]
            others = [new[key] for key in fresh if key in new]
            candidates = np.concatenate(
                (self._slots[known[article][known[article] >= 0]], signatures["slots"][sorted(set(others))])
            )
            goes[article] = self._is_like_one(signatures["slots"][article], candidates)
            if not goes[article]:
                for key in fresh:
                    new.setdefault(key, int(article))
        self._keep(signatures, known, considered & ~goes)
        return goes

    def _is_like_one(self, slots: np.ndarray, candidates: np.ndarray) -> bool:
        equal = (candidates == slots).mean(axis=1)
        return bool((equal >= self._threshold + (1 - self._threshold) * _CHANCE).any())

    def _keep(self, signatures: np.ndarray, known: np.ndarray, kept: np.ndarray) -> None:
        end = self._kept + int(kept.sum())
        if end > len(self._slots):
            self._slots = np.concatenate((self._slots, np.empty((end, SLOTS), dtype=np.uint8)))
        self._slots[self._kept : end] = signatures["slots"][kept]
        numbers = np.cumsum(kept) - 1 + self._kept
        for number, band in enumerate(self._bands):
            new = kept & (known[:, number] < 0)
            band.add(signatures["bands"][new, number], numbers[new])
        self._kept = end


def _shares_band(keys: np.ndarray, considered: np.ndarray) -> np.ndarray:
    """Return which articles share the key of a band with another considered article."""
    shares = np.zeros(len(keys), dtype=bool)
    for band in keys.T:
        _, inverse, counts = np.unique(band[considered], return_inverse=True, return_counts=True)
        shares[np.flatnonzero(considered)[counts[inverse] > 1]] = True
    return shares
