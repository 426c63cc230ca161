"""Compare the speed of runs of one recipe on different numbers of processes, from their metrics.

Strong scaling gives the same work to more processes; weak scaling grows the work with them. Both are computed from the
tokens per second of the whole step, because the number of tokens varies between steps.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator, ScalarFormatter

from megatron_pz.config.parse import load_yaml
from megatron_pz.monitoring.launches import read_launches
from megatron_pz.monitoring.metrics import StepMetrics, read_metrics
from megatron_pz.reports.tables import table
from megatron_pz.runtime.errors import BadInput
from megatron_pz.runtime.files import write_whole

PARTS = ("rollout", "update", "sync")
"""Parts of a step. The rest is data, rewards, packing, logs, and waiting for other ranks between the parts."""
NOT_OF_A_STEP = ("checkpoint", "evaluation")
COLOURS = ("#56B4E9", "#009E73", "#E69F00", "#BBBBBB")
"""Colours of the Okabe-Ito palette."""
HEADROOM = 1.3
"""Height of a plot over its tallest bar, which leaves room for the legend."""

Quartiles = tuple[float, float]
"""First and third quartile over the steps of a run."""


@dataclass(frozen=True)
class ScalingPoint:
    """The speed of one run: medians over its steps, and the quartiles of two of them."""

    processes: int
    nodes: int
    device: str
    recipe: str
    """Description of the model and the step's size; empty if the run directory does not record them."""
    steps: int
    """Number of steps that count."""
    seconds: float
    """Seconds of a step, without checkpoints and evaluations."""
    parts: tuple[float, ...]
    """Seconds along :data:`PARTS`."""
    sampled: float
    """Tokens that the engines sample, per second of the whole step."""
    trained: float
    """Tokens that the trainer learns from, per second of the whole step; a shared prompt counts once."""
    seconds_spread: Quartiles
    sampled_spread: Quartiles

    @property
    def rest(self) -> float:
        """Return the seconds of a step outside its parts."""
        return max(0.0, self.seconds - sum(self.parts))


def read_point(run: Path, warm_up: int = 1) -> ScalingPoint:
    """Read the speed of the run in a ``--save`` directory of ``megatron_pz.train``.

    Args:
        run: the directory.
        warm_up: steps after each start that are excluded, because they compile, allocate and fill caches.

    Raises:
        BadInput: the run does not exist, has too few steps, or changed its number of processes.
    """
    launches, steps = read_launches(run), read_metrics(run)
    sizes = {(launch.processes, len(launch.hosts), launch.device) for launch in launches}
    if len(sizes) != 1:
        raise BadInput(f"{run}: its steps were done by different processes; give runs that kept to one layout")
    ((processes, nodes, device),) = sizes
    cold = {launch.iteration + number for launch in launches for number in range(1, warm_up + 1)}
    pairs = zip([StepMetrics(0, {}), *steps], steps, strict=False)
    counted = [(before, step) for before, step in pairs if step.iteration not in cold]
    if not counted:
        raise BadInput(f"{run}: has {len(steps)} steps, of which none counts after {warm_up} to warm up; run more")
    seconds = [_seconds(step) for _, step in counted]

    def rates(tokens: str) -> list[float]:
        name = f"compute/{tokens}_tokens"  # a sum over the run so far
        work = [step.values[name] - before.values.get(name, 0.0) for before, step in counted]
        return [amount / taken for amount, taken in zip(work, seconds, strict=True)]

    return ScalingPoint(
        processes=processes,
        nodes=nodes,
        device=device,
        recipe=_recipe(run),
        steps=len(counted),
        seconds=statistics.median(seconds),
        parts=tuple(statistics.median(step.values[f"time/{part}"] for _, step in counted) for part in PARTS),
        sampled=statistics.median(rates("sampled")),
        trained=statistics.median(rates("trained")),
        seconds_spread=_quartiles(seconds),
        sampled_spread=_quartiles(rates("sampled")),
    )


def _seconds(step: StepMetrics) -> float:
    left_out = sum(step.values.get(f"time/{part}", 0.0) for part in NOT_OF_A_STEP)
    return step.values["time/iteration"] - left_out


def _quartiles(values: Sequence[float]) -> Quartiles:
    first, third = np.quantile(values, (0.25, 0.75))
    return float(first), float(third)


def _recipe(run: Path) -> str:
    path = run / "config.yaml"
    if not path.is_file():
        return ""
    config = load_yaml(path)
    game, rollout = config.game, config.rollout
    return (
        f"{Path(config.model.hf_model).name}: {game.passages_per_step} passages x {game.masks_per_passage} masks x "
        f"{game.grpo_group_size} answers, {rollout.max_prompt_length} + {rollout.max_response_length} tokens"
    )


def speed_ups(points: Sequence[ScalingPoint]) -> list[float]:
    """Return each run's sampled tokens per second divided by those of the smallest run."""
    return [point.sampled / points[0].sampled for point in points]


def efficiencies(points: Sequence[ScalingPoint]) -> list[float]:
    """Return each run's speed-up divided by its growth in processes; 1 is ideal."""
    grown = [point.processes / points[0].processes for point in points]
    return [speed_up / growth for speed_up, growth in zip(speed_ups(points), grown, strict=True)]


def in_order(points: Sequence[ScalingPoint]) -> list[ScalingPoint]:
    """Sort runs by their number of processes.

    Raises:
        BadInput: two runs have the same size, or runs used different devices.
    """
    ordered = sorted(points, key=lambda point: point.processes)
    if len({point.processes for point in points}) < len(points):
        raise BadInput(f"two runs have {_repeated(ordered)} processes: give one run of each size")
    if len({point.device for point in points}) > 1:
        devices = ", ".join(sorted({point.device for point in points}))
        raise BadInput(f"the runs are of different devices ({devices}): their speeds cannot be compared")
    return ordered


def _repeated(ordered: Sequence[ScalingPoint]) -> int:
    sizes = [point.processes for point in ordered]
    return next(size for size in sizes if sizes.count(size) > 1)


def scaling_table(points: Sequence[ScalingPoint]) -> str:
    """Return a table with a row for every run; ``points`` are in the order of :func:`in_order`."""
    rows = []
    for point, speed_up, efficiency in zip(points, speed_ups(points), efficiencies(points), strict=True):
        times = (*point.parts, point.rest)
        rows.append(
            [
                f"{point.processes}",
                f"{point.nodes}",
                f"{point.steps}",
                f"{point.seconds:.2f} ({point.seconds_spread[0]:.2f}-{point.seconds_spread[1]:.2f})",
                *(f"{value:.2f}" for value in times),
                f"{point.sampled:,.0f}",
                f"{point.trained:,.0f}",
                f"{speed_up:.2f}",
                f"{efficiency:.0%}",
            ]
        )
    header = ["processes", "nodes", "steps", "step s (quartiles)", *(f"{part} s" for part in PARTS), "rest s"]
    header += ["sampled tokens/s", "trained tokens/s", "speed-up", "efficiency"]
    return table(f"{title(points)}; medians over steps", header, rows)


def title(points: Sequence[ScalingPoint]) -> str:
    """Describe device and recipe of the smallest run, with a note if other runs have another recipe."""
    recipes = {point.recipe for point in points}
    differ = "; the work grows with the processes" if len(recipes) > 1 else ""
    return f"{points[0].device}, {points[0].recipe}{differ}" if points[0].recipe else points[0].device


def draw_scaling(points: Sequence[ScalingPoint], path: Path) -> None:
    """Write a PNG: the parts of a step's time, and the speed-up beside the ideal. Whiskers span the quartiles."""
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    figure.suptitle(title(points), fontsize=10)
    times, speed = figure.subplots(1, 2)
    places, floor = np.arange(len(points)), np.zeros(len(points))
    stacks = [*zip(*(point.parts for point in points), strict=True), tuple(point.rest for point in points)]
    for name, heights, colour in zip((*PARTS, "rest"), stacks, COLOURS, strict=True):
        times.bar(places, heights, 0.6, bottom=floor, color=colour, label=name)
        floor += np.array(heights)
    ends = [point.seconds_spread for point in points]
    times.vlines(places, [low for low, _ in ends], [high for _, high in ends], color="#333333", label="quartiles")
    times.set_xlim(-0.6, len(points) - 0.4)
    times.set_ylim(0, HEADROOM * max(floor.max(), *(high for _, high in ends)))
    times.set_xticks(places, [str(point.processes) for point in points])
    times.set_ylabel("seconds a step")
    times.set_title("Where the time goes", loc="left", fontsize=11)

    processes = [point.processes for point in points]
    speed.plot(processes, [size / processes[0] for size in processes], "--", color="#999999", label="ideal")
    speed.plot(processes, speed_ups(points), "o-", color="#0072B2", label="sampled tokens per second")
    base = points[0].sampled
    spread = [point.sampled_spread for point in points]
    low, high = [first / base for first, _ in spread], [third / base for _, third in spread]
    speed.vlines(processes, low, high, color="#0072B2", alpha=0.6)
    for size, speed_up, efficiency in zip(processes, speed_ups(points), efficiencies(points), strict=True):
        speed.annotate(f"{efficiency:.0%}", (size, speed_up), xytext=(6, -12), textcoords="offset points", fontsize=9)
    speed.set_xscale("log", base=2)
    speed.set_yscale("log", base=2)
    for axis in (speed.xaxis, speed.yaxis):
        axis.set_major_locator(FixedLocator(processes if axis is speed.xaxis else [2.0**power for power in range(12)]))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(ScalarFormatter())
    speed.margins(0.08)
    speed.set_ylabel(f"times the speed of {processes[0]}")
    speed.set_title("Speed-up and efficiency", loc="left", fontsize=11)
    for axes in (times, speed):
        axes.set_xlabel("processes")
        axes.grid(axis="y", alpha=0.25)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(fontsize=9, framealpha=0.85)
    write_whole(path, lambda partial: figure.savefig(partial, dpi=110))
