"""Compare the arms of an experiment in pairs of runs with the same seed, on the same held-out passages."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from megatron_pz.evaluation.benchmarks.comparison import require_alike
from megatron_pz.evaluation.crossed import CrossedEstimate, crossed_estimate, holm
from megatron_pz.evaluation.results import Evaluation
from megatron_pz.evaluation.summary import MEASURES, require_comparable, values
from megatron_pz.runtime.errors import BadInput

LEVEL = 0.05
"""Chance of any false claim in a family of comparisons."""


@dataclass(frozen=True)
class Measured:
    """The results of one model."""

    evaluation: Evaluation
    benchmarks: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Accuracy on every question of each benchmark, float64 [questions]."""
    facts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Settings, data and model of each benchmark's answers (``evaluation.benchmarks.store.read_facts``)."""

    def values(self, measure: str) -> list[float]:
        """Return a measure on each passage, NaN where it is undefined, or a benchmark's accuracy on each question."""
        if measure in self.benchmarks:
            return list(self.benchmarks[measure])
        return [math.nan if value is None else value for value in values(self.evaluation, measure)]


Results = Mapping[str, Mapping[int, Measured]]
"""Results by arm and seed; those of an unfinished experiment lack some."""


@dataclass(frozen=True)
class Difference:
    """Difference of one measure between two arms, or between an arm and the model that all runs start from."""

    measure: str
    arm: str
    reference: str
    """The arm or the model that is subtracted."""
    seeds: tuple[int, ...]
    """Seeds of the pairs."""
    estimate: CrossedEstimate | None
    """None if no seed and passage have both values."""
    adjusted_p: float = math.nan
    """Holm's, in the family of all differences that are tested together; NaN with fewer than two seeds."""

    @property
    def verdict(self) -> str:
        """Return the verdict on the difference as a phrase."""
        if self.estimate is None:
            return "no common values"
        if math.isnan(self.adjusted_p):
            return "one seed: says nothing about others"
        if self.adjusted_p < LEVEL:
            return "significantly higher" if self.estimate.mean > 0 else "significantly lower"
        return "not significant, once all are counted" if self.estimate.p_value < LEVEL else "not significant"


def require_same_evaluation(results: Results, start: Measured | None) -> None:
    """Raise BadInput unless all models were asked the same questions by the same rules."""
    found = [*([start] if start else []), *(each for of_arm in results.values() for each in of_arm.values())]
    for other in found[1:]:
        names = f"{found[0].evaluation.name} and {other.evaluation.name}"
        try:
            require_comparable(found[0].evaluation, other.evaluation)
        except ValueError as error:
            raise BadInput(f"the evaluations of {names} cannot be compared: {error}") from None
        for benchmark, facts in found[0].facts.items():
            require_alike(
                benchmark, found[0].evaluation.name, facts, other.evaluation.name, other.facts.get(benchmark, {})
            )


def table_of_values(models: Iterable[Measured], measure: str) -> np.ndarray:
    """Return a measure as float [S, P], NaN where a passage has no value."""
    return np.array([each.values(measure) for each in models])


def mean(models: Sequence[Measured], measure: str) -> CrossedEstimate | None:
    """Estimate a measure over seeds and passages; return None if there is no value.

    Passages that lack a value for one of the seeds are left out.
    """
    return _of_complete_passages(table_of_values(models, measure)) if models else None


def differences_of_arms(results: Results, reference: str, measures: Sequence[str]) -> list[Difference]:
    """Compare every other arm with the reference over their common seeds, as one family of tests."""
    found = []
    for measure in measures:
        for arm, of_arm in results.items():
            if arm != reference:
                of_reference = results.get(reference, {})
                seeds = tuple(sorted(of_arm.keys() & of_reference.keys()))
                pairs = [table_of_values((each[seed] for seed in seeds), measure) for each in (of_arm, of_reference)]
                estimate = _of_complete_passages(pairs[0] - pairs[1]) if seeds else None
                found.append(Difference(measure, arm, reference, seeds, estimate))
    return _adjusted(found)


def differences_to_start(results: Results, start: Measured, measures: Sequence[str]) -> list[Difference]:
    """Compare every arm with the model that its runs start from, as one family of tests."""
    found = []
    for measure in measures:
        before = table_of_values([start], measure)
        for arm, of_arm in results.items():
            seeds = tuple(sorted(of_arm))
            after = table_of_values((of_arm[seed] for seed in seeds), measure)
            estimate = _of_complete_passages(after - before) if seeds else None
            found.append(Difference(measure, arm, start.evaluation.name, seeds, estimate))
    return _adjusted(found)


def _of_complete_passages(values_SP: np.ndarray) -> CrossedEstimate | None:
    complete = values_SP[:, ~np.isnan(values_SP).any(axis=0)]
    return crossed_estimate(complete) if complete.size else None


def _adjusted(differences: Sequence[Difference]) -> list[Difference]:
    """Return the differences with p-values adjusted for their number."""
    p_values = [
        each.estimate.p_value if each.estimate and each.estimate.seeds > 1 else math.nan for each in differences
    ]
    return [
        Difference(each.measure, each.arm, each.reference, each.seeds, each.estimate, adjusted)
        for each, adjusted in zip(differences, holm(p_values), strict=True)
    ]


def conclusion(differences: Sequence[Difference]) -> list[str]:
    """Describe in sentences which effects a family of differences shows and which it does not."""
    tested = [each for each in differences if not math.isnan(each.adjusted_p)]
    if not tested:
        return ["Nothing was tested: a comparison of methods needs at least two seeds of both."]
    claims = [each for each in tested if each.adjusted_p < LEVEL]
    withdrawn = [
        each for each in tested if each.estimate and each.estimate.p_value < LEVEL and each.adjusted_p >= LEVEL
    ]
    lines = []
    for each in claims:
        assert each.estimate is not None
        size = f"by {abs(each.estimate.mean):.3f} ± {each.estimate.half_width:.3f} (p = {_p(each.adjusted_p)})"
        lines.append(
            f"Significant: {label(each.measure)} is {each.verdict.removeprefix('significantly ')} with {each.arm} than "
            f"with {each.reference}, {size}."
        )
    if not claims:
        lines.append(f"Not significant, with their number accounted for: all {len(tested)} differences.")
    elif len(claims) < len(tested):
        lines.append(f"Not significant: the other {len(tested) - len(claims)} of {len(tested)} differences.")
    if withdrawn:
        listed = "; ".join(f"{label(each.measure)}, {each.arm}" for each in withdrawn)
        lines.append(f"Beyond its own interval, but not significant among {len(tested)} tests: {listed}.")
    if len(claims) < len(tested):
        widest = max(each.estimate.half_width for each in tested if each not in claims and each.estimate)
        lines.append(
            f"Not significant does not mean equal: the widest of these intervals hides differences up to {widest:.3f}."
        )
    return lines


def label(measure: str) -> str:
    """Return the display name of a measure or a benchmark."""
    return MEASURES[measure][0] if measure in MEASURES else f"benchmark {measure}"


def difference_rows(differences: Sequence[Difference]) -> list[list[str]]:
    """Build the rows of a table of differences: measure, arms, seeds, interval, p-values, verdict."""
    rows = []
    for each in differences:
        estimate = each.estimate
        interval = f"{estimate.mean:+.3f} ± {estimate.half_width:.3f}" if estimate else "–"
        tested = estimate is not None and not math.isnan(each.adjusted_p)
        p_values = [_p(estimate.p_value), _p(each.adjusted_p)] if estimate is not None and tested else ["–", "–"]
        counts = [str(len(each.seeds)), str(estimate.passages if estimate else 0)]
        rows.append([label(each.measure), f"{each.arm} − {each.reference}", *counts, interval, *p_values, each.verdict])
    return rows


HEADER = ["", "difference", "seeds", "items", "mean ± 95 %", "p", "p, Holm", "verdict"]


def _p(value: float) -> str:
    return "< .001" if value < 0.001 else f"{value:.3f}".removeprefix("0")
