"""Saved benchmark results on a report's page."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from megatron_pz.evaluation.benchmarks.asking import ANSWERS_SCHEMA, Part
from megatron_pz.evaluation.benchmarks.scores import ModelScores, score
from megatron_pz.evaluation.benchmarks.store import AnswerStore
from megatron_pz.reports import benchmark_tables as module
from megatron_pz.reports.benchmark_tables import benchmark_tables
from tests.support.report_page import blob, refused, unpack
from tests.support.report_runs import write_run
from tools import report

FACTS = {"recipe": "hand", "questions": 30, "of": 30}


def results(folder: Path, name: str, right: int) -> tuple[ModelScores, Path]:
    """Write results on thirty questions of two subjects with two samples each; the first ``right`` are right."""
    rows: list[dict[str, Any]] = [
        {
            "benchmark": "toy",
            "question": f"q{number:02d}",
            "subject": "law" if number % 2 else "art",
            "sample": sample,
            "prompt": f"Question {number}?",
            "asked": True,
            "response": f"{name} thinks \\boxed{{{number}}}",
            "response_tokens": 5,
            "truncated": False,
            "reference": str(number),
            "extracted": str(number) if number < right else None,
            "guessed": False,
            "correct": number < right,
            "graders": {"strict": number < right, "kind": True},
        }
        for number in range(30)
        for sample in range(2)
    ]
    store, part = AnswerStore(folder / name), Part("toy", 0, 0, 30, 60)
    answers = pa.Table.from_pylist(rows, ANSWERS_SCHEMA)
    store.claim("toy", FACTS)
    store.write(part, answers)
    store.join("toy", [part])
    scores = ModelScores(name, (score(answers, "micro", FACTS),))
    scores.save(folder / name)
    return scores, folder / name


def test_scores_differences_and_items(tmp_path: Path) -> None:
    (before, first), (after, second) = results(tmp_path, "base", 3), results(tmp_path, "trained", 27)
    found = benchmark_tables([before, after], [first, second])
    rows = {row["label"]: row["cells"] for table in found["tables"] for row in table["rows"]}
    micro = rows["toy, micro"]
    assert [cell["mean"] for cell in micro] == pytest.approx([0.1, 0.9])
    assert [cell["mark"] for cell in micro] == ["", "▲"]
    assert micro[0]["low"] < 0.1 < micro[0]["high"]
    assert [cell["mean"] for cell in rows["toy, graded by kind"]] == [1.0, 1.0]
    assert [cell["mean"] for cell in rows["toy: no answer found"]] == pytest.approx([0.9, 0.1])
    assert {"toy: law", "toy: art"} <= rows.keys() and "toy: prompt too long, wrong" not in rows
    assert found["all_items"] == len(found["items"]) == 30
    hardest, easiest = found["items"][0], found["items"][-1]
    assert [each["score"] for each in hardest["results"]] == [0.0, 0.0]
    assert [each["score"] for each in easiest["results"]] == [1.0, 1.0]
    assert easiest["results"][1]["text"].startswith("trained thinks")
    assert (easiest["expected"], easiest["results"][1]["answer"]) == (easiest["text"][9:-1], easiest["expected"])


def test_prompts_that_were_not_asked_are_counted_before_a_score_is_believed(tmp_path: Path) -> None:
    scores, folder = results(tmp_path, "base", 3)
    cut = dataclasses.replace(scores.benchmarks[0], too_long=("q01", "q02", "q03"))
    found = benchmark_tables([dataclasses.replace(scores, benchmarks=(cut,))], [folder])
    rows = {row["label"]: row["cells"] for table in found["tables"] for row in table["rows"]}
    assert rows["toy: prompt too long, wrong"][0]["mean"] == 0.1


def test_items_beyond_the_room_are_left_out_evenly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scores, folder = results(tmp_path, "base", 15)
    monkeypatch.setattr(module, "MAX_CHARACTERS", 300)
    found = benchmark_tables([scores], [folder])
    assert found["all_items"] == 30 > len(found["items"]) >= 5
    shares = [item["results"][0]["score"] for item in found["items"]]
    assert shares == sorted(shares) and {0.0, 1.0} == set(shares)


def test_a_page_shows_them_beside_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "pz", steps=2)
    folders = [results(tmp_path, name, right)[1] for name, right in (("base", 3), ("trained", 27))]
    report.main([str(run), "--evaluations", *map(str, folders)])
    shown = unpack(blob(run / "report.html", "data"))["evaluations"]
    assert [table["title"] for table in shown["tables"]] == ["Benchmarks", "Subjects", "Before a score is believed"]
    assert len(unpack(shown["items"])) == 30
    capsys.readouterr()
    assert "need a RUN" in refused(capsys, "--evaluations", folders[0], "--output", tmp_path / "out")
    (folders[1] / "toy.parquet").unlink()
    assert "toy.parquet: is missing" in refused(capsys, run, "--evaluations", *folders)
    assert "results.json" in refused(capsys, run, "--evaluations", tmp_path)
