"""Checkpoints across processes: resuming is exact, layouts may change, and a failed write loses nothing."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.torchrun import run_workers

WORKER = Path(__file__).parent / "workers" / "checkpoint_worker.py"
STATE = ("weights", "masters", "exp_avg", "exp_avg_sq", "step")


def run(task: str, nproc: int, folder: Path, *flags: object, **options: bool) -> list[dict]:
    """The worker's reports, rank by rank, variant by variant."""
    output = run_workers(WORKER, nproc, task, folder, *flags, **options)
    return [json.loads(line.removeprefix("REPORT ")) for line in output.splitlines() if line.startswith("REPORT ")]


@pytest.fixture(scope="module", params=[1, 2])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[int, Path, list[dict]]:
    """Four steps in one go on one or two data parallel ranks: their number, the folder, the reports."""
    folder = tmp_path_factory.mktemp(f"trained_on_{request.param}")
    return request.param, folder, run("straight", request.param, folder)


def test_two_steps_and_a_fresh_process_are_four_steps_bit_for_bit(trained: tuple[int, Path, list[dict]]) -> None:
    """For bf16 with float32 masters and for float32, each with Megatron's plain and its distributed optimizer.

    The step counters are named because two upstream faults lose or share them; see cpu_backend.
    """
    nproc, folder, straight = trained
    resumed = run("resume", nproc, folder, "--seed", 8)
    assert len(straight) == len(resumed) == 4 * nproc
    for whole, half in zip(straight, resumed, strict=True):
        assert half["iteration"] == 2
        assert half["common"] == {"cursor": 24, "reward": 0.1}
        assert half["adam_steps"] == [2.0]
        assert half["steps_shared"] == 0
        assert half["losses"] == whole["losses"][2:]
        for kind in (*STATE, "torch", "python"):
            assert half[kind] == whole[kind], f"{kind} differs: {whole['variant']}, rank {whole['rank']}"
    assert len({whole["weights"] for whole in straight}) == 4, "the variants are to be different runs"


@pytest.mark.parametrize("trained", [2], indirect=True)
def test_a_checkpoint_moves_to_other_layouts_and_back(trained: tuple[int, Path, list[dict]]) -> None:
    """Written by two data parallel ranks, then read and written by two tensor parallel ones, then by two stages."""
    _, folder, _ = trained
    only = ("--only", "bf16-distributed")
    run("copy", 2, folder, *only, "--seed", 8, "--tp", 2)
    run("copy", 2, folder, *only, "--seed", 9, "--pp", 2)
    original, moved = run("contents", 1, folder, *only, "--seed", 10)
    assert not original["own_state"], "the generators of two ranks are not those of one"
    assert moved["common"] == original["common"]
    for kind in STATE:
        assert moved[kind] == original[kind], kind


def test_a_failed_write_on_any_rank_leaves_the_last_good_checkpoint(tmp_path: Path) -> None:
    reports = run("fail_to_write", 2, tmp_path, "--only", "bf16", "--tp", 2)
    attempts = [report for report in reports if "failure" in report]
    assert len(attempts) == 2 * 5
    for attempt in attempts:
        assert attempt["outcome"].startswith("the checkpoint of iteration 2 could not be written"), attempt
        assert "the one of iteration 1 is untouched" in attempt["outcome"]
        assert "\n" not in attempt["outcome"]
        assert attempt["found"] == ["iter_0000001", "latest_checkpointed_iteration.txt"], attempt
    for first, second in zip(attempts[:5], attempts[5:], strict=True):
        assert first["outcome"] == second["outcome"], "all ranks name the same cause"
    causes = [attempt["outcome"] for attempt in attempts[:5]]
    assert ["(rank 0: " in cause for cause in causes] == [True, True, False, True, True]
    assert "(rank 1: " in causes[2]
    assert all(report["same_as_before"] for report in reports if "same_as_before" in report)
    assert [report["latest"] for report in reports if "latest" in report] == [3, 3]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no small file system can be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_is_one_line_and_a_failed_run(small_disk: Path) -> None:
    output = run_workers(WORKER, 2, "write_on_full_disk", small_disk, "--only", "bf16", expect_failure=True)
    errors = [line for line in output.splitlines() if line.startswith("error: ")]
    assert errors
    assert len(set(errors)) == 1
    assert "No space left on device" in errors[0]
    assert "megatron_pz/trainer/checkpoint.py" not in output, "no traceback of ours"
    found = sorted(path.name for path in (small_disk / "bf16").iterdir())
    latest = int((small_disk / "bf16" / "latest_checkpointed_iteration.txt").read_text())
    assert found[-2:] == [f"iter_{latest:07d}", "latest_checkpointed_iteration.txt"]
    assert not [name for name in found if name.startswith(".")]
