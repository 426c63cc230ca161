"""Store the answers of one model in a folder: one file for each part, finally one Parquet file for each benchmark.

``<benchmark>.json`` records the settings, data and model that the answers depend on. A folder with another record is
refused, so that answers of different settings are never mixed. Files are written atomically, so that a killed run can
continue.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from megatron_pz.evaluation.benchmarks.asking import ANSWERS_SCHEMA, Part
from megatron_pz.runtime.errors import BadInput, one_line
from megatron_pz.runtime.files import write_text_whole, write_whole


class AnswerStore:
    """The answers of one model."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def claim(self, benchmark: str, facts: Mapping[str, Any]) -> None:
        """Begin a benchmark, or continue it.

        Raises:
            BadInput: the folder cannot be written, or has answers for other settings, data or another model.
        """
        path = self.folder / f"{benchmark}.json"
        if path.is_file():
            if different := _differences(read_facts(self.folder, benchmark), json.loads(json.dumps(facts))):
                raise BadInput(
                    f"{path}: these answers were made with another {', another '.join(different)}; give another "
                    "--results folder, or remove this one to begin again"
                )
            return
        text = json.dumps(facts, indent=1, ensure_ascii=False) + "\n"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_text_whole(path, text)
        except OSError as error:
            raise BadInput(f"--results {self.folder}: cannot be written ({error.strerror})") from None

    def holds(self, benchmark: str, facts: Mapping[str, Any]) -> bool:
        """Return whether the folder has all answers to a benchmark, recorded with these facts."""
        return self._whole(benchmark).is_file() and read_facts(self.folder, benchmark) == facts

    def missing(self, parts: Sequence[Part]) -> list[Part]:
        """Return the parts that have no answers yet."""
        return [part for part in parts if not self._whole(part.benchmark).is_file() and not self._part(part).is_file()]

    def write(self, part: Part, rows: pa.Table) -> None:
        """Write the answers of a part."""
        path = self._part(part)
        path.parent.mkdir(exist_ok=True)
        write_table(path, rows)

    def join(self, benchmark: str, parts: Sequence[Part]) -> None:
        """Join the parts of a benchmark, which must be complete, into one file, and remove them.

        Raises:
            BadInput: a part is damaged.
        """
        if not self._whole(benchmark).is_file():
            table = pa.concat_tables(_read_answers(self._part(part)) for part in parts)
            table = table.combine_chunks()
            write_table(self._whole(benchmark), table)
        shutil.rmtree(self._parts(benchmark), ignore_errors=True)

    def read(self, benchmark: str) -> pa.Table:
        """Read all answers of a benchmark. Raise :class:`BadInput` if they are incomplete or damaged."""
        return _read_answers(self._whole(benchmark))

    def _whole(self, benchmark: str) -> Path:
        return self.folder / f"{benchmark}.parquet"

    def _parts(self, benchmark: str) -> Path:
        return self.folder / f"{benchmark}.parts"

    def _part(self, part: Part) -> Path:
        return self._parts(part.benchmark) / f"{part.number:05d}.parquet"


def _read_answers(path: Path) -> pa.Table:
    """Read a file of :func:`write_table`. Raise :class:`BadInput` if it is missing, damaged or of another schema."""
    try:
        if lacking := [name for name in ANSWERS_SCHEMA.names if name not in pq.read_schema(path).names]:
            raise ValueError(f"no column {lacking[0]!r}")
        answers = pq.read_table(path, schema=ANSWERS_SCHEMA)
        if not len(answers):
            raise ValueError("no answers")
    except FileNotFoundError:
        raise BadInput(f"{path}: is missing; give the same command again to finish the benchmark") from None
    except (OSError, pa.ArrowException, ValueError) as error:
        raise BadInput(f"{path}: is not a file of answers ({one_line(error)}); remove it and ask again") from None
    return answers


def write_table(path: Path, rows: pa.Table) -> None:
    """Write answers as a Parquet file, atomically."""
    write_whole(path, lambda partial: pq.write_table(rows, partial, compression="zstd"))


def read_facts(folder: Path, benchmark: str) -> dict[str, Any]:
    """Read the record of settings, data and model of a benchmark's answers.

    Raises:
        BadInput: the file is missing or not a JSON object.
    """
    path = folder / f"{benchmark}.json"
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror}; give a folder of tools/evaluate.py --benchmarks") from None
    except (ValueError, RecursionError):
        facts = None
    if not isinstance(facts, dict):
        raise BadInput(f"{path}: is not a JSON object; remove the folder and ask again")
    return facts


def _differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Name the facts that differ, with both values if they are short."""
    names = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    return [
        f"{name.replace('_', ' ')}"
        + (f" ({before.get(name)}, now {after.get(name)})" if len(f"{before.get(name)}{after.get(name)}") < 60 else "")
        for name in names
    ]
