"""The shares of a step's time, worked out by hand."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks.training.step_shares import main, shares


def test_checkpoints_are_told_apart_and_the_rest_is_outside() -> None:
    steps = [
        {"time/iteration": 10.0, "time/rollout_engines": 6.0, "time/update_passes": 3.0, "time/sync": 0.5},
        {"time/iteration": 12.0, "time/rollout_engines": 7.0, "time/update_passes": 2.5, "time/checkpoint": 2.0},
    ]
    found = shares(steps)
    assert found["rollout_engines"] == pytest.approx(13 / 20)
    assert found["outside"] == pytest.approx(1.5 / 20)
    assert found["sync"] == pytest.approx(0.5 / 20)
    assert found["checkpoint"] == pytest.approx(2 / 22)


@pytest.mark.parametrize("lines", [None, [], [{"time/iteration": 1.0}]])
def test_a_run_that_does_not_say_is_refused(
    lines: list[dict[str, float]] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    if lines is not None:
        (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    monkeypatch.setattr(sys, "argv", ["step_shares", "--run", str(tmp_path)])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
