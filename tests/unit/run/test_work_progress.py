"""The lines of a long task's progress."""

from __future__ import annotations

import io

import pytest

from megatron_pz.run import work_progress
from megatron_pz.run.work_progress import WorkProgress


def test_what_an_earlier_run_has_done_is_no_speed() -> None:
    """After twenty earlier responses, twenty of eighty in ten seconds leave sixty, which take half a minute."""
    progress = WorkProgress("model", "responses", total=100, done=20, stream=io.StringIO())
    assert progress.line(40, 10.0) == "model: 40 of 100 responses (40%), left: 00:30"
    assert progress.line(20, 10.0) == "model: 20 of 100 responses (20%), left: unknown"


def test_lines_come_now_and_then_and_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 1.0, 2.0, 40.0, 41.0])
    monkeypatch.setattr(work_progress.time, "monotonic", lambda: next(clock))
    shown, hidden = io.StringIO(), io.StringIO()
    with WorkProgress("model", "responses", total=4, stream=shown) as progress:
        for done in range(1, 5):
            progress.at(done)
    assert [line.split()[1] for line in shown.getvalue().splitlines()] == ["1", "3", "4"]
    monkeypatch.undo()
    for done, is_shown in ((0, False), (4, True)):
        with WorkProgress("model", "responses", total=4, done=done, shown=is_shown, stream=hidden) as progress:
            progress.at(4)
    assert hidden.getvalue() == "", "neither another rank nor a finished work says anything"
