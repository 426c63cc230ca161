"""Read and write Megatron's ``.bin/.idx`` format.

The files are byte for byte those of ``megatron.core.datasets.indexed_dataset.IndexedDatasetBuilder``, but written in
bulk: the builder needs a call and a tensor for every sequence. ``.bin`` holds all token ids. ``.idx`` holds, in
little-endian order: ``MMIDIDX`` and two zero bytes, u64 version 1, u8 dtype code, u64 number of sequences N, u64 number
of documents + 1, int32[N] lengths in tokens, int64[N] byte offsets, int64[documents + 1] numbers of the first sequence
of every document, followed by N.
"""

from __future__ import annotations

import glob
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from megatron_pz.runtime.errors import BadInput

MAGIC = b"MMIDIDX\x00\x00"
_VERSION = 1
_DTYPE_CODES: dict[int, type[np.generic]] = {4: np.int32, 8: np.uint16}
_LARGEST_UINT16_VOCABULARY = 65_500  # DType.optimal_dtype of Megatron
_HEADER = struct.Struct("<QBQQ")
_COPY_BYTES = 1 << 24
_BLOCK = 1 << 20
"""Sequences that are checked at a time."""


def token_dtype(id_range: int) -> np.dtype:
    """Choose uint16 if all token ids fit, otherwise int32, with Megatron's bound.

    Args:
        id_range: One more than the highest id. A vocabulary with gaps has fewer entries.
    """
    return np.dtype(np.uint16 if id_range < _LARGEST_UINT16_VOCABULARY else np.int32)


def write_index(path: Path, dtype: np.dtype, lengths: np.ndarray, sequences_per_document: np.ndarray) -> None:
    """Write an ``.idx`` file.

    Args:
        path: The file.
        dtype: Type of the token ids, uint16 or int32.
        lengths: Number of tokens of every sequence.
        sequences_per_document: Number of sequences of every document; they sum to the number of lengths.
    """
    if int(sequences_per_document.sum()) != len(lengths):
        raise ValueError(f"{int(sequences_per_document.sum())} sequences in documents, {len(lengths)} lengths")
    code = next(code for code, known in _DTYPE_CODES.items() if known == dtype)
    offsets = np.zeros(len(lengths), dtype="<i8")
    np.cumsum(lengths[:-1], dtype=np.int64, out=offsets[1:])
    offsets *= dtype.itemsize
    documents = np.zeros(len(sequences_per_document) + 1, dtype="<i8")
    np.cumsum(sequences_per_document, dtype=np.int64, out=documents[1:])
    with path.open("wb") as file:
        file.write(MAGIC + _HEADER.pack(_VERSION, code, len(lengths), len(documents)))
        file.write(lengths.astype("<i4").tobytes())
        file.write(offsets.tobytes())
        file.write(documents.tobytes())


def write_tokens(file: BinaryIO, dtype: np.dtype, sequences: Sequence[np.ndarray | Sequence[int]]) -> None:
    """Append the ids of sequences to an open ``.bin`` file."""
    if sequences:
        file.write(np.concatenate(sequences).astype(dtype.newbyteorder("<")).tobytes())


def append_file(source: Path, file: BinaryIO) -> None:
    """Append a shard's ``.bin`` to an open file; concatenation joins the token data of two files."""
    with source.open("rb") as shard:
        while block := shard.read(_COPY_BYTES):
            file.write(block)


def highest_token_id(tokens: np.ndarray) -> int:
    """Return the highest token id, or -1 if there are none. A mapped file is read block by block."""
    blocks = range(0, len(tokens), _COPY_BYTES)
    return max((int(tokens[first : first + _COPY_BYTES].max()) for first in blocks), default=-1)


class IndexedTokens:
    """A memory-mapped ``.bin/.idx`` pair with random access to its sequences; its consistency is checked on opening.

    Raises:
        BadInput: one of the files is missing, the ``.idx`` is foreign, truncated or damaged, or the ``.bin`` has
            the wrong size.
    """

    def __init__(self, prefix: str) -> None:
        index, tokens = Path(f"{prefix}.idx"), Path(f"{prefix}.bin")
        if not index.exists() and not tokens.exists():
            raise BadInput(f"{prefix}: no {prefix}.bin and .idx; {_way_to_a_corpus(prefix)}")
        for path in (index, tokens):
            if not path.exists():
                other = tokens if path == index else index
                raise BadInput(f"{path}: is missing beside {other}; preprocess the corpus again")
        self.dtype, self.lengths, self.offsets, self.documents = _read_index(index)
        expected = int(self.lengths.sum(dtype=np.int64)) * self.dtype.itemsize
        size = tokens.stat().st_size
        if size != expected:
            raise BadInput(f"{tokens}: has {size} bytes where its .idx names {expected}; preprocess the corpus again")
        if not self._is_contiguous():
            raise BadInput(f"{index}: names sequences that do not follow one another; preprocess the corpus again")
        self._tokens = np.memmap(tokens, dtype=self.dtype, mode="r") if size else np.empty(0, self.dtype)

    def _is_contiguous(self) -> bool:
        """Return whether every sequence begins where the one before ends, and every document at a sequence."""
        begin = 0
        for first in range(0, len(self), _BLOCK):
            lengths, offsets = self.lengths[first : first + _BLOCK], self.offsets[first : first + _BLOCK]
            ends = begin + np.cumsum(lengths, dtype=np.int64) * self.dtype.itemsize
            if offsets[0] != begin or not np.array_equal(offsets[1:], ends[:-1]) or lengths.min() < 0:
                return False
            begin = int(ends[-1])
        bounds = self.documents
        return bool(bounds.size and bounds[0] == 0 and bounds[-1] == len(self) and (np.diff(bounds) >= 0).all())

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, sequence: int) -> np.ndarray:
        """Return the token ids of a sequence, a view into the file."""
        start = int(self.offsets[sequence]) // self.dtype.itemsize
        return self._tokens[start : start + int(self.lengths[sequence])]

    def highest_id(self) -> int:
        """Return the highest token id, which requires reading every token."""
        return highest_token_id(self._tokens)


def _way_to_a_corpus(prefix: str) -> str:
    """Suggest a remedy for a prefix without files; most often the end of the prefix is missing."""
    begins = Path(prefix.removesuffix(".bin").removesuffix(".idx"))
    there = sorted(str(path.with_suffix("")) for path in begins.parent.glob(f"{glob.escape(begins.name)}*.idx"))
    if there:
        return f"did you mean {' or '.join(there[:3])}?"
    return "give the prefix of a corpus that tools/preprocess_wikipedia.py made"


def _read_index(path: Path) -> tuple[np.dtype, np.ndarray, np.ndarray, np.ndarray]:
    damaged = f"{path}: is not a Megatron index, or is truncated; preprocess the corpus again"
    data = path.read_bytes() if path.stat().st_size < 1 << 20 else np.memmap(path, dtype=np.uint8, mode="r")
    head = len(MAGIC) + _HEADER.size
    if len(data) < head or bytes(data[: len(MAGIC)]) != MAGIC:
        raise BadInput(damaged)
    version, code, sequences, documents = _HEADER.unpack(bytes(data[len(MAGIC) : head]))
    if version != _VERSION or code not in _DTYPE_CODES:
        raise BadInput(f"{path}: version {version} with dtype code {code} is unknown; preprocess the corpus again")
    if len(data) < head + sequences * 12 + documents * 8:
        raise BadInput(damaged)
    lengths = np.frombuffer(data, "<i4", sequences, head)
    offsets = np.frombuffer(data, "<i8", sequences, head + 4 * sequences)
    return np.dtype(_DTYPE_CODES[code]), lengths, offsets, np.frombuffer(data, "<i8", documents, head + 12 * sequences)
