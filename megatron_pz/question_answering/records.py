"""Read records and their fields from JSON Lines, JSON and Parquet files, with errors that name the location."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from megatron_pz.runtime.errors import BadInput, brief

SUFFIXES = (".parquet", ".jsonl", ".json")


@dataclass(frozen=True)
class Record:
    """One item of a file."""

    fields: Mapping[str, Any]
    place: str
    """``file:line`` of a JSON Lines file, ``file:row N`` of any other; both count from 1."""
    number: int
    """Position in the file, from 0."""

    def get(self, name: str) -> Any:
        """Return a field's value. Raise BadInput if the record lacks it."""
        if name not in self.fields:
            raise BadInput(f"{self.place}: no field {name!r}; it has {', '.join(map(repr, self.fields)) or 'none'}")
        return self.fields[name]

    def text(self, name: str) -> str:
        """Return a field that must be text with more than white space."""
        value = self.get(name)
        if not isinstance(value, str):
            raise self.wrong(name, value, "text")
        if not value.strip():
            raise BadInput(f"{self.place}: field {name!r} is empty")
        if not _is_unicode(value):
            raise self.wrong(name, value, "Unicode text (half a character of UTF-16)")
        return value

    def number_or_text(self, name: str) -> str:
        """Return a field of text or of a finite number as text; ``27.0`` becomes ``27``, ``1e-05`` ``0.00001``."""
        value = self.get(name)
        if isinstance(value, float) and value.is_integer():
            return str(int(value))
        if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < float("inf"):
            return format(Decimal(str(value)), "f")
        return self.text(name)

    def texts(self, name: str, fewest: int = 1) -> tuple[str, ...]:
        """Return a field that must be a list of at least ``fewest`` texts, none of them empty."""
        value = self.get(name)
        if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
            raise self.wrong(name, value, "a list of texts")
        if len(value) < fewest:
            raise BadInput(f"{self.place}: field {name!r} has {len(value)} entries, fewer than {fewest}")
        for index, each in enumerate(value):
            if not each.strip():
                raise BadInput(f"{self.place}: field {name!r} has an empty entry, number {index}")
            if not _is_unicode(each):
                raise self.wrong(name, each, "Unicode texts (half a character of UTF-16)")
        return tuple(value)

    def wrong(self, name: str, value: object, wanted: str) -> BadInput:
        """Return the error for a field whose value is not of the expected kind."""
        shown = repr(value)
        return BadInput(f"{self.place}: field {name!r} is not {wanted}: {shown[:80]}{'…' if len(shown) > 80 else ''}")


def read_records(path: Path) -> Iterator[Record]:
    """Iterate over the records of a ``.jsonl``, ``.json`` (a list, or a list under ``examples``) or ``.parquet`` file.

    Raises:
        BadInput: The file cannot be read or parsed, or holds no record.
    """
    readers = {".jsonl": _json_lines, ".json": _json, ".parquet": _parquet}
    if path.suffix not in readers:
        raise BadInput(f"{path}: not one of {', '.join(SUFFIXES)}")
    empty = True
    try:
        for record in readers[path.suffix](path):
            empty = False
            yield record
    except UnicodeDecodeError as error:
        raise BadInput(f"{path}: not UTF-8: {brief(error)}") from None
    except (OSError, pa.ArrowException) as error:
        raise BadInput(f"{path}: cannot be read: {brief(error)}") from None
    if empty:
        raise BadInput(f"{path}: holds no item")


def _json_lines(path: Path) -> Iterator[Record]:
    with path.open(encoding="utf-8") as lines:
        number = 0
        for line_number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            place = f"{path}:{line_number}"
            try:
                value = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise BadInput(f"{place}: not JSON: {brief(error)}") from None
            yield _record(value, place, number)
            number += 1


def _json(path: Path) -> Iterator[Record]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError:
        raise
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{path}: not JSON: {brief(error)}") from None
    items = value.get("examples") if isinstance(value, dict) else value
    if not isinstance(items, list):
        raise BadInput(f"{path}: neither a list of items nor an object with a list under 'examples'")
    for number, item in enumerate(items):
        yield _record(item, f"{path}:row {number + 1}", number)


def _parquet(path: Path) -> Iterator[Record]:
    number = 0
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches():
            for fields in batch.to_pylist():
                yield Record(fields, f"{path}:row {number + 1}", number)
                number += 1


def _is_unicode(text: str) -> bool:
    """Return whether UTF-8 can represent the text. JSON can escape one half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _record(value: object, place: str, number: int) -> Record:
    if not isinstance(value, dict):
        raise BadInput(f"{place}: not an object with fields")
    return Record(value, place, number)
