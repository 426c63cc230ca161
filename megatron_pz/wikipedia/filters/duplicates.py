"""Find articles that repeat an earlier one, over the whole corpus and in the order of the inputs.

A worker writes a fingerprint of every document beside its shards. When all jobs are done, one :class:`Deduplicator`
processes the fingerprints in the order of the inputs, so the result does not depend on the number of workers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Final, Literal, get_args

import numpy as np

from megatron_pz.wikipedia.filters.near_duplicates import NearDuplicates, Signer, signature_fields
from megatron_pz.wikipedia.filters.sorted_keys import SortedKeys

DuplicateReason = Literal["exact_duplicate", "near_duplicate"]
DUPLICATE_REASONS: Final[tuple[str, ...]] = get_args(DuplicateReason)

_DIGEST_BYTES = 16
_NORMALISED = bytes(range(256)).lower().replace(b"\n", b" ")
"""Replacement of each byte; white space in an article is already single spaces and newlines."""


class Fingerprinter:
    """Makes the fingerprints of a run's documents.

    Args:
        near_duplicates: Minimum similarity of word 5-grams (Jaccard) at which a document counts as a repetition; with
            0, only equal documents do.

    Raises:
        BadInput: rensa is needed but missing, or the similarity is invalid.
    """

    def __init__(self, near_duplicates: float = 0.0) -> None:
        self._near_duplicates = near_duplicates
        self._signer = Signer(near_duplicates) if near_duplicates else None
        self.dtype = np.dtype(
            [("digest", f"V{_DIGEST_BYTES}"), *(signature_fields(near_duplicates) if near_duplicates else [])]
        )
        """Type of a fingerprint on disk: blake2b-128 of the normalised paragraphs, and a near duplicate's signature."""

    def fingerprint(self, paragraphs: Sequence[str]) -> tuple[object, ...]:
        """Compute a document's record of :attr:`dtype`. Line breaks and the case of ASCII letters are ignored."""
        normalised = " ".join(paragraphs).encode("utf-8", "surrogatepass").translate(_NORMALISED)
        digest = hashlib.blake2b(normalised, digest_size=_DIGEST_BYTES).digest()
        return (digest, *(self._signer.sign(paragraphs) if self._signer else ()))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._near_duplicates,)


class Deduplicator:
    """Processes the documents of a corpus once, in order, and keeps the first of every set of duplicates.

    The memory is 20 bytes per kept document, 140 MB for the seven million of the English Wikipedia, and briefly twice
    that. Near duplicates need more, see :class:`~megatron_pz.wikipedia.filters.near_duplicates.NearDuplicates`.

    Args:
        near_duplicates: As for :class:`Fingerprinter`.
    """

    def __init__(self, near_duplicates: float = 0.0) -> None:
        self._digests = SortedKeys(np.dtype(f"S{_DIGEST_BYTES}"))
        self._near = NearDuplicates(near_duplicates) if near_duplicates else None

    def drop_reasons(self, fingerprints: np.ndarray) -> list[DuplicateReason | None]:
        """Return for each document of one job the reason to drop it, or None to keep it.

        Args:
            fingerprints: ``[documents]`` of :attr:`Fingerprinter.dtype`, the next ones in order.
        """
        digests = np.ascontiguousarray(fingerprints["digest"]).view(f"S{_DIGEST_BYTES}")
        is_first = np.zeros(len(digests), dtype=bool)
        is_first[np.unique(digests, return_index=True)[1]] = True
        is_first &= self._digests.find(digests) < 0
        self._digests.add(digests[is_first], np.zeros(int(is_first.sum()), dtype=np.uint32))
        reasons: list[DuplicateReason | None] = [None if first else "exact_duplicate" for first in is_first]
        if self._near is not None:
            for document in np.flatnonzero(self._near.drop(fingerprints, is_first)):
                reasons[document] = "near_duplicate"
        return reasons
