"""Find signs of collapsed training in the metrics of its steps, each with its evidence.

A sign must show in all of the last ``collapse_window`` steps. Signs of growth or decline are relative to the run's own
earlier steps and therefore need twice as many steps. :class:`megatron_pz.config.schema.CollapseConfig` has the bounds
and their sources.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from megatron_pz.config.schema import CollapseConfig
from megatron_pz.monitoring.metrics import METRICS_FILE, StepMetrics, read_metrics
from megatron_pz.rl.statistics import ROLES

COUNT = "health/collapse_signs"
"""Metric with the number of signs that a step shows."""


@dataclass(frozen=True)
class CollapseSign:
    """A sign of collapse and the metric that shows it."""

    sign: str
    """Description of the sign."""
    metric: str
    steps: tuple[int, ...]
    values: tuple[float, ...]
    """The metric in these steps."""
    bound: str
    """Description of the bound that all of the values have reached."""

    def __str__(self) -> str:
        """Return the sign and its evidence in one line."""
        values = ", ".join(f"{value:.3g}" for value in self.values)
        return f"{self.sign}: {self.metric} {values} in steps {self.steps[0]} to {self.steps[-1]}, {self.bound}"


def signs_of_collapse(steps: Sequence[StepMetrics], config: CollapseConfig) -> list[CollapseSign]:
    """Return the signs that the last steps of a run show; ``steps`` are all of its steps so far, in order.

    A step that lacks a metric, such as the accuracy of a step without valid masks, shows no sign by that metric.

    >>> idle = [StepMetrics(step, {"predictor/groups_mixed": 0.0}) for step in (1, 2, 3, 4, 5)]
    >>> print(*signs_of_collapse(idle, CollapseConfig()))
    predictor groups all alike: predictor/groups_mixed 0, 0, 0, 0, 0 in steps 1 to 5, at most 0.01
    """
    return list(_signs(_History(steps, config.collapse_window), config))


class _History:
    """The metrics of a run, split into the last steps and those before them."""

    def __init__(self, steps: Sequence[StepMetrics], window: int) -> None:
        self._steps, self._window = steps, window

    def last(self, metric: str) -> tuple[float, ...]:
        """Return the values of the last steps; empty if there are fewer steps or one of them has no value."""
        found = tuple(step.values.get(metric, math.nan) for step in self._steps[-self._window :])
        return found if len(found) == self._window and not any(map(math.isnan, found)) else ()

    def before(self, metric: str) -> list[float]:
        """Return the means over each window of values before the last steps, earliest first."""
        values = [step.values.get(metric, math.nan) for step in self._steps[: -self._window]]
        known = [value for value in values if not math.isnan(value)]
        if len(known) < self._window:
            return []
        return list(np.convolve(known, np.full(self._window, 1 / self._window), mode="valid"))

    def passed(self, sign: str, metric: str, bound: float, *, above: bool, what: str = "") -> Iterator[CollapseSign]:
        """Yield the sign if all of the last values are at or beyond the bound."""
        last, beyond = self.last(metric), operator.ge if above else operator.le
        if last and all(beyond(value, bound) for value in last):
            steps = tuple(step.iteration for step in self._steps[-self._window :])
            side = "at least" if above else "at most"
            yield CollapseSign(sign, metric, steps, last, f"{side} {bound:.3g}{what}")


def _signs(history: _History, config: CollapseConfig) -> Iterator[CollapseSign]:
    alike, equal = "groups_mixed", "groups_equal"
    yield from history.passed(
        f"predictor groups {_alike(history)}", f"predictor/{alike}", config.collapse_mixed_share, above=False
    )
    yield from history.passed("solver groups all alike", f"solver/{alike}", config.collapse_mixed_share, above=False)
    yield from history.passed(
        "generator groups all alike", f"generator/{equal}", 1 - config.collapse_mixed_share, above=True
    )
    for role in ROLES:
        entropy, truncated = f"{role}/entropy", f"{role}/truncated"
        yield from history.passed(f"{role} entropy gone", entropy, config.collapse_entropy_floor, above=False)
        if (earlier := history.before(entropy)) and earlier[0] > 0:
            factor = config.collapse_entropy_growth
            what = f", {factor:g} times the {earlier[0]:.3g} of the first steps"
            yield from history.passed(f"{role} entropy runs away", entropy, factor * earlier[0], above=True, what=what)
        if (earlier := history.before(truncated)) and earlier[0] < config.collapse_truncated_share:
            what = f", {earlier[0]:.3g} in the first steps"
            yield from history.passed(
                f"{role} length runs away", truncated, config.collapse_truncated_share, above=True, what=what
            )
    readable = {
        "generator/valid_masks": "valid masks",
        "predictor/format": "readable answers",
        "solver/format": "readable answers of the solver",
    }
    for metric, words in readable.items():
        if (earlier := history.before(metric)) and (best := max(earlier)) > 0:
            share = config.collapse_validity_share
            what = f", {share:g} of the {best:.3g} before"
            yield from history.passed(f"{words} fall", metric, share * best, above=False, what=what)


def _alike(history: _History) -> str:
    """Describe how the predictor's groups are alike."""
    for outcome, words in (("groups_all_zero", "all 0"), ("groups_all_one", "all 1")):
        if (last := history.last(f"predictor/{outcome}")) and min(last) > 0.5:
            return words
    return "all alike"


class CollapseWatch:
    """Examines a run step by step, and remembers the steps before it was resumed."""

    def __init__(self, config: CollapseConfig, steps: Sequence[StepMetrics] = ()) -> None:
        self._config, self._steps = config, list(steps)
        self._known = {sign.sign for sign in signs_of_collapse(self._steps, config)}

    @classmethod
    def resumed(cls, config: CollapseConfig, load: str, iteration: int) -> CollapseWatch:
        """Continue after ``iteration`` steps of the run in ``load``, with its metrics, if any, as history."""
        if not load or not (Path(load) / METRICS_FILE).is_file():
            return cls(config)
        return cls(config, [step for step in read_metrics(Path(load)) if step.iteration <= iteration])

    def examine(self, step: StepMetrics) -> tuple[list[CollapseSign], list[CollapseSign]]:
        """Add a step; return all present signs, and those that the previous step did not show."""
        self._steps.append(step)
        signs = signs_of_collapse(self._steps, self._config)
        new = [sign for sign in signs if sign.sign not in self._known]
        self._known = {sign.sign for sign in signs}
        return signs, new


def first_collapse(steps: Sequence[StepMetrics], config: CollapseConfig) -> list[CollapseSign]:
    """Return the signs of the first step whose ``health/collapse_signs`` is not 0; empty if there is none."""
    marked = (end for end, step in enumerate(steps, 1) if step.values.get(COUNT, 0.0) > 0)
    return signs_of_collapse(steps[: next(marked, 0)], config)
