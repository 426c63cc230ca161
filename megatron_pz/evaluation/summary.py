"""Summarize an evaluation with confidence intervals, and compare two evaluations in pairs.

The unit is the passage: an interval covers the choice of passages for fixed weights. It does not cover the variance
between training seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from megatron_pz.evaluation.results import Evaluation, MaskPredictions, OwnMask, PassageResult
from megatron_pz.evaluation.statistics import Estimate, estimate, paired_difference
from megatron_pz.roles.spans import InvalidMaskReason
from megatron_pz.wikitext.words import count_words

Measure = Callable[[PassageResult], float | None]
"""Computes one passage's value; None if the quantity is undefined for it."""


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _rollouts(value: Callable[[OwnMask], float]) -> Measure:
    """Return the measure that averages ``value`` over all generator rollouts of a passage."""
    return lambda result: _mean([float(value(mask)) for mask in result.own])


def _valid(value: Callable[[OwnMask, MaskPredictions], float]) -> Measure:
    """Return the measure that averages ``value`` over a passage's valid masks; undefined without one."""
    return lambda result: _mean(
        [float(value(mask, mask.predictions)) for mask in result.own if mask.predictions is not None]
    )


def _distinct(result: PassageResult) -> float:
    return float(len({mask.predictions.span for mask in result.own if mask.predictions is not None}))


def _share_of_fault(fault: str) -> Measure:
    return _rollouts(lambda mask: mask.fault == fault)


MAIN_MEASURES: dict[str, tuple[str, Measure]] = {
    "valid_masks": ("valid masks", _rollouts(lambda mask: mask.predictions is not None)),
    "generator_reward": ("generator reward (Eq. 9)", _rollouts(lambda mask: mask.reward)),
    "own_accuracy": ("predictor: accuracy on own masks", _valid(lambda _, found: found.accuracy)),
    "repeated_accuracy": ("predictor: fixed repeated words", lambda r: r.repeated.accuracy if r.repeated else None),
    "once_accuracy": ("predictor: fixed once-only words", lambda r: r.once.accuracy if r.once else None),
}
"""Name, label and measure of the main results."""

FAULT_MEASURES: dict[str, tuple[str, Measure]] = {
    f"fault_{fault.value}": (f"not valid: {fault.value.replace('_', ' ')}", _share_of_fault(fault.value))
    for fault in InvalidMaskReason
    if fault is not InvalidMaskReason.OK
}
WATCH_MEASURES: dict[str, tuple[str, Measure]] = {
    "own_all_zero": ("own masks: nobody right", _valid(lambda _, found: found.accuracy == 0)),
    "own_mixed": ("own masks: mixed", _valid(lambda _, found: 0 < found.accuracy < 1)),
    "own_all_one": ("own masks: everybody right", _valid(lambda _, found: found.accuracy == 1)),
    "sub_word": ("own masks inside words", _valid(lambda mask, _: mask.sub_word)),
    "function_word": ("own masks that are function words", _valid(lambda mask, _: mask.function_word)),
    "span_words": ("words in an own mask", _valid(lambda _, found: count_words(found.span))),
    "distinct_masks": ("different masks per passage", _distinct),
    "generator_length": ("generator: tokens", _rollouts(lambda mask: mask.length)),
    "generator_entropy": ("generator: nats a token", _rollouts(lambda mask: mask.entropy)),
    "repeated_readable": ("predictor: readable answers", lambda r: r.repeated.readable if r.repeated else None),
    "repeated_length": ("predictor: tokens", lambda r: r.repeated.length if r.repeated else None),
}
"""Diagnostics that explain the main results and reveal degenerate policies."""

MEASURES = MAIN_MEASURES | FAULT_MEASURES | WATCH_MEASURES


def values(evaluation: Evaluation, measure: str) -> list[float | None]:
    """Compute a measure on each passage, in order."""
    return [MEASURES[measure][1](result) for result in evaluation.passages]


def summarize(evaluation: Evaluation) -> dict[str, Estimate]:
    """Estimate all measures of an evaluation; returns them by name."""
    return {name: estimate(values(evaluation, name)) for name in MEASURES}


@dataclass(frozen=True)
class Comparison:
    """Change of one measure between two evaluations of the same passages."""

    before: Estimate
    after: Estimate
    difference: Estimate
    """Paired difference over the passages on which both are defined."""

    @property
    def beyond_interval(self) -> bool:
        """Return whether the 95 % interval of the paired difference excludes zero."""
        return self.difference.excludes_zero()


def require_comparable(before: Evaluation, after: Evaluation) -> None:
    """Raise ValueError if the passages, settings or rules of two evaluations differ."""
    if before.rules and after.rules and before.rules != after.rules:
        raise ValueError(f"the rules of the game differ: {before.rules}; and {after.rules}")
    if before.settings != after.settings:
        raise ValueError(f"settings differ: {before.settings} and {after.settings}")
    if [result.passage for result in before.passages] != [result.passage for result in after.passages]:
        raise ValueError("the two evaluations are not of the same passages")


def compare(before: Evaluation, after: Evaluation) -> dict[str, Comparison]:
    """Compare every measure before and after.

    Raises:
        ValueError: passages, settings or rules differ.
    """
    require_comparable(before, after)
    comparisons = {}
    for name in MEASURES:
        old, new = values(before, name), values(after, name)
        comparisons[name] = Comparison(estimate(old), estimate(new), paired_difference(old, new))
    return comparisons


def rows(evaluations: Sequence[Evaluation], measures: Iterable[str] = tuple(MEASURES)) -> list[list[str]]:
    """Build the rows of a table: a measure's label, then a cell for each evaluation of the same passages.

    From the second evaluation on, ``▲`` and ``▼`` mark a value that is higher or lower than the cell to the left if the
    95 % interval of the paired difference excludes zero. Causes of invalid masks that never occurred and measures
    without any value have no row.
    """
    steps = [compare(left, right) for left, right in pairwise(evaluations)]
    summaries = [summarize(evaluation) for evaluation in evaluations]
    lines = []
    for name in measures:
        if name in FAULT_MEASURES and not any(summary[name].mean > 0 for summary in summaries):
            continue
        if not any(summary[name].units for summary in summaries):
            continue
        marks = ["", *(_mark(step[name]) for step in steps)]
        cells = [_cell(summary[name], mark) for summary, mark in zip(summaries, marks, strict=True)]
        lines.append([MEASURES[name][0], *cells])
    return lines


def _cell(value: Estimate, mark: str) -> str:
    if value.units == 0:
        return "–  "
    half_width = f" ± {value.half_width:.3f}" if value.units > 1 else ""
    return f"{value.mean:.3f}{half_width} {mark or ' '}"


def _mark(comparison: Comparison) -> str:
    if not comparison.beyond_interval:
        return ""
    return "▲" if comparison.difference.mean > 0 else "▼"
