"""Rollouts of a run on scripted engines, in one queue for both roles and with the generator one step ahead."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest
import torch

from megatron_pz.algorithm.pending_proposals import PendingProposals
from megatron_pz.algorithm.rollouts import Draw, Predictions, Proposals, RolloutWorker
from megatron_pz.checkpoint import checkpoint_files
from megatron_pz.config.schema import RunConfig
from tests.support.scripted_run import (
    ScriptedEngine,
    evaluated,
    played,
    run_config,
    run_to_the_end,
    started_run,
    steps_of_a_killed_run,
    with_fields,
)

WARM_UP = {"passive_warmup_iters": 2}


@pytest.fixture
def config(tiny_corpus: str, tiny_llama_dir: Path, tmp_path: Path, scripted_engines: type[ScriptedEngine]) -> RunConfig:
    return run_config(tiny_llama_dir, tiny_corpus, tmp_path / "run")


@pytest.fixture
def ahead(config: RunConfig) -> RunConfig:
    return with_fields(config, rollout={"generator_ahead": True})


@pytest.mark.parametrize(
    "game",
    [
        {},
        {"policy_sharing": "separate"},
        {"dynamic_sampling": True, "max_sampling_rounds": 4, "masks_per_passage": 2},
        WARM_UP,
    ],
    ids=["shared", "separate", "dynamic sampling", "warm-up"],
)
def test_a_killed_run_goes_on_with_its_pending_proposals(game: dict[str, Any], ahead: RunConfig) -> None:
    """The resumed run is equal bit for bit. An evaluation lies between the proposals and their predictions."""
    steps = steps_of_a_killed_run(with_fields(evaluated(ahead), game=game))
    stale = [step.get("ahead/steps", 0.0) for step in steps]
    assert stale[0] == 0 and (stale[1] > 0) == (game != WARM_UP) and stale[3] > 0
    assert any(step.get("ahead/staleness_mean", 0.0) > 0 for step in steps)


def test_pending_proposals_keep_the_experts_that_they_were_routed_to(ahead: RunConfig, tiny_mixture_dir: Path) -> None:
    """The killed run resumes bit for bit, with the same ids in the step that learns from them."""
    model = {"hf_model": str(tiny_mixture_dir), "moe_enable_routing_replay": True}
    steps = steps_of_a_killed_run(with_fields(ahead, model=model))
    checkpoint = checkpoint_files.folder_of(Path(ahead.training.save), 2)
    ids = torch.load(checkpoint / checkpoint_files.binary_file(0))
    assert ids.keys() == {"pending 0", "pending 1"} and all(each.dtype == torch.uint8 for each in ids.values())
    # Random ids rarely equal those that the router prefers: two of eight are 1 in 28.
    assert all(0.8 < step["health/routing_difference"] < 1 for step in steps)


@pytest.mark.parametrize("game", [{}, {"policy_sharing": "separate"}, WARM_UP], ids=["shared", "separate", "warm-up"])
def test_every_passage_is_proposed_for_once_and_the_last_step_asks_for_nothing_more(
    game: dict[str, Any], ahead: RunConfig
) -> None:
    run_to_the_end(with_fields(ahead, game=game))
    prompts = [prompt for engine in ScriptedEngine.started for prompt in engine.prompts]
    steps = 4 - game.get("passive_warmup_iters", 0)
    assert sum(prompt.startswith("Paragraph:") for prompt in prompts) == steps * 2 * 3


def test_each_call_holds_this_steps_predictions_and_the_next_steps_proposals(
    ahead: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[dict[str, set[str]]] = []
    plain = ScriptedEngine.answer

    def answer(engine: ScriptedEngine, requests: Any, **more: Any) -> Any:
        answers = plain(engine, requests, **more)
        calls.append({role: {key.item for key in answers if key.role == role} for role in ("generator", "predictor")})
        return answers

    monkeypatch.setattr(ScriptedEngine, "answer", answer)
    run_to_the_end(ahead)
    assert [(bool(call["generator"]), bool(call["predictor"])) for call in calls] == [
        (True, False), (True, True), (True, True), (True, True), (False, True)
    ]  # fmt: skip


def test_the_generator_learns_from_samples_of_the_weights_before_the_last_update(ahead: RunConfig) -> None:
    """During sampling the engine holds the weights that the previous step has learned."""
    with started_run(with_fields(ahead, training={"train_iters": 3})) as run:
        algorithm = played(run).algorithm
        for iteration in (1, 2, 3):
            held = ScriptedEngine.started[0].weights
            before = algorithm.pending
            report = algorithm.step(iteration)
            (batch,) = report.rollouts
            assert batch.staleness == (0 if iteration == 1 else 1)
            if before is not None:
                assert (before.iteration, batch.proposals) == (iteration - 1, before.proposals)
            stale = {group.role: group.staleness for group in report.groups}
            assert stale.get("predictor", 0) == 0 and stale.get("generator", batch.staleness) == batch.staleness
            assert ScriptedEngine.started[0].weights is not held
        assert algorithm.pending is None


def rollouts_of(config: RunConfig) -> tuple[list[Proposals], list[Predictions]]:
    """Return the rollouts of the first draw of a run in a new folder."""
    with started_run(config) as run:
        algorithm = played(run).algorithm
        proposals, predictions = algorithm.worker.play(Draw(algorithm.draw_passages(), "1.0"))
    return proposals, predictions


@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize("backwards", [False, True])
def test_one_queue_gives_the_samples_of_two_calls(
    share: bool, backwards: bool, config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The order of completion does not matter; with shared masks, equal masks are predicted once."""
    several = with_fields(config, game={"share_equal_masks": share, "masks_per_passage": 8, "passages_per_step": 3})
    monkeypatch.setattr(ScriptedEngine, "backwards", backwards)
    in_one_queue = rollouts_of(several)

    def one_after_the_other(worker: RolloutWorker, draw: Draw) -> tuple[list[Proposals], list[Predictions]]:
        proposals = worker.propose(draw)
        return proposals, worker.predict(worker.masks_of(proposals, draw.rng_key), draw.rng_key)[0]

    monkeypatch.setattr(RolloutWorker, "play", one_after_the_other)
    assert rollouts_of(with_fields(several, training={"save": str(tmp_path / "two calls")})) == in_one_queue
    proposals, predictions = in_one_queue
    keys = [key for group in proposals for key in group.keys(share) if key is not None]
    assert sorted(set(keys)) == [group.mask.key for group in predictions]
    assert (len(set(keys)) < len(keys)) == share


def test_stored_proposals_go_to_another_number_of_ranks(ahead: RunConfig) -> None:
    """The checkpoint is of three ranks, of which one had two groups and one had none."""
    with started_run(with_fields(ahead, game={"passages_per_step": 3})) as run:
        algorithm = played(run).algorithm
        draw = Draw(algorithm.draw_passages(), "1.0 ahead")
        pending = PendingProposals(draw, algorithm.worker.propose(draw), 1)
        state = pending.state_dict(algorithm.worker)

        def no_ids(names: Collection[str]) -> dict[str, bytes]:
            return {}

        assert PendingProposals.of_state(state, algorithm.worker, algorithm.passages, no_ids) == pending
        (groups,) = state["ranks"]
        state["ranks"] = [{name: groups[name] for name in "20"}, {}, {"1": groups["1"]}]
        assert PendingProposals.of_state(state, algorithm.worker, algorithm.passages, no_ids) == pending
