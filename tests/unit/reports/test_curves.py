"""The picture of a run and the tables."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from megatron_pz.monitoring.metrics import StepMetrics
from megatron_pz.reports.curves import PANELS, Line, SharePanel, draw_curves, moving_mean
from megatron_pz.reports.curves import main as draw
from megatron_pz.reports.tables import table
from megatron_pz.runtime.errors import BadInput


def test_moving_mean_shrinks_at_the_ends_and_leaves_nan_out() -> None:
    values = np.array([1.0, 2.0, 6.0, math.nan, math.nan, math.nan])
    expected = [1.5, 3.0, 4.0, 6.0, math.nan, math.nan]
    np.testing.assert_allclose(moving_mean(values), expected)


def test_shares_are_stacked_from_the_floor_in_order_of_size() -> None:
    series = {
        "g/valid": np.array([0.5, 0.75]),
        "g/fault_rare": np.array([0.125, 0.0]),
        "g/fault_often": np.array([0.375, 0.25]),
        "g/fault_never": np.array([0.0, 0.0]),
    }
    panel = SharePanel("t", "u", parts=(Line("g/valid", "valid", "green"),), prefix="g/fault_")
    axes = Figure().add_subplot()
    panel.draw(axes, np.array([1, 2]), series.__getitem__, sorted(series))
    labels = axes.get_legend_handles_labels()[1]
    assert labels == ["valid", "often", "rare"]
    tops = [patch.get_data().values.tolist() for patch in axes.patches]
    assert tops == [[0.5, 0.75], [0.875, 1.0], [1.0, 1.0]]


def test_seconds_are_stacked_once() -> None:
    """Neither totals nor parts of parts are stacked on the parts, and rates and shares are not seconds."""
    seconds = {"rollout": 6.0, "rollout_engines": 5.5, "update": 3.0, "update_passes": 2.5, "iteration": 9.5}
    engines = {"engine_tail": 1.5, "engine_idle_share": 0.1, "predictor_tokens_per_engine_second": 200.0}
    others = {"cpu_seconds": 18.0, "generator_tokens_per_engine_second": 30.0} | engines
    series = {f"time/{part}": np.array([value]) for part, value in (seconds | others).items()}
    (panel,) = (panel for panel in PANELS if panel.title == "Where the time goes")
    axes = Figure().add_subplot()
    panel.draw(axes, np.array([1]), series.__getitem__, sorted(series))
    assert axes.get_legend_handles_labels()[1] == ["rollout", "update"]


def test_a_run_without_some_metrics_is_drawn(tmp_path: Path) -> None:
    steps = [StepMetrics(i, {"generator/reward": i / 9, "predictor/accuracy": math.nan}) for i in range(1, 10)]
    draw_curves(steps, tmp_path / "curves.png", title="run")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_panels_share_the_iterations_and_one_step_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, path, **_: path.touch() or drawn.append(figure))
    values = {"generator/reward": -0.1, "generator/valid_masks": 0.5, "train/grad_norm": 2.0, "time/update": 3.0}
    draw_curves([StepMetrics(i, values) for i in (3, 4, 5)], tmp_path / "a.png")
    draw_curves([StepMetrics(3, values)], tmp_path / "b.png")
    assert {axes.get_xlim() for axes in drawn[0].axes} == {(2.5, 5.5)}
    for figure in drawn:
        limits = {axes.get_title(loc="left"): axes.get_ylim() for axes in figure.axes}
        assert limits["Reward"][0] < -0.1, "what is below zero is not cut off"
        assert limits["Gradient norm, before clipping"][0] <= 0
    assert [tick for tick in drawn[1].axes[0].get_xticks() if 2.5 <= tick <= 3.5] == [3], "no halves of an iteration"
    (line,) = (line for line in drawn[1].axes[0].lines if line.get_label() == "generator (Eq. 9)")
    assert line.get_marker() == "o", "a line of one point would be invisible"


def test_drawing_nothing_is_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(BadInput, match="no iterations"):
        draw_curves([], tmp_path / "curves.png")
    with pytest.raises(SystemExit) as stop:
        draw([str(tmp_path)])
    assert stop.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_picture_that_cannot_be_written_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "metrics.jsonl").write_text(StepMetrics(1, {"generator/reward": 0.5}).to_json() + "\n")
    for output, words in (("/nowhere/a.png", "cannot be written"), ("a.xyz", "ends in .png")):
        with pytest.raises(SystemExit) as stop:
            draw([str(tmp_path), "--output", output])
        (line,) = capsys.readouterr().err.splitlines()
        assert stop.value.code == 2
        assert f"--output {output}: " in line
        assert words in line


def test_a_table_keeps_every_cell_whole() -> None:
    long = "x" * 90
    text = table("Title", ["", "before", "after"], [["[valid] masks", "0.1 ± 0.2", long], ["b", "1", "2"]])
    lines = text.splitlines()
    assert lines[0].strip() == "Title"
    assert any("[valid] masks" in line and "0.1 ± 0.2" in line and long in line for line in lines)
    ends = {len(line) for line in lines if line.rstrip().endswith((long, "after", " 2"))}
    assert len(ends) == 1, "numbers are aligned to the right"
