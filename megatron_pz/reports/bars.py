"""Draw evaluations side by side as bars with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from megatron_pz.runtime.files import write_whole

COLOURS = ("#BBBBBB", "#56B4E9", "#009E73", "#E69F00", "#CC79A7")
"""Colours of the Okabe-Ito palette; the first, for the untrained model, is grey."""


def draw_bars(path: Path, title: str, labels: Sequence[str], bars: Mapping[str, Sequence[tuple[float, float]]]) -> None:
    """Write a PNG with a group of bars for each label, which has one bar for each model.

    ``bars`` gives each model's (mean, half-width) along ``labels``; a NaN mean has no bar, a NaN half-width no whisker.
    """
    figure = Figure(figsize=(2.3 * len(labels) + 1.5, 4.6), layout="constrained")
    axes = figure.add_subplot()
    width = 0.8 / len(bars)
    for number, (name, values) in enumerate(bars.items()):
        places = np.arange(len(labels)) + (number - (len(bars) - 1) / 2) * width
        means = np.array([mean for mean, _ in values])
        half_widths = np.nan_to_num([half_width for _, half_width in values])
        colour = COLOURS[number % len(COLOURS)]
        known = ~np.isnan(means)
        axes.bar(
            places[known], means[known], width * 0.92, yerr=half_widths[known], capsize=3, color=colour, label=name
        )
        for place, mean, half_width in zip(places, means, half_widths, strict=True):
            if not np.isnan(mean):
                axes.annotate(
                    f"{mean:.2f}",
                    (place, mean + half_width),
                    xytext=(0, 3),
                    textcoords="offset points",
                    ha="center",
                    fontsize=8,
                )
    axes.set_xticks(range(len(labels)), labels)
    axes.set_ylabel("share, or mean reward")
    axes.set_ylim(0, None)
    axes.margins(y=0.08)
    axes.set_title(title, loc="left", fontsize=12)
    axes.grid(axis="y", alpha=0.25)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(framealpha=0.85)
    write_whole(path, lambda partial: figure.savefig(partial, dpi=110))
