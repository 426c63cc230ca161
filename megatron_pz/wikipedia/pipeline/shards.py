"""Write the shards of a job, and join the shards of all jobs into a corpus.

A shard holds the documents of one job and one split, numbered from 0: ``.bin``, and their rows in an Arrow file. Shards
are concatenated in the order of the jobs, with rebased numbers, so that the result does not depend on the workers and
their timing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from megatron_pz.corpus.indexed_dataset import append_file, write_index, write_tokens
from megatron_pz.corpus.manifest import DOCUMENTS_SCHEMA
from megatron_pz.runtime.files import written_whole
from megatron_pz.wikipedia.read.articles import Article
from megatron_pz.wikipedia.tokenize.passages import PARAGRAPH_BREAK

_LENGTHS = pa.field("lengths", pa.list_(pa.int32()))  # tokens of every passage
_TEXT = pa.field("text", pa.large_string())
_BUFFERED_TOKENS = 1 << 20
_ROWS_A_GROUP = 1 << 14


@dataclass(frozen=True)
class Totals:
    """The size of a shard or of a corpus."""

    documents: int = 0
    passages: int = 0
    tokens: int = 0

    def __add__(self, other: Totals) -> Totals:
        return Totals(self.documents + other.documents, self.passages + other.passages, self.tokens + other.tokens)


class ShardWriter:
    """Collects the documents of one shard. :meth:`finish` completes the files ``<stem>.bin`` and ``<stem>.arrow``.

    Args:
        stem: Path without suffix.
        dtype: Dtype of the token ids.
        with_text: Also store the clean text of every document.
    """

    def __init__(self, stem: Path, dtype: np.dtype, with_text: bool = False) -> None:
        self._stem, self._dtype, self._with_text = stem, dtype, with_text
        self._columns: dict[str, list[object]] = {name: [] for name in shard_schema(with_text).names}
        self._totals = Totals()
        self._sequences: list[np.ndarray] = []
        self._buffered = 0
        self._files = contextlib.ExitStack()
        self._bin = self._files.enter_context(written_whole(stem.with_suffix(".bin")))

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, *exception: object) -> None:
        self._files.__exit__(*exception)  # type: ignore[arg-type]

    def add(self, article: Article, sequences: Sequence[np.ndarray], words: Sequence[int]) -> None:
        """Add an article with the token ids and the numbers of words of its passages."""
        lengths = [len(sequence) for sequence in sequences]
        tokens = sum(lengths)
        row = {
            "document": self._totals.documents,
            "page_id": article.page_id,
            "revision_id": article.revision_id,
            "title": article.title,
            "url": article.url,
            "offset": self._totals.tokens * self._dtype.itemsize,
            "first_passage": self._totals.passages,
            "passages": len(lengths),
            "tokens": tokens,
            "words": words,
            "lengths": lengths,
        }
        if self._with_text:
            row["text"] = PARAGRAPH_BREAK.join(article.paragraphs)
        for name, column in self._columns.items():
            column.append(row[name])
        self._totals += Totals(1, len(lengths), tokens)
        self._sequences += sequences
        self._buffered += tokens
        if self._buffered >= _BUFFERED_TOKENS:
            self._write_sequences()

    def finish(self) -> Totals:
        """Write the remaining data; the files are complete and on the disk when this returns."""
        self._write_sequences()
        self._files.close()
        schema = shard_schema(self._with_text)
        with (
            written_whole(self._stem.with_suffix(".arrow")) as file,
            pa.ipc.new_file(file, schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as rows,
        ):
            rows.write_table(pa.table(self._columns, schema=schema))
        return self._totals

    def _write_sequences(self) -> None:
        write_tokens(self._bin, self._dtype, self._sequences)
        self._sequences, self._buffered = [], 0


def shard_schema(with_text: bool) -> pa.Schema:
    """Return the columns of a shard's Arrow file."""
    schema = DOCUMENTS_SCHEMA.append(_LENGTHS)
    return schema.append(_TEXT) if with_text else schema


def shard_is_whole(stem: Path, totals: Totals, dtype: np.dtype) -> bool:
    """Return whether the files of a finished shard still exist."""
    tokens = stem.with_suffix(".bin")
    return (
        tokens.is_file()
        and tokens.stat().st_size == totals.tokens * dtype.itemsize
        and stem.with_suffix(".arrow").is_file()
    )


class RowGroups:
    """A Parquet file whose row groups are independent of the pieces in which it is written."""

    def __init__(self, path: Path, schema: pa.Schema, rows: int = _ROWS_A_GROUP) -> None:
        self._schema, self._rows = schema, rows
        self._writer = pq.ParquetWriter(path, schema, compression="zstd")
        self._waiting = schema.empty_table()

    def write(self, table: pa.Table) -> None:
        """Append the rows of a table that has at least the schema's columns."""
        self._waiting = pa.concat_tables([self._waiting, table.select(self._schema.names)])
        while self._waiting.num_rows >= self._rows:
            self._write_group(self._rows)

    def close(self) -> None:
        if self._waiting.num_rows:
            self._write_group(self._waiting.num_rows)
        self._writer.close()

    def _write_group(self, rows: int) -> None:
        self._writer.write_table(self._waiting.slice(0, rows).combine_chunks())
        self._waiting = self._waiting.slice(rows)


class TextWriter(Protocol):
    """Receives the clean text of a corpus as tables with the columns of a shard, in the corpus's order."""

    def write(self, table: pa.Table) -> None: ...


def join_shards(
    stems: Sequence[Path],
    prefix: Path,
    dtype: np.dtype,
    dropped: Mapping[int, np.ndarray] | None = None,
    export: TextWriter | None = None,
) -> Totals:
    """Write ``<prefix>.bin``, ``.idx`` and ``.parquet`` from shards, which are kept.

    Args:
        stems: The shards, in order.
        prefix: Path without suffix.
        dtype: Dtype of the token ids.
        dropped: Documents to leave out: their ascending numbers within a shard, by the shard's position in ``stems``.
        export: Receives the text of the documents.
    """
    dropped = dropped or {}
    totals = Totals()
    lengths: list[np.ndarray] = [np.empty(0, dtype=np.int32)]
    passages: list[np.ndarray] = [np.empty(0, dtype=np.int32)]
    sidecar = RowGroups(prefix.with_name(f"{prefix.name}.parquet"), DOCUMENTS_SCHEMA)
    with prefix.with_name(f"{prefix.name}.bin").open("wb") as tokens, contextlib.closing(sidecar) as rows:
        for position, stem in enumerate(stems):
            table = _append_shard(stem, tokens, dtype, dropped.get(position))
            if not table.num_rows:
                continue
            rows.write(_rebased(table, totals, dtype))
            if export is not None:
                export.write(table)
            lengths.append(_flat(table["lengths"]))
            passages.append(table["passages"].to_numpy())
            totals += Totals(table.num_rows, len(lengths[-1]), int(lengths[-1].sum(dtype=np.int64)))
    index = prefix.with_name(f"{prefix.name}.idx")
    write_index(index, dtype, np.concatenate(lengths), np.concatenate(passages))
    return totals


def _append_shard(stem: Path, tokens: BinaryIO, dtype: np.dtype, dropped: np.ndarray | None) -> pa.Table:
    """Append a shard's tokens, and return its rows renumbered without the dropped documents."""
    with pa.OSFile(str(stem.with_suffix(".arrow"))) as file:
        table = pa.ipc.open_file(file).read_all()
    if dropped is None or not len(dropped):
        append_file(stem.with_suffix(".bin"), tokens)
        return table
    kept = np.ones(table.num_rows, dtype=bool)
    kept[dropped] = False
    ids = np.fromfile(stem.with_suffix(".bin"), dtype=dtype)
    tokens.write(ids[np.repeat(kept, table["tokens"].to_numpy())].tobytes())
    # Table.filter would load pyarrow.compute, which takes longer than joining a small corpus.
    stretches = pairwise([-1, *dropped.tolist(), table.num_rows])
    table = pa.concat_tables([table.slice(begin + 1, end - begin - 1) for begin, end in stretches]).combine_chunks()
    for column, counts, unit in (("first_passage", "passages", 1), ("offset", "tokens", dtype.itemsize)):
        before = np.cumsum(table[counts].to_numpy(), dtype=np.int64) - table[counts].to_numpy()
        table = _with_column(table, column, pa.array(before * unit))
    return _with_column(table, "document", pa.array(np.arange(table.num_rows)))


def _rebased(table: pa.Table, before: Totals, dtype: np.dtype) -> pa.Table:
    for column, shift in (
        ("document", before.documents),
        ("first_passage", before.passages),
        ("offset", before.tokens * dtype.itemsize),
    ):
        table = _with_column(table, column, pa.array(table[column].to_numpy() + shift))
    return table


def _with_column(table: pa.Table, name: str, values: pa.Array) -> pa.Table:
    return table.set_column(table.schema.get_field_index(name), DOCUMENTS_SCHEMA.field(name), values)


def _flat(column: pa.ChunkedArray) -> np.ndarray:
    """Return the elements of all lists, without loading pyarrow.compute as pyarrow's own function does."""
    lists = column.combine_chunks()
    offsets = lists.offsets
    return lists.values.to_numpy()[offsets[0].as_py() : offsets[-1].as_py()]
