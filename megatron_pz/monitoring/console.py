"""Print Megatron-LM's iteration lines, and a progress bar if standard error is a terminal."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from datetime import datetime
from typing import NoReturn, TextIO

from tqdm import tqdm

MEGATRON_FIELDS: tuple[tuple[str, str, str, float], ...] = (
    ("train/consumed_passages", "consumed samples", "12.0f", 1.0),
    ("train/consumed_questions", "consumed samples", "12.0f", 1.0),
    ("time/iteration", "elapsed time per iteration (ms)", ".1f", 1000.0),
    ("train/lr", "learning rate", ".6E", 1.0),
    ("train/responses", "global batch size", "5.0f", 1.0),
    ("train/loss", "loss", ".6E", 1.0),
    ("train/grad_norm", "grad norm", ".3f", 1.0),
)
"""Metric, label, format and factor, in the order and widths of Megatron-LM's ``training_log``. A sample is a passage or
a question."""

ROLE_FIELDS: tuple[tuple[str, str, str, float], ...] = (
    ("generator/reward", "generator reward", ".3f", 1.0),
    ("generator/valid_masks", "valid masks", ".3f", 1.0),
    ("generator/distinct_masks", "distinct masks", ".2f", 1.0),
    ("predictor/accuracy", "predictor accuracy", ".3f", 1.0),
    ("predictor/groups_all_zero", "groups all 0", ".3f", 1.0),
    ("predictor/groups_all_one", "groups all 1", ".3f", 1.0),
    ("generator/response_length", "generator length", ".1f", 1.0),
    ("predictor/response_length", "predictor length", ".1f", 1.0),
    ("generator/truncated", "generator truncated", ".3f", 1.0),
    ("predictor/truncated", "predictor truncated", ".3f", 1.0),
    ("generator/entropy", "generator entropy", ".3f", 1.0),
    ("predictor/entropy", "predictor entropy", ".3f", 1.0),
    ("solver/reward", "reward", ".3f", 1.0),
    ("solver/accuracy", "accuracy", ".3f", 1.0),
    ("solver/format", "readable answers", ".3f", 1.0),
    ("solver/groups_all_zero", "groups all 0", ".3f", 1.0),
    ("solver/groups_all_one", "groups all 1", ".3f", 1.0),
    ("solver/response_length", "response length", ".1f", 1.0),
    ("solver/truncated", "truncated", ".3f", 1.0),
    ("solver/entropy", "entropy", ".3f", 1.0),
    ("held_out/accuracy", "held-out accuracy", ".3f", 1.0),
    ("health/log_prob_difference_mean", "log-prob difference", ".2E", 1.0),
)
"""Fields of the roles, appended in the same format."""


def iteration_line(iteration: int, total_iterations: int, metrics: Mapping[str, float], now: datetime) -> str:
    """Format Megatron-LM's line for one iteration. Metrics that the step lacks are left out; NaN is shown as ``-``."""
    parts = [f" [{now:%Y-%m-%d %H:%M:%S}] iteration {iteration:8d}/{total_iterations:8d} |"]
    for name, label, form, factor in (*MEGATRON_FIELDS, *ROLE_FIELDS):
        if name in metrics:
            value = metrics[name]
            parts.append(f" {label}: {'-' if math.isnan(value) else format(value * factor, form)} |")
    return "".join(parts)


class Console:
    """Prints iteration lines to standard output; keeps a bar below them while standard error is a terminal."""

    def __init__(self, total_iterations: int, first_iteration: int, out: TextIO | None = None) -> None:
        """Open the progress bar at ``first_iteration``, the number of iterations already done."""
        self._total = total_iterations
        self._out = out or sys.stdout
        self._bar: tqdm[NoReturn] = tqdm(
            total=total_iterations,
            initial=first_iteration,
            unit="step",
            dynamic_ncols=True,
            disable=not sys.stderr.isatty(),
        )

    def show(self, iteration: int, metrics: Mapping[str, float]) -> None:
        """Print the line of an iteration and move the bar to it."""
        tqdm.write(iteration_line(iteration, self._total, metrics, datetime.now()), file=self._out)
        self._out.flush()
        self._bar.update(iteration - self._bar.n)

    def close(self) -> None:
        """Close the bar and leave it in its last state."""
        self._bar.close()
