"""Draw the curves of several methods on the same axes: the mean over training seeds, and the range of the seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from megatron_pz.monitoring.metrics import StepMetrics
from megatron_pz.reports.curves import moving_mean
from megatron_pz.runtime.files import write_whole

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""The Okabe-Ito palette."""
COLUMNS = 3
POINTS = 200
"""Places along the horizontal axis at which the seeds' curves are averaged."""


@dataclass(frozen=True)
class Panel:
    """One metric of all methods."""

    metric: str
    title: str
    unit: str


PANELS = (
    Panel("predictor/accuracy", "Predictor: accuracy on the masks of the run", "share right"),
    Panel("predictor/groups_mixed", "Predictor: groups with a gradient", "share of masks"),
    Panel("predictor/format", "Predictor: readable answers", "share of responses"),
    Panel("predictor/response_length", "Predictor: response length", "tokens"),
    Panel("predictor/entropy", "Predictor: entropy", "nats a token"),
    Panel("train/grad_norm", "Gradient norm, before clipping", "L2 norm"),
    Panel("generator/valid_masks", "Generator: valid masks", "share of rollouts"),
    Panel("generator/reward", "Generator: mean reward", "by the run's own rule"),
    Panel("generator/entropy", "Generator: entropy", "nats a token"),
)

Runs = Mapping[str, Sequence[Sequence[StepMetrics]]]
"""The steps of each method's runs, a run for each seed."""


def draw_bands(runs: Runs, path: Path, title: str, *, by_compute: bool) -> None:
    """Write a PNG with a panel for every metric that some run has.

    Lines are the mean over the seeds of a moving mean over a tenth of each run. Bands span the range of the seeds. Both
    end where the shortest run of a method ends.

    Args:
        by_compute: put operations on the horizontal axis instead of steps.
    """
    panels = [
        each for each in PANELS if any(_has(run, each.metric) for of_method in runs.values() for run in of_method)
    ]
    panels += [
        Panel(name, f"Held out: {name.removeprefix('held_out/').replace('_', ' ')}", "mean over passages")
        for name in ("held_out/repeated_accuracy", "held_out/valid_masks", "held_out/generator_reward")
        if any(_has(run, name) for of_method in runs.values() for run in of_method)
    ]
    rows = max(1, -(-len(panels) // COLUMNS))
    figure = Figure(figsize=(5.4 * COLUMNS, 3.7 * rows), layout="constrained")
    for index, panel in enumerate(panels):
        axes = figure.add_subplot(rows, COLUMNS, index + 1)
        for (method, of_method), colour in zip(runs.items(), _colours(len(runs)), strict=True):
            _draw_method(axes, [run for run in of_method if _has(run, panel.metric)], panel, method, colour, by_compute)
        axes.set_title(panel.title, fontsize=11, loc="left")
        axes.set_xlabel("floating point operations" if by_compute else "step")
        axes.set_ylabel(panel.unit)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
    handles: dict[str, Any] = {}
    for axes in figure.axes:
        drawn, names = axes.get_legend_handles_labels()
        handles |= dict(zip(names, drawn, strict=True))
    if handles:
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=len(handles), frameon=False)
    figure.suptitle(title, fontsize=14)
    write_whole(path, lambda partial: figure.savefig(partial, dpi=110))


def _colours(count: int) -> list[str]:
    return [COLOURS[index % len(COLOURS)] for index in range(count)]


def _has(run: Sequence[StepMetrics], metric: str) -> bool:
    return any(np.isfinite(step.values.get(metric, np.nan)) for step in run)


def _draw_method(
    axes: Axes, runs: Sequence[Sequence[StepMetrics]], panel: Panel, method: str, colour: str, by_compute: bool
) -> None:
    if not runs:
        return
    curves = [_curve(run, panel.metric, by_compute) for run in runs]
    first, last = max(places[0] for places, _ in curves), min(places[-1] for places, _ in curves)
    grid = np.linspace(first, max(first, last), POINTS)
    heights = np.stack([np.interp(grid, places, heights) for places, heights in curves])
    label = f"{method} ({len(runs)} seed{'s' if len(runs) > 1 else ''})"
    dot = "o" if first == last else ""  # a line of one point shows nothing
    axes.plot(grid, heights.mean(axis=0), marker=dot, color=colour, linewidth=2, label=label)
    if len(runs) > 1:
        axes.fill_between(grid, heights.min(axis=0), heights.max(axis=0), color=colour, alpha=0.18, linewidth=0)


def _curve(run: Sequence[StepMetrics], metric: str, by_compute: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return (places, smoothed values) of the steps that have a value."""
    measured = [step for step in run if np.isfinite(step.values.get(metric, np.nan))]
    places = [step.values["compute/flops"] if by_compute else float(step.iteration) for step in measured]
    return np.array(places), moving_mean(np.array([step.values[metric] for step in measured]))
