"""Which articles repeat an earlier one. Decided over the whole corpus, in the order of the inputs.

A worker leaves a fingerprint of every document beside its shards. When all jobs are done, one :class:`Deduplicator`
sees the fingerprints in the order of the inputs, so what is dropped does not depend on the number of workers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Final, Literal, get_args

import numpy as np

DuplicateReason = Literal["exact_duplicate"]
DUPLICATE_REASONS: Final[tuple[str, ...]] = get_args(DuplicateReason)

FINGERPRINT: Final = np.dtype([("digest", "V16")])
"""What is kept of a document's text: blake2b-128 of its normalised paragraphs."""


def fingerprint(paragraphs: Sequence[str]) -> tuple[object, ...]:
    """One record of dtype :data:`FINGERPRINT`. Case and white space do not count."""
    normalised = " ".join(" ".join(paragraphs).split()).casefold()
    return (hashlib.blake2b(normalised.encode("utf-8", "surrogatepass"), digest_size=16).digest(),)


class Deduplicator:
    """Sees the documents of a corpus once, in order, and keeps the first of every kind."""

    def __init__(self) -> None:
        self._seen: set[bytes] = set()

    def drop_reasons(self, fingerprints: np.ndarray) -> list[DuplicateReason | None]:
        """Of each document of one job: why it goes, or None for one that stays.

        Args:
            fingerprints: ``[documents]`` of dtype :data:`FINGERPRINT`, the next ones in order.
        """
        return [self._drop_reason(bytes(digest)) for digest in fingerprints["digest"]]

    def _drop_reason(self, digest: bytes) -> DuplicateReason | None:
        if digest in self._seen:
            return "exact_duplicate"
        self._seen.add(digest)
        return None
