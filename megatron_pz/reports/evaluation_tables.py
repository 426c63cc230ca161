"""Turn evaluations into tables with intervals and readable items for a report's page."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

from megatron_pz.evaluation.results import Evaluation, MaskPredictions
from megatron_pz.evaluation.summary import FAULT_MEASURES, MEASURES, compare, summarize

FIXED_SETS = {"repeated": "fixed mask, the word occurs elsewhere", "once": "fixed mask, the word occurs once"}
OWN_SET = "mask of the model's own"


def evaluation_tables(evaluations: Sequence[Evaluation]) -> dict[str, Any]:
    """Summarize evaluations of the same passages. Without evaluations, the tables are empty.

    Returns:
        ``{"tables": [{"title", "note", "names", "rows": [{"label", "cells": [{"mean", "low", "high", "n", "mark"}]}]}],
        "items": [{"set", "text", "mark", "expected", "results": [{"name", "score"}]}], "all_items"}``, hardest items
        first; ``"all_items"`` is their number.

    Raises:
        ValueError: passages, settings or rules differ.
    """
    if not evaluations:
        return {"tables": [], "items": [], "all_items": 0}
    summaries = [summarize(evaluation) for evaluation in evaluations]
    changes = [compare(left, right) for left, right in pairwise(evaluations)]
    rows = []
    for name, (label, _) in MEASURES.items():
        if not any(summary[name].units for summary in summaries):
            continue
        if name in FAULT_MEASURES and not any(summary[name].mean > 0 for summary in summaries):
            continue
        cells = []
        for index, summary in enumerate(summaries):
            value, change = summary[name], changes[index - 1][name] if index else None
            moved = change is not None and change.beyond_interval
            mark = "" if not moved or change is None else "▲" if change.difference.mean > 0 else "▼"
            half = value.half_width if math.isfinite(value.half_width) else 0.0
            ends = {"low": _or_none(value.mean - half), "high": _or_none(value.mean + half)}
            cells.append({"mean": _or_none(value.mean), **ends, "n": value.units, "mark": mark})
        rows.append({"label": label, "cells": cells})
    table = {
        "title": f"{len(evaluations[0].passages)} held-out passages",
        "note": evaluations[0].rules,
        "names": [evaluation.name for evaluation in evaluations],
        "rows": rows,
    }
    items = sorted(_items(evaluations), key=lambda item: (mean_score(item), item["set"] == OWN_SET))
    return {"tables": [table], "items": items, "all_items": len(items)}


def _items(evaluations: Sequence[Evaluation]) -> Iterator[dict[str, Any]]:
    for index, passage in enumerate(evaluations[0].passages):
        results = [(evaluation.name, evaluation.passages[index]) for evaluation in evaluations]
        for field, label in FIXED_SETS.items():
            asked = [(name, getattr(result, field)) for name, result in results]
            asked = [(name, found) for name, found in asked if found is not None]
            if asked:
                yield _item(label, passage.passage, asked)
        for name, result in results:
            for own in result.own:
                if own.predictions is not None:
                    yield _item(OWN_SET, passage.passage, [(name, own.predictions)])


def _item(label: str, passage: str, asked: Sequence[tuple[str, MaskPredictions]]) -> dict[str, Any]:
    span = asked[0][1].span
    return {
        "set": label,
        "text": passage,
        "mark": span,
        "expected": span,
        "results": [{"name": name, "score": round(found.accuracy, 4)} for name, found in asked],
    }


def mean_score(item: dict[str, Any]) -> float:
    """Return the mean score of an item over the models."""
    return sum(result["score"] for result in item["results"]) / len(item["results"])


def _or_none(value: float) -> float | None:
    return round(value, 6) if math.isfinite(value) else None
