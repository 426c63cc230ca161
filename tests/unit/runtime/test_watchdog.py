"""A process's own phases, and the heartbeats of its peers in a store. Real ranks: tests/distributed."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from datetime import timedelta

import pytest
import torch.distributed as dist

from megatron_pz.runtime.watchdog import Watchdog


class Ended:
    """Receives the verdict instead of ending the process."""

    def __init__(self) -> None:
        self.line = ""
        self.heard = threading.Event()

    def __call__(self, line: str) -> None:
        self.line = line
        self.heard.set()


@pytest.fixture(autouse=True)
def _this_process_survives(monkeypatch: pytest.MonkeyPatch) -> None:
    """Disable the exit of last resort, which a busy machine reaches half a second after a phase begins."""
    monkeypatch.setattr("faulthandler.dump_traceback_later", lambda *_, **__: None)


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
    assert ended.line.startswith("rank 1 never started")


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


@pytest.mark.parametrize("variable", ["MEGATRON_PZ_LAUNCHER", "TORCHELASTIC_RUN_ID", "HOME"])
def test_a_rank_whose_launcher_has_died_ends(monkeypatch: pytest.MonkeyPatch, ended: Ended, variable: str) -> None:
    """In contrast, a process without a launcher may outlive the shell that started it."""
    monkeypatch.setenv(variable, "4711")
    watchdog = Watchdog(0.4, end=ended)
    watchdog.watch(0, 1, None)
    monkeypatch.setattr(os, "getppid", lambda: 1)
    assert ended.heard.wait(10 if variable != "HOME" else 0.5) == (variable != "HOME")
    watchdog.stop()
    assert variable == "HOME" or ended.line.endswith("is gone; the run ends")
