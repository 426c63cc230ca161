"""The workers that the launcher signals, and the determination of the first failure."""

from __future__ import annotations

import os
import re
import signal
from types import SimpleNamespace

import pytest
from torch.distributed import DistNetworkError, HashStore

from megatron_pz.cluster import launcher, worker_group
from megatron_pz.cluster.launcher import Agreement
from megatron_pz.cluster.worker_group import FAILED, Place, Workers

PLACE = Place(nodes=2, rank=1, processes=1, address="head", port=1)


def test_a_worker_that_was_started_again_neither_gets_a_signal_nor_keeps_it_from_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The restarted worker may still import, and SIGTERM would kill it; the others can save a checkpoint meanwhile."""
    workers = Workers.__new__(Workers)
    sent: list[int] = []
    handlers = {rank: SimpleNamespace(proc=SimpleNamespace(pid=100 + rank)) for rank in range(3)}
    workers._context = SimpleNamespace(subprocess_handlers=handlers)
    workers._codes, workers._replaced = {}, {2}
    monkeypatch.setattr(worker_group, "catches", lambda process, number: process != 102)
    monkeypatch.setattr(os, "kill", lambda process, number: sent.append(process))
    assert workers.can_stop()
    workers.signal(signal.SIGTERM)
    assert sent == [100, 101]
    monkeypatch.setattr(worker_group, "catches", lambda process, number: process != 101)
    assert not workers.can_stop()
    assert workers.running == [100, 101, 102]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["megatron_pz.nothing"], "megatron_pz.nothing: no such module"),
        (["nothing.at.all"], "nothing.at.all: no such module"),
        (["examples/toy/config.yaml"], "examples/toy/config.yaml: no such module"),
        ([".train"], r"\.train: no such module"),
        (["--master-port", "65536", "megatron_pz.train"], "--master-port 65536: give a port of at most 65535"),
        (["--master-port=-1", "megatron_pz.train"], "--master-port -1: give a port"),
        (["--nproc-per-node", "two", "megatron_pz.train"], "invalid int value: 'two'"),
    ],
)
def test_no_process_is_started_for_a_command_that_cannot_run(
    words: list[str], reason: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(launcher, "launch", lambda *_: 0)
    with pytest.raises(SystemExit) as stop:
        launcher.main(words)
    assert stop.value.code == 2
    assert re.search(reason, capsys.readouterr().err)


class LostStore:
    """The store of a first node whose launcher has ended."""

    def compare_set(self, *_: str) -> bytes:
        raise DistNetworkError("failed to recv, got 0 bytes")


def test_the_first_failure_counts() -> None:
    store, other = HashStore(), Place(nodes=2, rank=0, processes=1, address="head", port=1)
    assert Agreement(store, PLACE).failed_first(2) == (2, True)
    assert Agreement(store, other).failed_first(FAILED) == (2, False)


def test_a_failure_after_the_first_nodes_launcher_is_this_nodes() -> None:
    assert Agreement(LostStore(), PLACE).failed_first(2) == (2, True)
