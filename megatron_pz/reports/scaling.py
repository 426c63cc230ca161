"""How a run's speed grows with its processes, from what runs of the same recipe have logged.

Two ways to ask: the same work on more processes (strong scaling), or work that grows with them (weak scaling). Both are
read off the same figure, the tokens that go through the whole step in a second. Steps differ in their tokens, since
responses do; a rate of tokens does not mind.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator, ScalarFormatter

from megatron_pz.monitoring.launches import read_launches
from megatron_pz.monitoring.metrics import StepMetrics, read_metrics
from megatron_pz.reports.tables import table
from megatron_pz.runtime.errors import BadInput

PARTS = ("rollout", "update", "sync")
"""Of a step; what is left are data, rewards, packing and logs, and waiting for other ranks between the parts."""
NOT_OF_A_STEP = ("checkpoint", "evaluation")
COLOURS = ("#56B4E9", "#009E73", "#E69F00", "#BBBBBB")
"""Of the Okabe-Ito palette."""


@dataclass(frozen=True)
class ScalingPoint:
    """The speed of one run: medians over its steps."""

    processes: int
    nodes: int
    device: str
    steps: int
    """Those that count."""
    seconds: float
    """Of a step, without checkpoints and evaluations."""
    parts: tuple[float, ...]
    """Seconds along :data:`PARTS`."""
    sampled: float
    """Tokens that the engines write, a second of the whole step."""
    trained: float
    """Tokens that the trainer learns from, a second of the whole step; a prompt that responses share counts once."""

    @property
    def rest(self) -> float:
        """Seconds of a step in none of its parts."""
        return max(0.0, self.seconds - sum(self.parts))


def read_point(run: Path, warm_up: int = 1) -> ScalingPoint:
    """The speed of the run in this ``--save`` folder.

    Args:
        run: of ``megatron_pz.train``.
        warm_up: steps after each start that do not count: they compile, allocate and fill caches.

    Raises:
        BadInput: no such run, too few steps, or they were done by different numbers of processes.
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

    def rate(tokens: str) -> float:
        name = f"compute/{tokens}_tokens"  # a sum over the run so far
        work = [step.values[name] - before.values.get(name, 0.0) for before, step in counted]
        return statistics.median(amount / taken for amount, taken in zip(work, seconds, strict=True))

    return ScalingPoint(
        processes,
        nodes,
        device,
        len(counted),
        statistics.median(seconds),
        tuple(statistics.median(step.values[f"time/{part}"] for _, step in counted) for part in PARTS),
        rate("sampled"),
        rate("trained"),
    )


def _seconds(step: StepMetrics) -> float:
    left_out = sum(step.values.get(f"time/{part}", 0.0) for part in NOT_OF_A_STEP)
    return step.values["time/iteration"] - left_out


def speed_ups(points: Sequence[ScalingPoint]) -> list[float]:
    """Sampled tokens a second over those of the smallest run."""
    return [point.sampled / points[0].sampled for point in points]


def efficiencies(points: Sequence[ScalingPoint]) -> list[float]:
    """Speed-up over the growth in processes; 1 is ideal."""
    grown = [point.processes / points[0].processes for point in points]
    return [speed_up / growth for speed_up, growth in zip(speed_ups(points), grown, strict=True)]


def in_order(points: Sequence[ScalingPoint]) -> list[ScalingPoint]:
    """By processes. Raises :class:`BadInput` for two of one size, and for runs on different devices."""
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
    """A row for every run; ``points`` as :func:`in_order` gives them."""
    rows = []
    for point, speed_up, efficiency in zip(points, speed_ups(points), efficiencies(points), strict=True):
        times = (point.seconds, *point.parts, point.rest)
        rows.append(
            [
                f"{point.processes}",
                f"{point.nodes}",
                f"{point.steps}",
                *(f"{value:.2f}" for value in times),
                f"{point.sampled:,.0f}",
                f"{point.trained:,.0f}",
                f"{speed_up:.2f}",
                f"{efficiency:.0%}",
            ]
        )
    header = ["processes", "nodes", "steps", "step s", *(f"{part} s" for part in PARTS), "rest s"]
    header += ["sampled tokens/s", "trained tokens/s", "speed-up", "efficiency"]
    return table(f"{points[0].device}, medians over steps", header, rows)


def draw_scaling(points: Sequence[ScalingPoint], path: Path) -> None:
    """Write a PNG: where a step's time goes, and the speed-up beside the ideal."""
    figure = Figure(figsize=(11, 4.4), layout="constrained")
    times, speed = figure.subplots(1, 2)
    places, floor = np.arange(len(points)), np.zeros(len(points))
    stacks = [*zip(*(point.parts for point in points), strict=True), tuple(point.rest for point in points)]
    for name, heights, colour in zip((*PARTS, "rest"), stacks, COLOURS, strict=True):
        times.bar(places, heights, 0.6, bottom=floor, color=colour, label=name)
        floor += np.array(heights)
    times.set_xticks(places, [str(point.processes) for point in points])
    times.set_ylabel("seconds a step")
    times.set_title("Where the time goes", loc="left", fontsize=11)

    processes = [point.processes for point in points]
    speed.plot(processes, [size / processes[0] for size in processes], "--", color="#999999", label="ideal")
    speed.plot(processes, speed_ups(points), "o-", color="#0072B2", label="sampled tokens a second")
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
    figure.savefig(path, dpi=110)
