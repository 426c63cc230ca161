"""Samples of a long run stay within their budget, spread over the whole run, also after a crash and a resume."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest

from megatron_pz.monitoring.run_logger import RunLogger
from megatron_pz.monitoring.sample_files import MIB
from megatron_pz.monitoring.samples import MaskSample

SAMPLE = MaskSample("Danube", "The Danube is long.", " \\mask{Danube}" + "x" * 2000, "Danube", "", 0.5)


def pages(folder: Path) -> list[int]:
    return sorted(int(page.stem.removeprefix("iter_")) for page in (folder / "samples").iterdir())


def lines(folder: Path) -> list[int]:
    return [json.loads(line)["iteration"] for line in (folder / "samples.jsonl").read_text().splitlines()]


def size(folder: Path) -> int:
    return sum(file.stat().st_size for file in [folder / "samples.jsonl", *(folder / "samples").iterdir()])


def run_steps(folder: Path, steps: range, budget_mib: float, resume_iteration: int = 0) -> list[int]:
    """Run steps; return the bytes of the samples after each."""
    logger = RunLogger(folder, 999, resume_iteration=resume_iteration, samples_budget_mib=budget_mib)
    sizes = []
    for step in steps:
        logger.samples(step, [SAMPLE])
        sizes.append(size(folder))
    logger.close()
    return sizes


@pytest.fixture
def of_one_step(tmp_path: Path) -> int:
    return run_steps(tmp_path / "one", range(1, 2), 0)[0]


def test_without_a_budget_everything_stays(tmp_path: Path) -> None:
    run_steps(tmp_path, range(1, 41), 0)
    assert pages(tmp_path) == lines(tmp_path) == list(range(1, 41))


def test_a_long_run_keeps_steps_of_all_its_length_within_the_budget(tmp_path: Path, of_one_step: int) -> None:
    budget = 20.5 * of_one_step
    run = tmp_path / "run"
    sizes = run_steps(run, range(1, 401), budget / MIB)
    assert max(sizes) <= budget
    assert sizes[-1] > budget / 4
    kept = pages(run)
    assert kept == lines(run)
    assert kept[-1] == 400
    # Even spread: no gap is wider than a quarter of the run, and no quarter is empty.
    assert {(iteration - 1) // 100 for iteration in kept} == {0, 1, 2, 3}
    rewritten = sum(after < before for before, after in pairwise(sizes))
    assert rewritten < 400 / 5, "half of the budget is freed at once, not a step at a time"


def test_thinning_removes_odd_iterations_first_and_never_the_newest(tmp_path: Path, of_one_step: int) -> None:
    run = tmp_path / "run"
    run_steps(run, range(1, 8), 6.5 * of_one_step / MIB)
    # The seventh step exceeds the budget. Without odd iterations but the newest, four steps are left: still above half.
    assert pages(run) == lines(run) == [4, 7]
    small = tmp_path / "small"
    run_steps(small, range(1, 4), 0.5 * of_one_step / MIB)
    assert pages(small) == lines(small) == [3]


def test_a_resumed_run_goes_on_within_the_budget(tmp_path: Path, of_one_step: int) -> None:
    budget = 10.5 * of_one_step
    run_steps(tmp_path / "run", range(1, 31), budget / MIB)
    sizes = run_steps(tmp_path / "run", range(21, 61), budget / MIB, resume_iteration=20)
    assert max(sizes) <= budget
    kept = pages(tmp_path / "run")
    assert kept == lines(tmp_path / "run")
    assert kept[0] <= 20 and kept[-1] == 60


def test_a_smaller_budget_takes_effect_at_the_next_step(tmp_path: Path, of_one_step: int) -> None:
    run = tmp_path / "run"
    run_steps(run, range(1, 33), 0)
    # The state after a crash between the removal of pages and of their lines.
    (run / "samples" / "iter_0000032.md").unlink()
    assert run_steps(run, range(33, 34), 8.5 * of_one_step / MIB, resume_iteration=32)[0] <= 4.25 * of_one_step
    assert pages(run) == lines(run) == [8, 16, 24, 33]
