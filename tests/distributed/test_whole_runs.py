"""A run is the same run on any number of ranks, in any layout: the same experience, updates, metrics and weights."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from megatron_pz.config.schema import (
    DataConfig,
    GameConfig,
    GrpoConfig,
    ModelConfig,
    OptimizerConfig,
    ParallelConfig,
    RolloutConfig,
    RunConfig,
    TrainingConfig,
)
from tests.distributed.test_layouts import (
    CONTEXT,
    EXPERT,
    INTERLEAVED,
    OVERLAPPED,
    PIPELINE,
    SEQUENCE,
    SIZES,
    save_random_model,
)
from tests.distributed.workers import whole_runs
from tests.support.forked_ranks import ForkedRanks
from tests.support.interrupted_run import without_steps
from tests.support.scripted_run import question_config
from tests.support.tiny_corpus import PASSAGES, write_corpus

GAMES = {
    "one policy": (
        {"dynamic_sampling": True, "max_predictor_groups": 4},
        {"updates_per_step": 2, "grpo_iterations": 2, "grpo_kl_beta": 0.1},
    ),
    "two policies": (
        {"policy_sharing": "separate", "share_equal_masks": True},
        {"updates_per_step": 2, "importance_sampling_level": "sequence"},
    ),
    "one step ahead": ({}, {"updates_per_step": 2}),
}
OF_THE_MACHINE = ("time/", "memory/", "ahead/overlap")


@pytest.fixture(scope="module")
def configs(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer_dir: Path) -> dict[str, RunConfig]:
    """Return the configurations of four steps of each game by one process."""
    from transformers import Qwen3Config

    folder = tmp_path_factory.mktemp("whole_runs")
    model = save_random_model(Qwen3Config(**SIZES, max_position_embeddings=2048), folder / "model")
    AutoTokenizer.from_pretrained(tiny_tokenizer_dir).save_pretrained(model)
    corpus = write_corpus(folder / "tiny", model, [[text] for text in PASSAGES])
    rules = {"prompt_family": "quote", "passages_per_step": 3, "masks_per_passage": 4, "grpo_group_size": 3}
    # With a wide clip range, rounding cannot move a ratio across its edge in only one of the layouts.
    clip = {"grpo_clamp_eps_lower": 0.9, "grpo_clamp_eps_upper": 9.0}
    clip |= {"gspo_clamp_eps_lower": 0.9, "gspo_clamp_eps_upper": 9.0}
    return {
        name: RunConfig(
            model=ModelConfig(hf_model=str(model), bf16=False),
            data=DataConfig(data_path=(corpus,)),
            game=GameConfig(**rules, span_policy="one_mask", whole_words=True, **game),
            rollout=RolloutConfig(
                max_prompt_length=200,
                max_response_length=24,
                max_log_prob_difference=100.0,
                generator_ahead=name == "one step ahead",
            ),
            grpo=GrpoConfig(**clip, **grpo),
            optimizer=OptimizerConfig(lr=1e-3, lr_decay_style="constant", adam_eps=1e-5),
            training=TrainingConfig(train_iters=4, micro_batch_tokens=150, save_interval=2, save=str(folder / name)),
        )
        for name, (game, grpo) in GAMES.items()
    }


@pytest.fixture(scope="module")
def by_one_process(configs: dict[str, RunConfig], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("by_one_process")
    compared = ("one policy", "two policies")
    return {name: outcome(configs[name], 1, folder / name) for name in compared}


@pytest.fixture(scope="module")
def questions(configs: dict[str, RunConfig], tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """Return the configuration of four steps of question answering, otherwise with the settings of the game."""
    plain, folder = configs["one policy"], tmp_path_factory.mktemp("questions")
    files = folder / "train.jsonl", folder / "held_out.jsonl"
    asked = question_config(Path(plain.model.hf_model), folder / "run", *files)
    training = dataclasses.replace(plain.training, eval_interval=2)
    return dataclasses.replace(plain, data=asked.data, questions=asked.questions, training=training)


@pytest.fixture(scope="module")
def answered_by_one_process(questions: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, str]:
    """Return the outcome of the run, and its held-out results."""
    alone = changed(questions, {}, save=str(tmp_path_factory.mktemp("answered") / "alone"))
    result = outcome(alone, 1, Path(f"{alone.training.save}_result"))
    assert sum(step["solver/groups_learned_from"] for step in result[2][2:]) > 0
    return result, (Path(alone.training.save) / "held_out.jsonl").read_text()


@pytest.mark.parametrize(
    "layout", [OVERLAPPED, SEQUENCE, PIPELINE, CONTEXT], ids=["data", "tensor", "pipeline", "context"]
)
def test_questions_are_answered_alike_in_any_layout(
    layout: dict[str, Any], questions: RunConfig, answered_by_one_process: tuple[Any, str], tmp_path: Path
) -> None:
    """Two steps on two ranks, a resume and two more give the metrics, weights and held-out answers of one process."""
    folder = str(tmp_path / "run")
    outcome(changed(questions, layout, save=folder, train_iters=2), 2, tmp_path / "half")
    whole, held_out = answered_by_one_process
    require_same(whole, outcome(changed(questions, layout, save=folder, load=folder), 2, tmp_path / "rest"))
    assert (Path(folder) / "held_out.jsonl").read_text() == held_out and len(held_out.splitlines()) == 3


def outcome(config: RunConfig, nproc: int, result: Path) -> tuple[list, list, list[dict[str, float | None]]]:
    """Return the policies' and the engines' weights at the end, and the metrics of all steps."""
    with ForkedRanks(nproc, whole_runs.run, config, str(result)) as ranks:
        assert ranks.codes(timeout=120) == [0] * nproc, ranks.output()
    lines = (Path(config.training.save) / "metrics.jsonl").read_text().splitlines()
    return *torch.load(result), [json.loads(line) for line in lines]


def require_same(one: tuple, other: tuple) -> None:
    for here, there in zip((*one[0], *one[1]), (*other[0], *other[1]), strict=True):
        assert here.keys() == there.keys()
        for name, weight in here.items():
            assert (there[name] - weight).norm() <= 1e-5 * weight.norm(), name
    for step, its_like in zip(one[2], other[2], strict=True):
        assert step.keys() == its_like.keys()
        for name in step:
            if not name.startswith(OF_THE_MACHINE):
                here, there = (math.nan if each[name] is None else each[name] for each in (step, its_like))
                assert there == pytest.approx(here, rel=1e-3, abs=1e-5, nan_ok=True), (step["iteration"], name)


def changed(config: RunConfig, layout: dict[str, Any], **training: Any) -> RunConfig:
    return dataclasses.replace(
        config, parallel=ParallelConfig(**layout), training=dataclasses.replace(config.training, **training)
    )


@pytest.mark.parametrize(
    ("game", "nproc", "layout"),
    [
        ("one policy", 3, OVERLAPPED),
        ("one policy", 2, INTERLEAVED),
        ("two policies", 2, SEQUENCE),
    ],
    ids=["data", "interleaved", "tensor"],
)
def test_many_ranks_make_the_run_of_one(
    game: str,
    nproc: int,
    layout: dict[str, Any],
    configs: dict[str, RunConfig],
    by_one_process: dict[str, Any],
    tmp_path: Path,
) -> None:
    config = changed(configs[game], layout, save=str(tmp_path / "run"))
    require_same(by_one_process[game], outcome(config, nproc, tmp_path / "result"))


@pytest.mark.parametrize(
    ("begun", "continued"),
    [({}, PIPELINE), (INTERLEAVED, SEQUENCE), (CONTEXT, INTERLEAVED)],
    ids=["data, pipeline", "interleaved, tensor", "context, interleaved"],
)
def test_a_run_goes_on_with_other_ranks_as_it_would_have(
    begun: dict[str, Any],
    continued: dict[str, Any],
    configs: dict[str, RunConfig],
    by_one_process: dict[str, Any],
    tmp_path: Path,
) -> None:
    folder = str(tmp_path / "run")
    outcome(changed(configs["two policies"], begun, save=folder, train_iters=2), 2, tmp_path / "half")
    rest = changed(configs["two policies"], continued, save=folder, load=folder)
    require_same(by_one_process["two policies"], outcome(rest, 2, tmp_path / "whole"))


def test_pending_proposals_go_on_with_other_ranks(configs: dict[str, RunConfig], tmp_path: Path) -> None:
    """Three ranks are killed between checkpoints, and a pipeline of two resumes. Two engines sample each passage."""
    folder = tmp_path / "run"
    game = dataclasses.replace(configs["one step ahead"].game, passages_per_step=2)
    config = dataclasses.replace(configs["one step ahead"], game=game)
    whole = outcome(changed(config, {}, save=str(tmp_path / "alone")), 1, tmp_path / "of_one")
    require_same(whole, outcome(changed(config, {}, save=str(folder)), 3, tmp_path / "of_three"))
    without_steps(folder, after=2)
    rest = changed(config, PIPELINE, save=str(folder), load=str(folder))
    require_same(whole, outcome(rest, 2, tmp_path / "result"))
    assert [step.get("ahead/steps", 0.0) for step in whole[2]] == [0.0, 1.0, 1.0, 1.0]


def test_rollout_ranks_serve_a_trainer_of_any_ranks(configs: dict[str, RunConfig], tmp_path: Path) -> None:
    """Two data-parallel ranks and a rollout rank are killed between checkpoints; a pipeline and another resume."""
    folder = tmp_path / "run"
    plain = configs["one policy"]
    config = dataclasses.replace(plain, rollout=dataclasses.replace(plain.rollout, rollout_ranks=1))
    whole = outcome(changed(config, {}, save=str(tmp_path / "alone")), 2, tmp_path / "of_one")
    require_same(whole, outcome(changed(config, {}, save=str(folder)), 3, tmp_path / "of_two"))
    without_steps(folder, after=2)
    rest = changed(config, PIPELINE, save=str(folder), load=str(folder))
    require_same(whole, outcome(rest, 3, tmp_path / "result"))
    assert [step.get("ahead/steps", 0.0) for step in whole[2]] == [0.0, 1.0, 1.0, 1.0]


@pytest.mark.parametrize("rollout_ranks", [0, 1], ids=["one step ahead", "rollout ranks"])
def test_expert_ids_follow_their_responses(
    rollout_ranks: int, configs: dict[str, RunConfig], tiny_mixture_dir: Path, tmp_path: Path
) -> None:
    """Expert ids pass from sampling ranks or a rollout rank to learning ranks, and through a checkpoint to one."""
    plain, folder = configs["one step ahead"], tmp_path / "run"
    rollout = {"rollout_ranks": rollout_ranks, "generator_ahead": not rollout_ranks}
    config = dataclasses.replace(
        plain,
        model=dataclasses.replace(plain.model, hf_model=str(tiny_mixture_dir), moe_enable_routing_replay=True),
        rollout=dataclasses.replace(plain.rollout, **rollout),
    )
    alone = changed(config, {}, save=str(tmp_path / "alone"))
    whole = outcome(alone, 1 + rollout_ranks, tmp_path / "of_one")
    begun = changed(config, EXPERT, save=str(folder))
    require_same(whole, outcome(begun, 2 + rollout_ranks, tmp_path / "of_two"))
    without_steps(folder, after=2)
    rest = changed(config, {}, save=str(folder), load=str(folder))
    require_same(whole, outcome(rest, 1 + rollout_ranks, tmp_path / "result"))
    # Random ids rarely equal those that the router prefers: two of eight are 1 in 28.
    assert all(0.8 < step["health/routing_difference"] < 1 for step in whole[2])


def test_a_mixture_goes_on_without_sharing_its_experts(configs: dict[str, RunConfig], tmp_path: Path) -> None:
    """Each of its two policies then has one optimizer instead of two; the first stage has a layer without experts."""
    from transformers import Qwen3MoeConfig

    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "norm_topk_prob": True}
    sizes = {**SIZES, **experts, "mlp_only_layers": [1], "max_position_embeddings": 2048}
    model, plain = save_random_model(Qwen3MoeConfig(**sizes), tmp_path / "model"), configs["two policies"]
    AutoTokenizer.from_pretrained(plain.model.hf_model).save_pretrained(model)
    config = dataclasses.replace(plain, model=dataclasses.replace(plain.model, hf_model=str(model)))
    alone = outcome(changed(config, {}, save=str(tmp_path / "alone")), 1, tmp_path / "whole")
    folder = str(tmp_path / "run")
    outcome(changed(config, EXPERT, save=folder, train_iters=2, async_save=True), 2, tmp_path / "half")
    require_same(alone, outcome(changed(config, PIPELINE, save=folder, load=folder), 2, tmp_path / "rest"))
