"""Map tens of millions of keys to numbers, in little more memory than the keys themselves."""

from __future__ import annotations

import numpy as np

_GROWTH = 2


class SortedKeys:
    """Keys and their numbers in sorted runs of growing size, with batched lookup and insertion.

    The memory per key is its size plus 4 bytes, and briefly twice that while runs are merged. Each key is moved about
    log2(number of keys / batch size) times.

    Args:
        dtype: Dtype of the keys: an unsigned integer or fixed bytes (``S16``).
    """

    def __init__(self, dtype: np.dtype) -> None:
        self._dtype = dtype
        self._runs: list[tuple[np.ndarray, np.ndarray]] = []

    def find(self, keys: np.ndarray) -> np.ndarray:
        """Return the number of every key, int64 in the shape of the keys; -1 for missing keys."""
        numbers = np.full(len(keys), -1, dtype=np.int64)
        for known, known_numbers in self._runs:
            places = np.minimum(np.searchsorted(known, keys), len(known) - 1)
            found = known[places] == keys
            numbers[found] = known_numbers[places[found]]
        return numbers

    def add(self, keys: np.ndarray, numbers: np.ndarray) -> None:
        """Add keys that are not present yet. For repeated keys, the first number counts. Numbers are below 2^32."""
        keys, first = np.unique(keys.astype(self._dtype), return_index=True)
        if not len(keys):
            return
        self._runs.append((keys, numbers[first].astype(np.uint32)))
        while len(self._runs) > 1 and len(self._runs[-2][0]) < _GROWTH * len(self._runs[-1][0]):
            runs = [self._runs.pop(), self._runs.pop()]
            keys = np.concatenate([run[0] for run in runs])
            order = np.argsort(keys, kind="stable")
            self._runs.append((keys[order], np.concatenate([run[1] for run in runs])[order]))
