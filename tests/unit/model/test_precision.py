"""Our rules about precision, compared with Megatron-Core's own, and the resulting configurations."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from megatron.core.enums import Fp8Recipe
from megatron.core.fp8_utils import get_fp8_align_size

from megatron_pz.config.schema import ModelConfig, ParallelConfig, RunConfig
from megatron_pz.config.validate_precision import gemm_multiple, precision_rules
from megatron_pz.hf.architecture import Architecture
from megatron_pz.model.precision import (
    precision_settings,
    require_precision,
    this_machine,
    transformer_engine_version,
)
from megatron_pz.model.transformer_config import transformer_config
from megatron_pz.runtime.errors import BadInput

from megatron.core.transformer import TransformerConfig  # isort: skip

FORMATS, RECIPES = ("none", "hybrid", "e4m3"), ("delayed", "tensorwise", "blockwise", "mxfp8")
QWEN3_4B = Architecture("qwen3", 36, 2560, 9728, 32, 8, 128, 151_936, 40_960, 1e-6, 1e6, tied_embeddings=True)
COMBINATIONS = [
    ModelConfig(bf16=True, fp8_format=form, fp8_recipe=recipe, fp8_param_gather=gather, first_last_layers_bf16=ends)
    for form, recipe, gather, ends in itertools.product(FORMATS, RECIPES, (False, True), (False, True))
]


def is_accepted(model: ModelConfig) -> bool:
    config = RunConfig(model=model, parallel=ParallelConfig(use_distributed_optimizer=True))
    return all(holds for holds, _ in precision_rules(config))


@pytest.mark.parametrize("model", COMBINATIONS, ids=str)
def test_what_megatron_core_refuses_we_refuse_and_what_we_accept_it_builds(model: ModelConfig) -> None:
    settings = {
        **precision_settings(model),
        "fp8_param": model.fp8_param_gather,
        "first_last_layers_bf16": model.first_last_layers_bf16,
    }
    try:
        built = TransformerConfig(num_layers=4, hidden_size=64, num_attention_heads=4, **settings)
    except ValueError:
        assert not is_accepted(model)
        return
    if is_accepted(model):
        assert built.fp8 == (None if model.fp8_format == "none" else model.fp8_format)
        assert built.fp8 is None or built.fp8_recipe == model.fp8_recipe


def test_accepted_and_refused_both_occur() -> None:
    assert 0 < sum(map(is_accepted, COMBINATIONS)) < len(COMBINATIONS)


@pytest.mark.parametrize("model", [model for model in COMBINATIONS if is_accepted(model)], ids=str)
def test_the_whole_configuration_of_qwen3_4b_is_built(model: ModelConfig) -> None:
    config = transformer_config(QWEN3_4B, model, ParallelConfig(use_distributed_optimizer=True))
    assert config.params_dtype == torch.bfloat16
    assert config.fp8_param is model.fp8_param_gather
    assert config.first_last_layers_bf16 is model.first_last_layers_bf16


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_alignment_is_megatron_cores(recipe: str) -> None:
    assert gemm_multiple(ModelConfig(fp8_format="e4m3", fp8_recipe=recipe)) == get_fp8_align_size(Fp8Recipe[recipe])


@pytest.mark.parametrize(
    ("sizes", "layout", "reason"),
    [
        ({"ffn_hidden_size": 9736}, {}, "feed-forward width on a rank is 9736, which is not a multiple of 16"),
        ({"hidden_size": 2568}, {}, "hidden size is 2568"),
        ({"kv_channels": 12, "num_query_groups": 1}, {}, "queries, keys and values on a rank is 408"),
        ({"ffn_hidden_size": 96}, {"tensor_model_parallel_size": 4}, "feed-forward width on a rank is 24"),
    ],
)
def test_sizes_that_fp8_cannot_multiply_are_refused(sizes: dict[str, Any], layout: dict, reason: str) -> None:
    from dataclasses import replace

    arch = replace(QWEN3_4B, **sizes)
    transformer_config(arch, ModelConfig(), ParallelConfig(**layout))
    with pytest.raises(BadInput, match=reason):
        transformer_config(arch, ModelConfig(fp8_format="hybrid"), ParallelConfig(**layout))


def test_more_layers_in_bfloat16_than_a_stage_has_are_refused() -> None:
    model = ModelConfig(fp8_format="hybrid", first_last_layers_bf16=True, num_layers_at_end_in_bf16=10)
    transformer_config(QWEN3_4B, model, ParallelConfig(pipeline_model_parallel_size=3))
    with pytest.raises(BadInput, match=r"--num-layers-at-end-in-bf16 10: a pipeline stage has 9 layers"):
        transformer_config(QWEN3_4B, model, ParallelConfig(pipeline_model_parallel_size=4))


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what a machine without CUDA refuses")
def test_this_machine_refuses_fp8_and_says_everything_at_once() -> None:
    machine = this_machine()
    assert machine.compute_capability is None
    require_precision(ModelConfig(), machine)
    with pytest.raises(BadInput, match="--fp8-format e4m3 --fp8-recipe tensorwise needs a CUDA device"):
        require_precision(ModelConfig(fp8_format="e4m3"), machine)


def test_transformer_engines_version_comes_from_its_metadata(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.metadata

    installed = {"transformer-engine-torch": "2.20.2"}

    def version(name: str) -> str:
        if name not in installed:
            raise importlib.metadata.PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert transformer_engine_version() == (2, 20)
    installed.clear()
    assert transformer_engine_version() is None
