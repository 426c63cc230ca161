"""If one rank dies, stops, stalls or fails, all end within short deadlines, and one line names the rank and phase."""

from __future__ import annotations

import re
import signal
import socket
import time

import pytest

from tests.distributed.workers import stalling_ranks
from tests.support.forked_ranks import ForkedRanks

PATIENCE = 45.0
"""Seconds until every process must have ended; the deadlines are of 1 and 4 s, the process group's is 60 s."""


def wait_until_ready(ranks: ForkedRanks) -> None:
    deadline = time.monotonic() + 60
    while ranks.output().count("READY") < len(ranks.processes):
        assert time.monotonic() < deadline, ranks.output()
        time.sleep(0.05)


def verdicts(ranks: ForkedRanks) -> list[str]:
    return [line for line in ranks.output().splitlines() if line.startswith("error: ")]


def name_of(ranks: ForkedRanks, rank: int = stalling_ranks.CULPRIT) -> str:
    return re.escape(f"rank {rank} ({socket.gethostname()}, process {ranks.processes[rank].pid})")


CASES = {
    # Deed of the culprit: (what it does, the signal it gets, its exit code or None for a rank that lives, the line)
    "killed": ("wait", signal.SIGKILL, -9, r"rank [02] \(.*\): .*(closed|reset) by peer.* in update of iteration 3;"),
    "stopped": (
        "wait",
        signal.SIGSTOP,
        None,
        r"{culprit} has given no heartbeat for \d s \(stopped, killed, .*\): it was last in update of iteration 3",
    ),
    "stalls": (
        "stall",
        None,
        1,
        r"{culprit} has been in rollout of iteration 3 for 1 s, longer than --rollout-timeout",
    ),
    "stalls with the lock": (
        "stall_with_the_lock",
        None,
        1,
        r"{culprit} has given no heartbeat for \d s .* it was last in .*iteration [23]",  # the last heartbeat's
    ),
    "fails": ("raise_an_error", None, 1, r".*{culprit} failed in iteration 3: KeyError: 'a mistake in the code'"),
    "refuses": ("refuse", None, 2, r".*{culprit} failed in iteration 3: BadInput: this node has no such file"),
    "late": ("late", None, None, r"rank [02] .*{culprit} is in the dentist's waiting room of iteration 3"),
}


@pytest.mark.parametrize("case", CASES)
def test_all_end_and_one_line_says_who_and_where(case: str) -> None:
    deed, number, code, pattern = CASES[case]
    with ForkedRanks(3, stalling_ranks.ranks, deed) as ranks:
        wait_until_ready(ranks)
        if number is not None:
            ranks.signal(stalling_ranks.CULPRIT, number)
        witnesses = [ranks.code(rank, PATIENCE) for rank in (0, 2)]
        assert witnesses == [1, 1], ranks.output()
        if code is not None:
            assert ranks.code(stalling_ranks.CULPRIT, PATIENCE) == code, ranks.output()
        assert len(verdicts(ranks)) == 1, ranks.output()
        assert re.match("error: " + pattern.format(culprit=name_of(ranks)), verdicts(ranks)[0])


def test_a_run_without_trouble_ends_without_a_word() -> None:
    with ForkedRanks(2, stalling_ranks.ranks, "none") as ranks:
        assert ranks.codes() == [0, 0], ranks.output()
        assert ranks.output().split() == ["READY", "READY"]
