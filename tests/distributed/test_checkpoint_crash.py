"""After SIGKILL at any point of a save, the last good checkpoint is intact, and a run resumes from it bit for bit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.distributed.workers import crashing_writer
from tests.support.forked_ranks import ForkedRanks

STATE = ("weights", "masters", "exp_avg", "exp_avg_sq", "step", "torch", "python")
PLACES = list(crashing_writer.PLACES)
NEW_ONE_COUNTS = PLACES[PLACES.index("after the record") :]
ANY_RANK = ["before the tensors", "in the middle of a file", "after the tensors", "before the index"]


def reports(ranks: ForkedRanks) -> list[dict]:
    """Return the reports of ranks that must succeed."""
    assert ranks.codes() == [0] * len(ranks.processes), ranks.output()
    lines = ranks.output().splitlines()
    return [json.loads(line.removeprefix("REPORT ")) for line in lines if line.startswith("REPORT ")]


@pytest.fixture(scope="module")
def in_one_go(tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[dict]]:
    """Run the steps without a checkpoint, on one and on two ranks."""
    folder, runs = tmp_path_factory.mktemp("straight"), {}
    for nproc in (1, 2):
        with ForkedRanks(nproc, crashing_writer.straight, folder) as ranks:
            runs[nproc] = reports(ranks)
    return runs


CASES = [(1, False, place, 0) for place in PLACES]
CASES += [(2, True, place, 0) for place in PLACES[: PLACES.index("an old one hidden")]]
CASES += [(2, bool(number % 2), place, 1) for number, place in enumerate(ANY_RANK)]


@pytest.mark.parametrize(("nproc", "asynchronous", "place", "victim"), CASES)
def test_a_killed_save_harms_nothing(
    nproc: int, asynchronous: bool, place: str, victim: int, tmp_path: Path, in_one_go: dict[int, list[dict]]
) -> None:
    with ForkedRanks(nproc, crashing_writer.killed, tmp_path, asynchronous, place, victim) as ranks:
        assert ranks.code(victim) == -9, ranks.output()
    folder = tmp_path / crashing_writer.VARIANT
    expected = 2 if place in NEW_ONE_COUNTS else 1
    assert (folder / "latest_checkpointed_iteration.txt").read_text() == f"{expected}\n"

    with ForkedRanks(nproc, crashing_writer.resumed, tmp_path, asynchronous) as ranks:
        after = reports(ranks)
    for whole, half in zip(in_one_go[nproc], after, strict=True):
        assert (half["iteration"], half["common"]) == (expected, {"cursor": 12 * expected})
        assert half["losses"] == whole["losses"][expected:]
        assert all(half[kind] == whole[kind] for kind in STATE)
    left = sorted(path.name for path in folder.iterdir())
    assert left == ["iter_0000004", "latest_checkpointed_iteration.txt"], "what the killed save left has been cleared"
