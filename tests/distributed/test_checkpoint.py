"""Checkpoints across processes: resuming is exact, layouts may change, and a failed write loses nothing."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.distributed.workers import checkpoint_worker
from tests.support.forked_ranks import ForkedRanks
from tests.support.torchrun import run_workers

WORKER = Path(__file__).parent / "workers" / "checkpoint_worker.py"
STATE = ("weights", "masters", "exp_avg", "exp_avg_sq", "step")


def run(task: str, nproc: int, folder: Path, *flags: object) -> list[dict]:
    """Return the worker's reports, rank by rank, variant by variant."""
    with ForkedRanks(nproc, checkpoint_worker.main, [task, str(folder), *map(str, flags)]) as ranks:
        assert ranks.codes(120) == [0] * nproc, ranks.output()
        output = ranks.output()
    return [json.loads(line.removeprefix("REPORT ")) for line in output.splitlines() if line.startswith("REPORT ")]


@pytest.fixture(scope="module", params=[1, 2])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[int, Path, list[dict]]:
    """Run four uninterrupted steps on one or two data parallel ranks; return their number, the folder, the reports."""
    folder = tmp_path_factory.mktemp(f"trained_on_{request.param}")
    return request.param, folder, run("straight", request.param, folder)


def test_two_steps_and_a_fresh_process_are_four_steps_bit_for_bit(trained: tuple[int, Path, list[dict]]) -> None:
    """This holds for bf16 with float32 masters and for float32, with Megatron's plain and distributed optimizers.

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
    # Each rank writes and reads its part of a checkpoint, for any number of ranks with the same tensors.
    for variant in {whole["variant"] for whole in straight}:
        written = [path.stat().st_size for path in (folder / variant / "iter_0000002").glob("*.distcp")]
        read = [half["read"] for half in resumed if half["variant"] == variant]
        assert len(written) == nproc
        assert max(written) < 1.5 * min(written)
        assert sum(read) < 4 * sum(written), "a single rank reads 2.8 times the bytes of such small tensors"


@pytest.mark.parametrize("trained", [2], indirect=True)
def test_a_checkpoint_moves_to_other_layouts_and_back(trained: tuple[int, Path, list[dict]]) -> None:
    """A checkpoint of two data parallel ranks is read and written by other layouts in turn, bit for bit."""
    _, folder, _ = trained
    only = ("--only", "bf16-distributed")
    for seed, (nproc, *layout) in enumerate([(2, "--tp", 2), (2, "--pp", 2), (2, "--tp", 2), (1,)], start=8):
        run("copy", nproc, folder, *only, "--seed", seed, *layout)
    for nproc in (1, 2):  # the copy came from one rank, the original from two
        reports = run("contents", nproc, folder, *only, "--seed", 12)
        for original, moved in zip(reports[::2], reports[1::2], strict=True):
            assert original["own_state"] == (nproc == 2), "the generators of two ranks are not those of one"
            assert moved["own_state"] == (nproc == 1)
            assert moved["common"] == original["common"]
            for kind in STATE:
                assert moved[kind] == original[kind], kind


@pytest.mark.parametrize("variant", ["fp32", "fp32-distributed"])
def test_a_run_goes_on_in_another_layout(variant: str, trained: tuple[int, Path, list[dict]]) -> None:
    """A run resumes from one data parallel rank on two, on two tensor ranks or stages, and back, equal to rounding."""
    nproc, folder, straight = trained
    whole = [report["losses"] for report in straight if report["variant"] == variant]
    expected = [sum(losses) / nproc for losses in zip(*whole, strict=True)][2:]
    for other, *layout in [(3 - nproc,), (2, "--tp", 2), (2, "--pp", 2)]:
        reports = run("resume_elsewhere", other, folder, "--only", variant, "--seed", 8, *layout)
        assert {report["iteration"] for report in reports} == {2}
        losses = [report["losses"] for report in reports if report["losses"]]  # the last stage's
        means = [sum(column) / len(losses) for column in zip(*losses, strict=True)]
        assert means == pytest.approx(expected, rel=1e-5), layout
    differences = {report["layout"]: report["difference"] for report in run("ends", 1, folder, "--only", variant)}
    assert len(differences) == 3
    assert max(differences.values()) < 1e-5, differences


@pytest.mark.parametrize("variant", ["fp32", "fp32-distributed", "bf16", "bf16-distributed"])
def test_experts_get_an_optimizer_of_their_own_and_lose_it_again(variant: str, tmp_path: Path) -> None:
    """A mixture trains four steps on one rank and on two that share its experts; each resumes exactly as itself, and as
    the other to rounding. The weights can also be loaded without any optimizer."""
    experts = ("--only", variant, "--experts", 4)
    one, two = (1,), (2, "--ep", 2)
    rounding = 1e-5 if variant.startswith("fp32") else 2e-2
    for number, (begun, continued) in enumerate([(one, two), (two, one)]):
        folder = tmp_path / str(number)
        whole = run("straight", begun[0], folder, *begun[1:], *experts)
        for report, again in zip(
            whole, run("resume", begun[0], folder, *begun[1:], *experts, "--seed", 8), strict=True
        ):
            assert again["losses"] == report["losses"][2:]
            assert again["weights"] == report["weights"]
        resumed = run("resume_elsewhere", continued[0], folder, *continued[1:], *experts, "--seed", 8)
        expected, losses = (
            [sum(column) / len(reports) for column in zip(*(report["losses"] for report in reports), strict=True)]
            for reports in (whole, resumed)
        )
        assert losses == pytest.approx(expected[2:], rel=rounding)
        (end,) = run("ends", 1, folder, *experts)
        assert end["difference"] < rounding
        assert end["weights_alone"] == end["weights"]


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
    """Mount a file system of 2 MiB and yield it."""
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
    assert "; 0.0 GiB are free there); the one of iteration" in errors[0], "which file met the end is chance"
    assert "megatron_pz/checkpoint/" not in output, "no traceback of ours"
    found = sorted(path.name for path in (small_disk / "bf16").iterdir())
    latest = int((small_disk / "bf16" / "latest_checkpointed_iteration.txt").read_text())
    assert found[-2:] == [f"iter_{latest:07d}", "latest_checkpointed_iteration.txt"]
    assert not [name for name in found if name.startswith(".")]
