"""Rollout ranks with scripted engines as threads of one process: order of a run, checkpoints, evaluations."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from megatron_pz.config.schema import RunConfig
from megatron_pz.rl.experience import ScoredGroup
from megatron_pz.run.run_directory import write_config
from tests.support.interrupted_run import without_steps
from tests.support.launched_run import LaunchedRun
from tests.support.scripted_run import (
    ScriptedEngine,
    evaluated,
    played,
    run_config,
    run_to_the_end,
    started_run,
    steps_of_a_killed_run,
    with_fields,
    without_times,
)

WARM_UP = {"passive_warmup_iters": 2}
SEPARATE = {"policy_sharing": "separate"}
DYNAMIC = {"dynamic_sampling": True, "max_sampling_rounds": 4, "masks_per_passage": 2}


@pytest.fixture
def config(tiny_corpus: str, tiny_llama_dir: Path, tmp_path: Path, scripted_engines: type[ScriptedEngine]) -> RunConfig:
    return run_config(tiny_llama_dir, tiny_corpus, tmp_path / "run")


@pytest.fixture
def apart(config: RunConfig) -> RunConfig:
    return with_fields(config, rollout={"rollout_ranks": 2})


@pytest.mark.parametrize("game", [{}, SEPARATE, DYNAMIC, WARM_UP], ids=["shared", "separate", "dynamic", "warm-up"])
def test_a_killed_run_goes_on_with_the_experience_that_was_ready(game: dict[str, Any], apart: RunConfig) -> None:
    """The resumed run is equal bit for bit, with evaluations by the same rollout ranks between the steps."""
    steps = steps_of_a_killed_run(with_fields(evaluated(apart), game=game))
    assert [step.get("ahead/steps", 0.0) for step in steps] == [0.0, 1.0, 1.0, 1.0]
    assert all(step["ahead/staleness_mean"] > 0 for step in steps[1:] if step["train/responses"])


@pytest.mark.parametrize("game", [{}, SEPARATE, DYNAMIC], ids=["shared", "separate", "dynamic"])
def test_the_first_step_is_that_of_engines_beside_the_trainer(
    game: dict[str, Any], config: RunConfig, tmp_path: Path
) -> None:
    """Its weights have the same age, so groups and rewards do not depend on the sampling ranks."""

    def first_groups(ranks: int) -> list[ScoredGroup]:
        folder = {"save": str(tmp_path / f"ranks {ranks}")}
        with started_run(with_fields(config, game=game, rollout={"rollout_ranks": ranks}, training=folder)) as run:
            return played(run).algorithm.step(1).groups

    assert first_groups(0) == first_groups(1) == first_groups(2)


def test_each_step_is_sampled_with_the_weights_before_the_update_of_the_step_before(apart: RunConfig) -> None:
    with started_run(with_fields(apart, training={"train_iters": 3})) as run:
        algorithm = played(run).algorithm
        for iteration in (1, 2, 3):
            ready = algorithm.ready
            assert (ready is None) == (iteration == 1)
            held = [engine.weights for engine in ScriptedEngine.started]
            report = algorithm.step(iteration)
            age = 0 if iteration == 1 else 1
            assert {group.staleness for group in report.groups} == {age}
            (batch,) = report.rollouts
            assert (batch.age, batch.rng_key) == (age, f"{iteration}.0")
            assert ready is None or ready["iteration"] == iteration - 1
            assert all(engine.weights is not old for engine, old in zip(ScriptedEngine.started, held, strict=True))
        assert algorithm.ready is None, "nothing is sampled for a step that never comes"
        trainer = dict(algorithm.learners[0].policy.weights())
        for engine in ScriptedEngine.started:
            assert all(torch.equal(engine.weights[name], weight) for name, weight in trainer.items())
    assert all(engine.closed for engine in ScriptedEngine.started)


def test_the_sync_difference_is_that_of_the_policy_which_is_furthest_off(apart: RunConfig) -> None:
    with started_run(with_fields(apart, game=SEPARATE)) as run:
        engines = played(run).engines
        for iteration in (1, 2, 3):
            metrics = played(run).step(iteration).metrics
            means = [engines[role].difference.mean for role in ("generator", "predictor")]
            assert metrics["ahead/sync_difference"] == max(means)


def test_a_killed_rollout_rank_is_started_again_and_nothing_changes(apart: RunConfig, tmp_path: Path) -> None:
    """The other rollout rank restarts on its own."""
    whole = with_fields(apart, training={"train_iters": 24, "save": str(tmp_path / "whole")})
    _, steps = run_to_the_end(whole)
    save = tmp_path / "killed"
    write_config(with_fields(whole, training={"save": str(save)}), tmp_path / "config.yaml")
    run = LaunchedRun("tests.system.workers.scripted_train", 3, save, "--config", tmp_path / "config.yaml")
    run.wait_for_step(7)
    run.process_of(2).kill()
    output = run.end(0)
    assert re.search(r"rank 2 \(.*\) was killed by SIGKILL.*; it is started again", output)
    assert output.count("it is started again") == 1
    assert "rank 2 has ended" in output and "the rollout ranks start again" in output
    assert [without_times(json.loads(line)) for line in run.steps()] == steps


@pytest.mark.parametrize(("before", "after"), [(2, 0), (0, 1), (2, 1)])
def test_a_run_goes_on_with_another_number_of_rollout_ranks(before: int, after: int, config: RunConfig) -> None:
    """The ranks that resume learn from the stored experience."""
    save, two = config.training.save, {"train_iters": 2}
    _, first = run_to_the_end(with_fields(config, rollout={"rollout_ranks": before}, training={"train_iters": 4}))
    without_steps(Path(save), after=2)
    _, steps = run_to_the_end(with_fields(config, rollout={"rollout_ranks": after}, training={"load": save}))
    assert steps[: two["train_iters"]] == first[:2]
    assert steps[2]["ahead/steps"] == 1.0 if before else "ahead/steps" not in steps[2]
    if before:
        assert steps[2]["predictor/accuracy"] == first[2]["predictor/accuracy"]


def test_proposals_that_were_pending_are_learned_from_on_rollout_ranks(config: RunConfig) -> None:
    save = config.training.save
    run_to_the_end(with_fields(config, rollout={"generator_ahead": True}))
    without_steps(Path(save), after=2)
    _, steps = run_to_the_end(with_fields(config, rollout={"rollout_ranks": 1}, training={"load": save}))
    assert [step.get("ahead/steps", 0.0) for step in steps] == [0.0, 1.0, 1.0, 1.0]
