"""What one job leaves on disk, and how the shards of all jobs become a corpus.

A shard holds the documents of one job and one split, numbered from 0: ``.bin``, the lengths of its sequences, and its
rows of the Parquet sidecar. Shards join by concatenation in the order of the jobs, with rebased numbers, so the result
does not depend on which worker made them or when.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from megatron_pz.corpus.indexed_dataset import append_file, write_index, write_tokens
from megatron_pz.corpus.manifest import DOCUMENTS_SCHEMA
from megatron_pz.wikipedia.articles import Article


@dataclass(frozen=True)
class Totals:
    """Size of a shard or of a corpus."""

    documents: int = 0
    passages: int = 0
    tokens: int = 0

    def __add__(self, other: Totals) -> Totals:
        return Totals(self.documents + other.documents, self.passages + other.passages, self.tokens + other.tokens)


class ShardWriter:
    """Collects the documents of one shard and writes them at once. Files: ``<stem>.bin``, ``.npy``, ``.parquet``."""

    def __init__(self, stem: Path, dtype: np.dtype) -> None:
        self._stem, self._dtype = stem, dtype
        self._rows: list[dict[str, object]] = []
        self._lengths: list[int] = []
        self._offset = 0
        self._bin = stem.with_suffix(".bin").open("wb")

    def add(self, article: Article, sequences: Sequence[np.ndarray], words: Sequence[int]) -> None:
        """Add an article with the token ids and the numbers of words of its passages."""
        lengths = [len(sequence) for sequence in sequences]
        self._rows.append(
            {
                "document": len(self._rows),
                "page_id": article.page_id,
                "revision_id": article.revision_id,
                "title": article.title,
                "url": article.url,
                "offset": self._offset,
                "first_passage": len(self._lengths),
                "passages": len(lengths),
                "tokens": sum(lengths),
                "words": list(words),
            }
        )
        write_tokens(self._bin, self._dtype, sequences)
        self._lengths += lengths
        self._offset += sum(lengths) * self._dtype.itemsize

    def finish(self) -> Totals:
        self._bin.close()
        np.save(self._stem.with_suffix(".npy"), np.asarray(self._lengths, dtype=np.int32))
        table = pa.Table.from_pylist(self._rows, schema=DOCUMENTS_SCHEMA)
        pq.write_table(table, self._stem.with_suffix(".parquet"))
        return Totals(len(self._rows), len(self._lengths), sum(self._lengths))


def join_shards(
    stems: Sequence[Path], prefix: Path, dtype: np.dtype, dropped: Mapping[int, np.ndarray] | None = None
) -> Totals:
    """Write ``<prefix>.bin``, ``.idx`` and ``.parquet`` from shards, and remove them one by one.

    Args:
        stems: The shards, in order.
        prefix: Path without suffix.
        dtype: Of the token ids.
        dropped: Documents to leave out: position in ``stems`` -> their numbers within that shard, ascending.
    """
    dropped = dropped or {}
    totals = Totals()
    lengths: list[np.ndarray] = [np.empty(0, dtype=np.int32)]
    passages: list[np.ndarray] = [np.empty(0, dtype=np.int32)]
    with (
        prefix.with_name(f"{prefix.name}.bin").open("wb") as tokens,
        pq.ParquetWriter(prefix.with_name(f"{prefix.name}.parquet"), DOCUMENTS_SCHEMA, compression="zstd") as rows,
    ):
        for position, stem in enumerate(stems):
            table, shard_lengths = _append_shard(stem, tokens, dtype, dropped.get(position))
            if table.num_rows:
                rows.write_table(_rebased(table, totals, dtype))
            lengths.append(shard_lengths)
            passages.append(table["passages"].to_numpy())
            totals += Totals(table.num_rows, len(shard_lengths), int(shard_lengths.sum(dtype=np.int64)))
            for suffix in (".bin", ".npy", ".parquet"):
                stem.with_suffix(suffix).unlink()
    index = prefix.with_name(f"{prefix.name}.idx")
    write_index(index, dtype, np.concatenate(lengths), np.concatenate(passages))
    return totals


def _append_shard(
    stem: Path, tokens: BinaryIO, dtype: np.dtype, dropped: np.ndarray | None
) -> tuple[pa.Table, np.ndarray]:
    """Append a shard's tokens; its rows and the lengths of its passages, as if the dropped documents never were."""
    table, lengths = pq.read_table(stem.with_suffix(".parquet")), np.load(stem.with_suffix(".npy"))
    if dropped is None or not len(dropped):
        append_file(stem.with_suffix(".bin"), tokens)
        return table, lengths
    kept = np.ones(table.num_rows, dtype=bool)
    kept[dropped] = False
    kept_passages = np.repeat(kept, table["passages"].to_numpy())
    ids = np.fromfile(stem.with_suffix(".bin"), dtype=dtype)
    tokens.write(ids[np.repeat(kept_passages, lengths)].tobytes())
    table = table.filter(pa.array(kept))
    for column, counts, unit in (("first_passage", "passages", 1), ("offset", "tokens", dtype.itemsize)):
        before = np.cumsum(table[counts].to_numpy(), dtype=np.int64) - table[counts].to_numpy()
        table = _with_column(table, column, pa.array(before * unit))
    return _with_column(table, "document", pa.array(np.arange(table.num_rows))), lengths[kept_passages]


def _rebased(table: pa.Table, before: Totals, dtype: np.dtype) -> pa.Table:
    for column, shift in (
        ("document", before.documents),
        ("first_passage", before.passages),
        ("offset", before.tokens * dtype.itemsize),
    ):
        table = _with_column(table, column, pc.add(table[column], shift))
    return table


def _with_column(table: pa.Table, name: str, values: pa.Array) -> pa.Table:
    return table.set_column(table.schema.get_field_index(name), DOCUMENTS_SCHEMA.field(name), values)
