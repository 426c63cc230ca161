"""Every recipe under examples/ can be read, its layout fits its model, and the model has the published size."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path

import pytest
import torch

from megatron_pz.config.parse import load_yaml
from megatron_pz.config.schema import ModelConfig, ParallelConfig, RunConfig
from megatron_pz.config.validate_parallel import expert_tensor_parallel_size
from megatron_pz.model.gpt import build_model
from megatron_pz.model.hf_mapping import OUTPUT_LAYER, hf_tensor_names
from megatron_pz.model.transformer_config import transformer_config
from tests.support.published_models import PUBLISHED, architecture

ROOT = Path(__file__).resolve().parents[3]
WITHOUT_A_MODEL = {"quickstart", "toy", "rlvr_smollm2_135m"}
OF_A_MODEL = {"rlvr_qwen3_4b": "qwen3_4b"}
"""Recipes that train the model of another."""


@cache
def recipes() -> dict[str, RunConfig]:
    folders = (path.parent for path in sorted((ROOT / "examples").glob("*/config.yaml")))
    others = WITHOUT_A_MODEL | OF_A_MODEL.keys()
    return {folder.name: load_yaml(folder / "config.yaml") for folder in folders if folder.name not in others}


def test_rlvr_trains_the_model_of_the_game_in_its_layout() -> None:
    for name, game in OF_A_MODEL.items():
        recipe, other = load_yaml(ROOT / "examples" / name / "config.yaml"), recipes()[game]
        assert recipe.model == other.model
        assert (ROOT / "examples" / name / "README.md").is_file()
        sizes = [(p.tensor_model_parallel_size, p.sequence_parallel) for p in (recipe.parallel, other.parallel)]
        assert sizes[0] == sizes[1]


def test_every_recipe_has_a_published_model_and_every_model_a_recipe() -> None:
    assert recipes().keys() == PUBLISHED.keys()
    for name, config in recipes().items():
        assert config.model.hf_model == f"models/{PUBLISHED[name]['source'].split('/')[1]}"
        assert (ROOT / "examples" / name / "README.md").is_file()


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_layout_fits_the_model_and_nodes_of_eight(name: str, tmp_path: Path) -> None:
    config = recipes()[name]
    parallel = config.parallel
    transformer_config(architecture(name, tmp_path), config.model, parallel)
    ranks = parallel.tensor_model_parallel_size * parallel.context_parallel_size * parallel.pipeline_model_parallel_size
    of_experts = expert_tensor_parallel_size(parallel) * parallel.expert_model_parallel_size
    assert 8 % math.lcm(ranks, of_experts * parallel.pipeline_model_parallel_size) == 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="Transformer Engine's layers do not build on the meta device")
@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.usefixtures("topology")
def test_the_model_is_as_large_as_the_published_one(name: str, tmp_path: Path) -> None:
    """The size is that of a Hugging Face checkpoint: no padding, a tied head once. Models are on the meta device."""
    arch = architecture(name, tmp_path)
    config = transformer_config(arch, ModelConfig(), ParallelConfig())
    with torch.device("meta"):
        model = build_model(arch, config)
    sizes: dict[str, int] = {}
    for parameter_name, parameter in model.named_parameters():
        if not (arch.tied_embeddings and parameter_name == OUTPUT_LAYER):
            source = hf_tensor_names(parameter_name, model, arch)
            shapes = source.layout.hf_shapes(tuple(parameter.shape), 1, arch)
            sizes |= {hf_name: math.prod(shape) for hf_name, shape in zip(source.hf_names[0], shapes, strict=True)}
    assert model.embedding.word_embeddings.weight.is_meta
    assert sum(sizes.values()) == PUBLISHED[name]["parameters"]


def test_the_qwen3_recipe_is_the_papers() -> None:
    """The values of the paper's section on settings are a second list besides the recipe and the defaults."""
    recipe = load_yaml(ROOT / "examples/qwen3_4b/config.yaml")
    assert recipe.training.train_iters == 2000
    assert (recipe.optimizer.lr, recipe.optimizer.lr_decay_style) == (5e-7, "cosine")
    assert (recipe.rollout.max_prompt_length, recipe.rollout.max_response_length) == (1536, 4096)
    game = recipe.game
    masks = game.passages_per_step * game.masks_per_passage
    assert (masks, masks * (1 + game.grpo_group_size)) == (256, 2304), "masks, and responses in a step"
    assert (game.policy_sharing, game.mask_strategy, game.generator_reward) == (
        "shared",
        "active",
        "one_minus_accuracy",
    )
    assert recipe.grpo.grpo_clamp_eps_upper > recipe.grpo.grpo_clamp_eps_lower, "clip-higher"
    assert recipe.grpo.advantage_scale == "group_std"


def test_the_rlvr_recipe_is_general_reasoners_at_the_papers_size() -> None:
    """The values of the paper and of General-Reasoner's published script are a second list besides the recipe."""
    recipe = load_yaml(ROOT / "examples/rlvr_qwen3_4b/config.yaml")
    assert (recipe.training.train_iters, recipe.questions.questions_per_step, recipe.game.grpo_group_size) == (
        400,
        128,
        8,
    )
    assert (recipe.optimizer.lr, recipe.optimizer.lr_decay_style) == (5e-7, "constant")
    assert (recipe.rollout.max_prompt_length, recipe.rollout.max_response_length) == (1024, 8192)
    grpo = recipe.grpo
    assert (grpo.grpo_clamp_eps_lower, grpo.grpo_clamp_eps_upper, grpo.grpo_dual_clip) == (0.3, 0.3, 10)
    assert (grpo.grpo_kl_beta, grpo.kl_estimator) == (1e-4, "k3")
    asked = recipe.questions
    assert (asked.no_answer_reward, asked.answer_length_penalty, asked.answer_length_cap) == (-0.5, 0.05, 10)
    assert (asked.grader, asked.verifier_max_tokens) == ("verifier", 2048)
