"""Draw the curves of a run as one picture, with a panel for each group of metrics.

Run it as ``python -m megatron_pz.reports.curves RUN [--output FILE.png]``, also during a run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from megatron_pz.config.command_line import Parser
from megatron_pz.monitoring.metrics import StepMetrics, read_metrics
from megatron_pz.runtime.errors import BadInput, exits_with_one_line
from megatron_pz.runtime.files import write_whole

matplotlib.use("Agg")

GENERATOR, PREDICTOR, OTHER = "#0072B2", "#D55E00", "#555555"
GOOD, IDLE = "#009E73", "#BBBBBB"
SHARES = ("#E69F00", "#56B4E9", "#CC79A7", "#F0E442", "#D55E00", "#0072B2", "#999999", "#000000")
"""Colours of the Okabe-Ito palette, which colour-blind readers can tell apart, for parts without a fixed colour."""

Series = Callable[[str], np.ndarray]
"""Metric name to one value an iteration, NaN if it was not measured."""


@dataclass(frozen=True)
class Line:
    """One curve of a panel."""

    metric: str
    label: str
    colour: str
    style: str = "-"


@dataclass(frozen=True)
class LinePanel:
    """Curves over iterations: raw values in a pale colour, their moving mean in full colour."""

    title: str
    unit: str
    lines: tuple[Line, ...]
    log_scale: bool = False
    from_zero: bool = True

    def draw(self, axes: Axes, iterations: np.ndarray, series: Series) -> None:
        for line in self.lines:
            values = series(line.metric)
            if np.isnan(values).all():
                continue
            axes.plot(iterations, values, line.style, color=line.colour, alpha=0.3, linewidth=1)
            dot = "o" if len(values) == 1 else ""  # a line of one point shows nothing
            means = moving_mean(values)
            axes.plot(iterations, means, line.style, marker=dot, color=line.colour, linewidth=2, label=line.label)
        if self.log_scale:
            axes.set_yscale("log")
        elif self.from_zero:
            axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
            if axes.dataLim.y0 < 0:
                axes.axhline(0.0, color=OTHER, linewidth=0.8)


@dataclass(frozen=True)
class SharePanel:
    """Parts of a whole, stacked. ``prefix`` adds every metric whose name begins with it, largest first."""

    title: str
    unit: str
    parts: tuple[Line, ...] = ()
    prefix: str = ""
    left_out: tuple[str, ...] = ()
    """Names under the prefix that are not parts: totals, and parts of parts."""
    whole_is_one: bool = True

    def draw(self, axes: Axes, iterations: np.ndarray, series: Series, names: Sequence[str] = ()) -> None:
        known = {part.metric for part in self.parts} | set(self.left_out)
        found = [name for name in names if self.prefix and name.startswith(self.prefix) and name not in known]
        found.sort(key=lambda name: -np.nansum(series(name)))
        labels = [name.removeprefix(self.prefix).replace("_", " ") for name in found]
        parts = [*self.parts, *map(Line, found, labels, (SHARES[i % len(SHARES)] for i in range(len(found))))]
        parts = [part for part in parts if np.nansum(series(part.metric)) > 0]
        if not parts:
            return
        heights = np.nan_to_num(np.stack([series(part.metric) for part in parts]))
        edges = np.append(iterations - 0.5, iterations[-1] + 0.5)
        floor = np.zeros(len(iterations))
        for part, height in zip(parts, heights, strict=True):
            top = floor + height
            axes.stairs(top, edges, baseline=floor, fill=True, color=part.colour, alpha=0.85, label=part.label)
            floor = top
        if self.whole_is_one:
            axes.set_ylim(0, 1)


def _role_lines(quantity: str) -> tuple[Line, Line]:
    return (
        Line(f"generator/{quantity}", "generator", GENERATOR),
        Line(f"predictor/{quantity}", "predictor", PREDICTOR),
    )


NOT_A_PART_OF_THE_TIME = tuple(
    f"time/{name}"
    for name in (
        "iteration",
        "cpu_seconds",
        "rollout_engines",
        "update_passes",
        "engine_tail",
        "engine_idle_share",
        "generator_tokens_per_engine_second",
        "predictor_tokens_per_engine_second",
        "solver_tokens_per_engine_second",
    )
)
"""The whole, measures of its parts, and rates."""

PANELS: tuple[LinePanel | SharePanel, ...] = (
    LinePanel(
        "Reward",
        "mean reward",
        (
            Line("generator/reward", "generator (Eq. 9)", GENERATOR),
            Line("predictor/accuracy", "predictor (exact match)", PREDICTOR),
        ),
    ),
    SharePanel(
        "Generator rollouts: valid masks and causes of failure",
        "share of rollouts",
        parts=(Line("generator/valid_masks", "valid mask", GOOD),),
        prefix="generator/fault_",
    ),
    SharePanel(
        "Predictor groups: the answers to one mask",
        "share of masks",
        parts=(
            Line("predictor/groups_mixed", "mixed: these teach", GOOD),
            Line("predictor/groups_all_zero", "all wrong", IDLE),
            Line("predictor/groups_all_one", "all right", "#56B4E9"),
        ),
    ),
    LinePanel("Response length", "tokens", _role_lines("response_length")),
    LinePanel("Truncated responses", "share of responses", _role_lines("truncated")),
    LinePanel("Entropy of the sampled tokens", "nats a token", _role_lines("entropy")),
    LinePanel(
        "Rollout against trainer: |difference of log p|",
        "nats a token",
        (
            Line("health/log_prob_difference_mean", "mean", OTHER),
            Line("health/log_prob_difference_max", "largest", "#CC79A7"),
        ),
        log_scale=True,
    ),
    LinePanel("Gradient norm, before clipping", "L2 norm", (Line("train/grad_norm", "gradient norm", OTHER),)),
    SharePanel(
        "Where the time goes",
        "seconds an iteration",
        prefix="time/",
        left_out=NOT_A_PART_OF_THE_TIME,
        whole_is_one=False,
    ),
)
COLUMNS = 3


def moving_mean(values: np.ndarray) -> np.ndarray:
    """Compute a centred moving mean over a tenth of the run (at least 3 steps).

    NaN values are left out, and windows shrink at the ends.
    """
    half = max(1, round(len(values) / 20))
    windows = (values[max(0, i - half) : i + half + 1] for i in range(len(values)))
    return np.array([np.nan if np.isnan(window).all() else np.nanmean(window) for window in windows])


def draw_curves(steps: Sequence[StepMetrics], path: Path, title: str = "") -> None:
    """Write the picture of a run to ``path`` (PNG). Raise :class:`BadInput` if there are no steps."""
    if not steps:
        raise BadInput("the run has no iterations to draw yet")
    iterations = np.array([step.iteration for step in steps])
    names = sorted({name for step in steps for name in step.values})

    def series(name: str) -> np.ndarray:
        return np.array([step.values.get(name, np.nan) for step in steps], dtype=float)

    rows = -(-len(PANELS) // COLUMNS)
    figure = Figure(figsize=(5.4 * COLUMNS, 3.7 * rows), layout="constrained")
    for index, panel in enumerate(PANELS):
        axes = figure.add_subplot(rows, COLUMNS, index + 1)
        if isinstance(panel, SharePanel):
            panel.draw(axes, iterations, series, names)
        else:
            panel.draw(axes, iterations, series)
        axes.set_xlim(
            iterations[0] - 0.5, iterations[-1] + 0.5
        )  # the same in all panels, so that columns can be compared
        _finish(axes, panel.title, panel.unit)
    if title:
        figure.suptitle(title, fontsize=14)
    write_whole(path, lambda partial: figure.savefig(partial, dpi=110))


def _finish(axes: Axes, title: str, unit: str) -> None:
    axes.set_title(title, fontsize=11, loc="left")
    axes.set_xlabel("iteration")
    axes.set_ylabel(unit)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8, framealpha=0.85)
    else:
        axes.text(0.5, 0.5, "not measured in this run", ha="center", va="center", transform=axes.transAxes, color=OTHER)


@exits_with_one_line
def main(argv: list[str] | None = None) -> None:
    """Draw the curves of the run named on the command line."""
    parser = Parser("Draw the curves of a run.")
    parser.add_argument("run", type=Path, help="the run's --save folder, or its metrics.jsonl")
    parser.add_argument("--output", type=Path, help="the picture; curves.png in the run's folder when left out")
    arguments = parser.parse_args(argv)
    folder = arguments.run if arguments.run.is_dir() else arguments.run.parent
    output: Path = arguments.output or folder / "curves.png"
    if output.suffix != ".png":
        raise BadInput(f"--output {output}: give a name that ends in .png")
    steps = read_metrics(arguments.run)
    try:
        draw_curves(steps, output, title=folder.resolve().name)
    except OSError as error:
        raise BadInput(f"--output {output}: cannot be written ({error.strerror or error})") from None
    print(output)


if __name__ == "__main__":
    main()
