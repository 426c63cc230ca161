"""Whole runs with a trainer rank, a rollout rank and a real vLLM engine."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.launched_run import LaunchedRun
from tests.support.tiny_run import TaughtRun, metrics_of

RANKS = ("--train-iters", 20, "--rollout-ranks", 1, "--keep-last", 2)
"""Flags of a run with one rank for the trainer and one for rollouts."""


@pytest.fixture(scope="module")
def run_of_rollout_ranks(tmp_path_factory: pytest.TempPathFactory, taught_run: TaughtRun) -> list[dict[str, float]]:
    """Return the metrics of an undisturbed run."""
    save = tmp_path_factory.mktemp("rollout_ranks") / "run"
    taught_run.train(save, 2, *RANKS)
    return metrics_of(save)


def test_rollout_ranks_sample_what_engines_beside_the_trainer_do(
    run_of_rollout_ranks: list[dict[str, float]], taught_run: TaughtRun, tmp_path: Path
) -> None:
    """The first step's weights have the same age in both; from the second step on those of rollout ranks are older."""
    taught_run.train(tmp_path / "beside", 1, "--train-iters", 1)
    (beside,) = metrics_of(tmp_path / "beside")
    steps = run_of_rollout_ranks
    assert steps[0] == pytest.approx(beside | {"ahead/sync_difference": 0.0}, rel=1e-3, abs=1e-5)
    assert sum(step["train/responses"] > 0 and step["ahead/staleness_mean"] > 0 for step in steps[1:]) > 10
    assert max(step["ahead/sync_difference"] for step in steps) < 1e-4


def test_whatever_dies_with_rollout_ranks_the_run_is_the_same(
    run_of_rollout_ranks: list[dict[str, float]], taught_run: TaughtRun, tmp_path: Path
) -> None:
    """A stopped rollout rank is named, a killed one is restarted, and all processes may be killed."""
    save = tmp_path / "run"
    named = taught_run.flags(save, *RANKS)
    run = LaunchedRun("megatron_pz.train", 2, save, *named, "--heartbeat-timeout-minutes", 0.2)
    run.wait_for_step(4)
    stopped = run.process_of(1)
    stopped.suspend()
    output = run.end(1)
    assert re.search(rf"error: rank 1 \(.*, process {stopped.pid}\) has given no heartbeat for \d+ s", output)
    run = LaunchedRun("megatron_pz.train", 2, save, *named, "--load", save)
    run.wait_for_step(8)
    run.kill()
    run = LaunchedRun("megatron_pz.train", 2, save, *named, "--load", save)
    run.wait_for_step(12)
    run.process_of(1).kill()
    assert "the rollout ranks start again" in run.end(0)
    assert metrics_of(save) == run_of_rollout_ranks
