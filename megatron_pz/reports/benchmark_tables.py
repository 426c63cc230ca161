"""Turn saved benchmark results into tables with intervals and readable items for a report's page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from megatron_pz.evaluation.benchmarks.comparison import Comparison, compare_in_turn
from megatron_pz.evaluation.benchmarks.intervals import Interval
from megatron_pz.evaluation.benchmarks.scores import HARMONIC, BenchmarkScore, ModelScores
from megatron_pz.evaluation.benchmarks.store import AnswerStore
from megatron_pz.reports.evaluation_tables import mean_score

MAX_CHARACTERS = 12_000_000
"""Maximum number of characters of the items' texts, before compression: about 4 MB of the page."""


MARKS = (
    "▲ ▼ higher or lower than in the column to the left: an exchange test of this score over questions, corrected "
    "for the number of comparisons by Holm's rule, at 5 %."
)


def benchmark_tables(models: Sequence[ModelScores], folders: Sequence[Path]) -> dict[str, Any]:
    """Summarize the benchmark results of models and compare each with the one before it.

    Args:
        models: the result of ``ModelScores.load`` for each of the folders.
        folders: folders that ``tools/evaluate.py --benchmarks`` wrote.

    Returns:
        The structure of :func:`.evaluation_tables.evaluation_tables`. An item's result also has the extracted answer
        and the response. If the items are too long, an evenly spaced subset is kept; ``"all_items"`` counts all.

    Raises:
        BadInput: answers are missing, or two models were asked with different recipes, settings or data.
    """
    if not models:
        return {"tables": [], "items": [], "all_items": 0}
    comparisons = compare_in_turn(models, folders)
    names = [model.name for model in models]
    found = {each.benchmark: None for model in models for each in model.benchmarks}
    of_model = [{each.benchmark: each for each in model.benchmarks} for model in models]
    tables = [
        {"title": title, "note": note, "names": names, "rows": rows, "marks": MARKS}
        for title, note, rows in (
            ("Benchmarks", _note(models), list(_score_rows(found, of_model, comparisons))),
            ("Subjects", "Share of right answers.", list(_subject_rows(found, of_model, comparisons))),
            ("Before a score is believed", "Shares of the responses.", list(_count_rows(found, of_model))),
        )
        if rows
    ]
    items = sorted(_items(found, of_model, names, folders), key=mean_score)
    return {"tables": tables, "items": _even_share(items), "all_items": len(items)}


OfModel = Sequence[Mapping[str, BenchmarkScore]]


def _note(models: Sequence[ModelScores]) -> str:
    recipes = {str(each.facts.get("recipe", "")) for model in models for each in model.benchmarks} - {""}
    note = f"Recipe: {', '.join(sorted(recipes))}. The first row of a set is the score that its recipe quotes."
    smoothed = any("harmonic" in each.scores for model in models for each in model.benchmarks)
    return f"{note} Harmonic: {HARMONIC}." if smoothed else note


def _score_rows(
    benchmarks: Mapping[str, None], of_model: OfModel, comparisons: Sequence[Comparison]
) -> Iterator[dict[str, Any]]:
    for benchmark in benchmarks:
        asked = [scores[benchmark] for scores in of_model if benchmark in scores]
        headline = asked[0].headline
        for name in sorted(asked[0].scores, key=lambda name: name != headline):
            values = [scores[benchmark].scores.get(name) if benchmark in scores else None for scores in of_model]
            yield _row(f"{benchmark}, {name}", values, _marks(comparisons, benchmark, "", name))
        graders = list(asked[0].graders)
        for grader in graders if len(graders) > 1 else ():
            values = [scores[benchmark].graders.get(grader) if benchmark in scores else None for scores in of_model]
            yield _row(f"{benchmark}, graded by {grader}", values, [""] * len(values))


def _subject_rows(
    benchmarks: Mapping[str, None], of_model: OfModel, comparisons: Sequence[Comparison]
) -> Iterator[dict[str, Any]]:
    for benchmark in benchmarks:
        subjects = {
            subject: None for scores in of_model if benchmark in scores for subject in scores[benchmark].subjects
        }
        for subject in subjects if len(subjects) > 1 else ():
            values = [scores[benchmark].subjects.get(subject) if benchmark in scores else None for scores in of_model]
            yield _row(f"{benchmark}: {subject}", values, _marks(comparisons, benchmark, subject, "micro"))


def _count_rows(benchmarks: Mapping[str, None], of_model: OfModel) -> Iterator[dict[str, Any]]:
    causes = {
        "unread": "no answer found",
        "guessed": "guessed at random",
        "truncated": "truncated",
        "grader_errors": "grader failed",
    }
    for benchmark in benchmarks:
        for cause, label in causes.items():
            counts = [scores[benchmark].counts if benchmark in scores else None for scores in of_model]
            shares = [getattr(each, cause) / each.responses if each and each.responses else None for each in counts]
            if any(shares):
                values = [None if share is None else Interval(share, share, share) for share in shares]
                yield _row(f"{benchmark}: {label}", values, [""] * len(values))
        missed = [
            len(scores[benchmark].too_long) / scores[benchmark].facts["questions"] if benchmark in scores else None
            for scores in of_model
        ]
        if any(missed):
            values = [None if share is None else Interval(share, share, share) for share in missed]
            yield _row(f"{benchmark}: prompt too long, wrong", values, [""] * len(values))


def _row(label: str, values: Sequence[Interval | None], marks: Sequence[str]) -> dict[str, Any]:
    cells = [
        {"mean": None, "low": None, "high": None, "n": 0, "mark": ""}
        if value is None
        else {"mean": value.mean, "low": value.low, "high": value.high, "n": 1, "mark": mark}
        for value, mark in zip(values, marks, strict=True)
    ]
    return {"label": label, "cells": cells}


def _marks(comparisons: Sequence[Comparison], benchmark: str, subject: str, statistic: str) -> list[str]:
    """Return for each model whether it is higher or lower than the one before it, after Holm's correction."""
    marks = [""]
    for comparison in comparisons:
        mark = ""
        for each in (*comparison.sets, *comparison.subjects):
            if (each.benchmark, each.subject, each.statistic) == (benchmark, subject, statistic) and each.significant:
                mark = "▲" if each.change.mean > 0 else "▼"
        marks.append(mark)
    return marks


def _items(
    benchmarks: Mapping[str, None], of_model: OfModel, names: Sequence[str], folders: Sequence[Path]
) -> Iterator[dict[str, Any]]:
    for benchmark in benchmarks:
        by_question: dict[str, dict[str, Any]] = {}
        for scores, name, folder in zip(of_model, names, folders, strict=True):
            if benchmark in scores:
                _add_answers(by_question, AnswerStore(folder).read(benchmark), name)
        yield from by_question.values()


def _add_answers(by_question: dict[str, dict[str, Any]], answers: pa.Table, model: str) -> None:
    """Add a model's answers to each question: the share of right samples, and the text of the first sample."""
    columns = ("question", "subject", "prompt", "reference", "extracted", "correct", "response", "benchmark")
    mine: dict[str, list[dict[str, Any]]] = {}
    for row in answers.select(columns).to_pylist():
        mine.setdefault(row["question"], []).append(row)
    for question, rows in mine.items():
        first = rows[0]
        subject = f", {first['subject']}" if first["subject"] else ""
        item = by_question.setdefault(
            question,
            {
                "set": f"{first['benchmark']}{subject}",
                "text": first["prompt"],
                "expected": first["reference"],
                "results": [],
            },
        )
        score = sum(bool(row["correct"]) for row in rows) / len(rows)
        item["results"].append(
            {"name": model, "score": round(score, 4), "answer": first["extracted"], "text": first["response"] or ""}
        )


def _even_share(items: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return every n-th item, with the smallest n for which the texts are short enough."""
    length = sum(len(item["text"]) + sum(len(result["text"]) for result in item["results"]) for item in items)
    return list(items[:: -(-length // MAX_CHARACTERS) or 1])
