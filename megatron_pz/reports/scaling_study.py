"""Show the scaling of simulated steps over nodes, by schedule, as a table and a picture that state the assumptions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator, ScalarFormatter

from megatron_pz.reports.tables import table
from megatron_pz.runtime.files import write_whole

STRONG, WEAK = "strong scaling: the same step on more nodes", "weak scaling: the passages grow with the nodes"
_COLOURS = ("#0072B2", "#009E73", "#E69F00", "#CC79A7")
"""Colours of the Okabe-Ito palette."""
_MARKERS = "os^D"


@dataclass(frozen=True)
class SimulatedPoint:
    """A simulated step on a number of nodes."""

    kind: str
    """:data:`STRONG` or :data:`WEAK`."""
    schedule: str
    nodes: int
    devices: int
    seconds: float
    """Seconds of a step."""
    sampled: float
    """Tokens that the engines sample, per second of the whole step."""
    idle: float
    """Share of the devices' time in which they wait."""


@dataclass(frozen=True)
class MeasuredPoint:
    """The run to whose times the simulation's rates were fitted."""

    nodes: float
    """Its devices over those of a node of the study."""
    sampled: float
    """Tokens per second."""
    label: str


def efficiency(point: SimulatedPoint, points: Sequence[SimulatedPoint]) -> float:
    """Return tokens per second and device, divided by those of the same curve on the fewest nodes; 1 is ideal."""
    first = min((other for other in points if _curve(other) == _curve(point)), key=lambda other: other.nodes)
    return point.sampled / point.devices / (first.sampled / first.devices)


def _curve(point: SimulatedPoint) -> tuple[str, str]:
    return point.kind, point.schedule


def study_table(points: Sequence[SimulatedPoint], title: str) -> str:
    """Return a table with a row for every point, by kind, schedule and nodes."""
    blocks = []
    for kind in dict.fromkeys(point.kind for point in points):
        rows = [
            [
                point.schedule,
                f"{point.nodes}",
                f"{point.devices}",
                f"{point.seconds:.1f}",
                f"{point.sampled:,.0f}",
                f"{point.sampled / point.devices:,.1f}",
                f"{efficiency(point, points):.0%}",
                f"{point.idle:.0%}",
            ]
            for point in points
            if point.kind == kind
        ]
        header = ["schedule", "nodes", "devices", "step s", "tokens/s", "tokens/s/device", "efficiency", "idle"]
        blocks.append(table(kind, header, rows))
    return "\n\n".join([title, *blocks])


def draw_study(
    points: Sequence[SimulatedPoint], measured: MeasuredPoint | None, title: str, notes: str, path: Path
) -> None:
    """Write a PNG: tokens per second over nodes, and the efficiency of every curve, for each kind of scaling.

    Args:
        points: the simulated steps.
        measured: drawn as a star, apart from the simulated ones.
        title: the simulated model, device and work.
        notes: text below the axes that states what is simulated and what was measured.
        path: file of the picture.
    """
    kinds = list(dict.fromkeys(point.kind for point in points))
    schedules = list(dict.fromkeys(point.schedule for point in points))
    figure = Figure(figsize=(6.2 * len(kinds), 7.6), layout="constrained")
    figure.suptitle(title, fontsize=11)
    axes = figure.subplots(2, len(kinds), squeeze=False, height_ratios=(3, 2), sharex=True)
    for column, kind in enumerate(kinds):
        speed, share = axes[0][column], axes[1][column]
        for schedule, colour, marker in zip(schedules, _COLOURS, _MARKERS, strict=False):
            own = sorted((p for p in points if _curve(p) == (kind, schedule)), key=lambda point: point.nodes)
            nodes = [point.nodes for point in own]
            style = {"color": colour, "marker": marker, "markerfacecolor": "white", "linewidth": 1.6}
            speed.plot(nodes, [point.sampled for point in own], label=f"{schedule}, simulated", **style)
            share.plot(nodes, [100 * efficiency(point, points) for point in own], **style)
        _ideal(speed, [point for point in points if point.kind == kind])
        if measured is not None:
            speed.plot([measured.nodes], [measured.sampled], "*", color="black", markersize=14, label=measured.label)
        speed.set_title(kind, loc="left", fontsize=10)
        _finish(speed, share, sorted({point.nodes for point in points}))
    figure.text(0.01, -0.01, notes, fontsize=8.5, va="top")
    write_whole(path, lambda partial: figure.savefig(partial, dpi=110, bbox_inches="tight"))


def _ideal(axes: Axes, points: Sequence[SimulatedPoint]) -> None:
    """Draw ideal scaling: the first curve's speed on the fewest nodes, in proportion to the nodes."""
    first = min((point for point in points if point.schedule == points[0].schedule), key=lambda point: point.nodes)
    last = max(point.nodes for point in points)
    ends = [first.nodes, last]
    label = f"{first.schedule}, ideal"
    axes.plot(ends, [first.sampled * nodes / first.nodes for nodes in ends], "--", color="#999999", label=label)


def _finish(speed: Axes, share: Axes, nodes: Sequence[int]) -> None:
    speed.set_xscale("log", base=2)
    speed.set_yscale("log")
    share.xaxis.set_major_locator(FixedLocator(list(nodes)))
    share.xaxis.set_minor_locator(NullLocator())
    share.xaxis.set_major_formatter(ScalarFormatter())
    speed.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    speed.set_ylabel("sampled tokens per second of a step")
    speed.legend(fontsize=8.5, framealpha=0.85)
    share.set_ylim(0, max(110, 1.05 * share.dataLim.ymax))
    share.set_ylabel("efficiency, % of the fewest nodes'")
    share.set_xlabel("nodes")
    for axes in (speed, share):
        axes.grid(alpha=0.25)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
