"""The share of a step in which trainer and rollout ranks worked at the same time."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest

from megatron_pz.algorithm.overlapped import OverlappedPretrainZero
from megatron_pz.monitoring.timers import Timers


@pytest.mark.parametrize(
    ("sampling", "waited", "update", "share"),
    [(10.0, 0.0, 4.0, 1.0), (10.0, 8.0, 4.0, 0.5), (3.0, 0.0, 4.0, 1.0), (3.0, 3.5, 4.0, 0.0)],
    ids=["other work, too", "update at half time", "sampling is shorter", "nothing"],
)
def test_the_overlap_is_a_share_of_the_shorter_one(
    sampling: float, waited: float, update: float, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([0.0, 0.0, waited, waited])
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock, waited))
    timers = Timers()
    timers["update"] = update
    trainer: Any = SimpleNamespace(_asked=1, _receive=lambda: sampling)
    assert OverlappedPretrainZero.after_update(trainer, timers) == {"ahead/overlap": pytest.approx(share)}
