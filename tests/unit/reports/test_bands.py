"""Curves of several methods, with a mean line and a band for each, over compute or steps."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from megatron_pz.monitoring.metrics import StepMetrics
from megatron_pz.reports.bands import draw_bands


def run(values: list[float], flops_of_a_step: float) -> list[StepMetrics]:
    return [
        StepMetrics(step, {"predictor/accuracy": value, "compute/flops": step * flops_of_a_step})
        for step, value in enumerate(values, 1)
    ]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Figure]:
    figures: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, path, **_: path.touch() or figures.append(figure))
    monkeypatch.chdir(tmp_path)
    return figures


def test_the_line_is_the_mean_of_the_seeds_and_the_band_their_range(drawn: list[Figure]) -> None:
    runs = {"one": [run([0.2] * 4, 10.0), run([0.6] * 8, 10.0)], "two": [run([0.5] * 3, 20.0)], "none": []}
    draw_bands(runs, Path("a.png"), "A study", by_compute=True)
    (axes,) = drawn[0].axes
    lines = {line.get_label(): line for line in axes.lines}
    assert list(lines) == ["one (2 seeds)", "two (1 seed)"]
    np.testing.assert_allclose(lines["one (2 seeds)"].get_ydata(), 0.4)
    assert (lines["one (2 seeds)"].get_xdata()[0], lines["one (2 seeds)"].get_xdata()[-1]) == (10.0, 40.0)
    (band,) = axes.collections
    low, high = band.get_paths()[0].get_extents().intervaly
    assert (low, high) == pytest.approx((0.2, 0.6))
    assert axes.get_xlabel() == "floating point operations"


def test_steps_without_a_value_are_left_out_and_a_run_of_one_step_is_drawn(drawn: list[Figure]) -> None:
    draw_bands({"one": [run([math.nan, 0.5, math.nan], 1.0)]}, Path("a.png"), "A study", by_compute=False)
    (axes,) = drawn[0].axes
    assert set(axes.lines[0].get_xdata()) == {2.0} and axes.get_xlabel() == "step"
    assert axes.lines[0].get_marker() == "o", "a line of one point would be invisible"


def test_nothing_measured_is_a_picture_without_panels(drawn: list[Figure]) -> None:
    draw_bands({"one": [[StepMetrics(1, {})]]}, Path("a.png"), "A study", by_compute=False)
    assert drawn[0].axes == []
