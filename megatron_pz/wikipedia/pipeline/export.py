"""Export the clean text of a corpus, for people and other tools."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from megatron_pz.wikipedia.pipeline.options import Export
from megatron_pz.wikipedia.pipeline.shards import RowGroups, TextWriter

_COLUMNS = {"page_id": "id", "revision_id": "revision_id", "title": "title", "url": "url", "text": "text"}
"""Columns of a shard, and their names in the export, which the pipeline also reads as an input."""
_ROWS_A_GROUP = 1 << 12
"""A dozen MB of text."""


def export_suffix(kind: Export) -> str:
    """Return the part of the file name after the corpus's prefix."""
    return f".text.{kind}"


@contextlib.contextmanager
def text_writer(prefix: Path, kind: Export | None) -> Iterator[TextWriter | None]:
    """Write ``<prefix>.text.jsonl`` or ``.text.parquet``, with one line or row per article in the corpus's order."""
    if kind is None:
        yield None
        return
    path = prefix.with_name(f"{prefix.name}{export_suffix(kind)}")
    writer = _JsonLines(path) if kind == "jsonl" else _Parquet(path)
    try:
        yield writer
    finally:
        writer.close()


class _JsonLines:
    def __init__(self, path: Path) -> None:
        self._file = path.open("w", encoding="utf-8", newline="\n")

    def write(self, table: pa.Table) -> None:
        for record in _renamed(table).to_pylist():
            self._file.write(json.dumps(record, ensure_ascii=False) + "\n")

    def close(self) -> None:
        self._file.close()


class _Parquet:
    def __init__(self, path: Path) -> None:
        self._rows = RowGroups(
            path, pa.schema([(name, pa.large_string()) for name in _COLUMNS.values()]), _ROWS_A_GROUP
        )

    def write(self, table: pa.Table) -> None:
        self._rows.write(_renamed(table))

    def close(self) -> None:
        self._rows.close()


def _renamed(table: pa.Table) -> pa.Table:
    columns = [table[name].cast(pa.large_string()) for name in _COLUMNS]
    return pa.table(dict(zip(_COLUMNS.values(), columns, strict=True)))
