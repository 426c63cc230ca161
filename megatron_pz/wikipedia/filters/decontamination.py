"""Find passages that overlap with benchmark questions by word n-grams, so that no evaluation sees its own answers.

As in GPT-3 (arXiv 2005.14165, appendix C), an overlap is 13 consecutive words, ignoring case and punctuation. A
question of 8 to 12 words overlaps if it occurs as a whole. Shorter questions are too common to search for and are only
counted.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from megatron_pz.corpus.manifest import file_sha256
from megatron_pz.runtime.errors import BadInput
from megatron_pz.wikipedia.filters.word_ngrams import ngram_hashes, normalised_words
from megatron_pz.wikipedia.tokenize.incremental_tokenization import PARAGRAPH_BREAK

SHORTEST: Final = 8
"""Number of words of the shortest text that is searched for."""
_ROOM: Final = 16
"""Slots of the table per hash: one n-gram in 16 passes it by chance and needs the binary search."""
_SMALLEST_TABLE: Final = 1 << 16


@dataclass(frozen=True)
class BenchmarkFile:
    """The identity and size of one benchmark file."""

    name: str
    sha256: str
    records: int
    too_short: int
    """Records without a text of :data:`SHORTEST` words, which cannot be searched for."""


class HashSet:
    """A set of 64-bit hashes with batched lookup: a table on the low bits, then a binary search."""

    def __init__(self, hashes: np.ndarray) -> None:
        self._sorted = np.unique(hashes)
        size = 1 << max((_ROOM * len(self._sorted)).bit_length(), _SMALLEST_TABLE.bit_length())
        self._mask = np.uint64(size - 1)
        self._table = np.zeros(size, dtype=bool)
        self._table[self._sorted & self._mask] = True

    def common(self, hashes: np.ndarray) -> np.ndarray:
        """Return the hashes that are in the set, in their order."""
        likely = hashes[self._table[hashes & self._mask]]
        if not len(likely):
            return likely
        places = np.minimum(np.searchsorted(self._sorted, likely), len(self._sorted) - 1)
        return likely[self._sorted[places] == likely]


class Decontaminator:
    """Holds the n-grams of benchmark files.

    Args:
        paths: ``.jsonl`` and ``.parquet`` (all texts of a record, including nested ones), ``.csv`` (with a header; all
            columns), ``.txt`` (one question per line).
        words: Number of consecutive words that make an overlap.

    Raises:
        BadInput: A file is missing, of another kind, damaged, or has no text to search for.
    """

    def __init__(self, paths: Sequence[str], words: int = 13) -> None:
        if words < SHORTEST:
            raise BadInput(f"--decontaminate-words {words}: must be at least {SHORTEST}")
        self.files: list[BenchmarkFile] = []
        hashes: dict[int, list[np.ndarray]] = {}
        for path in paths:
            self._read(path, words, hashes)
        self._sets = {length: HashSet(np.concatenate(found)) for length, found in sorted(hashes.items())}

    def overlaps(self, text: str) -> bool:
        """Return whether the text has an n-gram, or a whole short question, of the benchmarks."""
        found = ngram_hashes(normalised_words(text), list(self._sets))
        return any(len(known.common(hashes)) > 0 for known, hashes in zip(self._sets.values(), found, strict=True))

    def overlapping(self, texts: Sequence[str]) -> list[bool]:
        """Return which passages of an article overlap. One lookup for all suffices if none does, the usual case."""
        if not self.overlaps(PARAGRAPH_BREAK.join(texts)):
            return [False] * len(texts)
        return [self.overlaps(text) for text in texts]

    def _read(self, path: str, words: int, hashes: dict[int, list[np.ndarray]]) -> None:
        records = too_short = 0
        for texts in _records(path):
            records += 1
            usable = 0
            for normalised in map(normalised_words, texts):
                length = min(normalised.count(b" ") + 1, words)
                if length >= SHORTEST:
                    usable += 1
                    hashes.setdefault(length, []).extend(ngram_hashes(normalised, [length]))
            too_short += not usable
        if records == too_short:
            raise BadInput(f"--decontaminate {path}: none of its {records} records has a text of {SHORTEST} words")
        self.files.append(BenchmarkFile(Path(path).name, file_sha256(path), records, too_short))


def _records(path: str) -> Iterator[list[str]]:
    """Yield the texts of every record of a benchmark file."""
    readers = {".jsonl": _jsonl, ".txt": _txt, ".csv": _csv, ".parquet": _parquet}
    kind = Path(path).suffix.lower()
    if kind not in readers:
        raise BadInput(f"--decontaminate {path}: is none of {', '.join(readers)}")
    try:
        yield from readers[kind](path)
    except OSError as error:
        raise BadInput(f"--decontaminate {path}: cannot be read ({error.strerror or error})") from None
    except (ValueError, csv.Error) as error:  # includes the errors of decoding, JSON and pyarrow
        raise BadInput(
            f"--decontaminate {path}: is damaged or no {kind[1:]} ({' '.join(str(error).split())})"
        ) from None


def _jsonl(path: str) -> Iterator[list[str]]:
    with Path(path).open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                try:
                    yield list(_texts(json.loads(line)))
                except ValueError as error:
                    raise ValueError(f"line {number}: {error}") from None


def _txt(path: str) -> Iterator[list[str]]:
    with Path(path).open(encoding="utf-8-sig") as file:
        yield from ([line] for line in file if line.strip())


def _csv(path: str) -> Iterator[list[str]]:
    with Path(path).open(encoding="utf-8-sig", newline="") as file:
        for record in csv.DictReader(file):
            yield list(_texts(list(record.values())))


def _parquet(path: str) -> Iterator[list[str]]:
    import pyarrow.parquet as pq

    for batch in pq.ParquetFile(path).iter_batches():
        for record in batch.to_pylist():
            yield list(_texts(record))


def _texts(value: Any) -> Iterator[str]:
    """Yield all strings in a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)
