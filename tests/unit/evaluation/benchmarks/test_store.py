"""The folder of a model's answers: partial files do not count, and answers of other settings are never mixed in."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from megatron_pz.evaluation.benchmarks.asking import ANSWERS_SCHEMA, Part
from megatron_pz.evaluation.benchmarks.store import AnswerStore, read_facts
from megatron_pz.runtime.errors import BadInput

PARTS = [Part("toy", number, number, number + 1, 1) for number in range(3)]


def rows(number: int) -> pa.Table:
    return pa.Table.from_pylist([{"benchmark": "toy", "question": str(number)}], ANSWERS_SCHEMA)


def test_parts_become_one_file_in_their_order(tmp_path: Path) -> None:
    store, straight = AnswerStore(tmp_path / "a"), AnswerStore(tmp_path / "b")
    for each, order in ((store, (2, 0, 1)), (straight, (0, 1, 2))):
        each.claim("toy", {"seed": 1})
        for number in order:
            each.write(PARTS[number], rows(number))
        assert each.missing(PARTS) == []
        each.join("toy", PARTS)
        assert each.missing(PARTS) == []
    assert store.read("toy")["question"].to_pylist() == ["0", "1", "2"]
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["toy.json", "toy.parquet"]
    assert (tmp_path / "a/toy.parquet").read_bytes() == (tmp_path / "b/toy.parquet").read_bytes()


def test_a_part_that_a_crash_left_half_written_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = AnswerStore(tmp_path)
    store.write(PARTS[0], rows(0))
    with monkeypatch.context() as patch:  # SIGKILL leaves a partial file
        patch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        patch.setattr(Path, "unlink", lambda *_, **__: None)
        with pytest.raises(KeyboardInterrupt):
            store.write(PARTS[1], rows(1))
    assert len(list((tmp_path / "toy.parts").iterdir())) == 2
    assert store.missing(PARTS) == PARTS[1:]
    store.write(PARTS[1], rows(1))
    assert store.missing(PARTS) == PARTS[2:]


def test_other_facts_are_refused_by_name(tmp_path: Path) -> None:
    store = AnswerStore(tmp_path)
    facts = {"seed": 1, "stop": ("\n",), "model": {"model.safetensors": "0" * 64}}
    store.claim("toy", facts)
    store.claim("toy", facts)
    with pytest.raises(
        BadInput, match=r"toy\.json: .* another seed \(1, now 2\), another model; give another --results"
    ):
        store.claim("toy", {**facts, "seed": 2, "model": {"model.safetensors": "1" * 64}})


def test_answers_that_are_not_there_or_damaged_are_named(tmp_path: Path) -> None:
    store = AnswerStore(tmp_path)
    with pytest.raises(BadInput, match=r"toy\.parquet: is missing; give the same command again"):
        store.read("toy")
    (tmp_path / "toy.parquet").write_bytes(b"PAR1")
    with pytest.raises(BadInput, match=r"toy\.parquet: is not a file of answers"):
        store.read("toy")
    other = pa.table({"question": ["1"], "options": [["a", "b"]]})
    for table, words in ((other, "no column 'benchmark'"), (ANSWERS_SCHEMA.empty_table(), "no answers")):
        pq.write_table(table, tmp_path / "toy.parquet")
        with pytest.raises(
            BadInput, match=rf"toy\.parquet: is not a file of answers \({words}\); remove it and ask again"
        ):
            store.read("toy")
    (tmp_path / "toy.parquet").unlink()
    for part in PARTS:
        store.write(part, rows(part.number))
    (tmp_path / "toy.parts/00001.parquet").write_bytes(b"PAR1")
    with pytest.raises(
        BadInput, match=r"toy\.parts/00001\.parquet: is not a file of answers .*; remove it and ask again"
    ):
        store.join("toy", PARTS)
    assert store.missing(PARTS) == [], "the other parts are kept"
    (tmp_path / "toy.json").write_text("[1]")
    with pytest.raises(BadInput, match=r"toy\.json: is not a JSON object"):
        read_facts(tmp_path, "toy")
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match=r"--results .*file/model: cannot be written"):
        AnswerStore(tmp_path / "file/model").claim("toy", {})
