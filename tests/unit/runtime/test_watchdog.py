"""One process's watch over its own phases, and what it makes of the others' signs. Real ranks: tests/distributed."""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import threading
from collections.abc import Iterator
from datetime import timedelta

import psutil
import pytest
import torch.distributed as dist

from megatron_pz.runtime.watchdog import Sign, Watchdog, _is_gone, _this_machine


class Ended:
    """Takes the verdict in the process's place."""

    def __init__(self) -> None:
        self.line = ""
        self.heard = threading.Event()

    def __call__(self, line: str) -> None:
        self.line = line
        self.heard.set()


@pytest.fixture
def store() -> dist.Store:
    store = dist.HashStore()
    store.set_timeout(timedelta(seconds=5))
    return store


@pytest.fixture
def ended() -> Ended:
    return Ended()


@pytest.fixture
def watchdog(ended: Ended) -> Iterator[Watchdog]:
    watchdog = Watchdog(0.4, end=ended)
    yield watchdog
    watchdog.stop()


def test_a_phase_that_takes_too_long_is_named(
    watchdog: Watchdog, ended: Ended, capfd: pytest.CaptureFixture[str]
) -> None:
    watchdog.watch(0, 1, None)
    watchdog.step("iteration 7")
    with watchdog.phase("step"), watchdog.phase("rollout", 0.05, "--rollout-timeout-minutes"):
        assert ended.heard.wait(10)
    me = f"rank 0 ({socket.gethostname()}, process {os.getpid()})"
    assert ended.line.startswith(
        f"{me} has been in rollout of iteration 7 for 0 s, longer than --rollout-timeout-minut"
    )
    assert capfd.readouterr().err == f"error: {ended.line}\n"


@pytest.mark.parametrize(("machine", "gone"), [(_this_machine(), True), ("another one", False)])
def test_a_process_is_missed_only_where_its_number_would_mean_it(machine: str, gone: bool) -> None:
    """Two nodes may both be called localhost, and two containers on one node by the node's name."""
    lost = Sign(1, socket.gethostname(), machine, 2**22 + 1, 0.0, 3, "rollout")  # beyond the greatest process number
    assert _is_gone(lost) is gone
    here = Sign(1, socket.gethostname(), machine, os.getpid(), psutil.Process().create_time(), 3, "rollout")
    assert not _is_gone(here)


@pytest.mark.parametrize(("reason", "problem"), [("KeyError: 1", "failed in iteration 3: KeyError: 1"), ("", None)])
def test_a_last_word_that_comes_after_the_look_counts(reason: str, problem: str | None, store: dist.Store) -> None:
    """A rank ends between the moments when its sign is read and when its process is looked for."""
    watchdog = Watchdog(0.4, end=Ended())
    watchdog._store = store
    before = Sign(1, "node", _this_machine(), 2**22, 0.0, 7, "iteration 3")  # no process has this number
    after = dataclasses.replace(before, ended=reason)
    store.set("1", json.dumps(dataclasses.asdict(after)))
    found = watchdog._problem(1, before, patience=0.0)
    assert found == (f"{before} {problem}" if problem else None)


def test_phases_within_their_limits_are_nobodys_business(watchdog: Watchdog, ended: Ended) -> None:
    watchdog.watch(0, 1, None)
    for _ in range(20):
        with watchdog.phase("rollout", 0.5):
            pass
    assert not ended.heard.wait(0.6), "the time of many short phases does not add up"


def test_the_verdict_of_another_rank_ends_this_one(
    watchdog: Watchdog, ended: Ended, store: dist.Store, capfd: pytest.CaptureFixture[str]
) -> None:
    watchdog.watch(0, 2, store)
    with Watchdog(0.4, end=Ended()) as other:
        other.watch(1, 2, store)
        with other.phase("weight sync", 0.05):
            assert ended.heard.wait(10)
    assert ended.line.startswith("rank 1 ")
    assert capfd.readouterr().err.count("error: ") == 1, "one process has printed it"


def test_a_rank_that_never_comes_up_is_named(watchdog: Watchdog, ended: Ended, store: dist.Store) -> None:
    watchdog.watch(0, 3, store)
    assert ended.heard.wait(10)
    assert ended.line.startswith("rank 1 never came up")


def test_who_is_done_is_not_missing(watchdog: Watchdog, ended: Ended, store: dist.Store) -> None:
    with Watchdog(0.4) as other:
        other.watch(1, 2, store)
    watchdog.watch(0, 2, store)
    assert not ended.heard.wait(0.8)


def test_a_failure_of_this_rank_passes_and_is_told_to_the_others(
    watchdog: Watchdog, ended: Ended, store: dist.Store
) -> None:
    watchdog.watch(0, 2, store)
    with pytest.raises(ZeroDivisionError), Watchdog(0.4) as other:
        other.watch(1, 2, store)
        other.step("iteration 2")
        _ = 1 / 0
    assert ended.heard.wait(10)
    assert "failed in iteration 2: ZeroDivisionError: division by zero" in ended.line
