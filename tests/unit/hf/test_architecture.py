"""Reading config.json, refusing unsupported settings, and Megatron-Core's configuration of a layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from megatron_pz.config.schema import ModelConfig, ParallelConfig
from megatron_pz.hf.architecture import Architecture, Experts, first_difference, plain_architecture
from megatron_pz.model.transformer_config import padded_vocab_size, transformer_config
from megatron_pz.runtime.errors import BadInput

LLAMA = {
    "model_type": "llama",
    "vocab_size": 331,
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 6,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "tie_word_embeddings": True,
}
SMOLLM3 = {**LLAMA, "model_type": "smollm3"}
QWEN3 = {**LLAMA, "model_type": "qwen3", "head_dim": 32, "rope_theta": 1_000_000, "tie_word_embeddings": False}

MOE = {
    **QWEN3,
    "model_type": "qwen3_moe",
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 24,
    "norm_topk_prob": True,
}


def read(folder: Path, config: dict[str, Any]) -> Architecture:
    (folder / "config.json").write_text(json.dumps(config))
    return Architecture.from_hf(folder)


def without(config: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in config.items() if name != key}


def test_sizes_are_read(tmp_path: Path) -> None:
    arch = read(tmp_path, QWEN3)
    assert (arch.num_layers, arch.hidden_size, arch.ffn_hidden_size, arch.vocab_size) == (6, 48, 96, 331)
    assert (arch.num_attention_heads, arch.num_query_groups, arch.kv_channels) == (6, 3, 32)
    assert (arch.rotary_base, arch.layernorm_epsilon, arch.tied_embeddings) == (1_000_000, 1e-5, False)


def test_llama_may_leave_its_heads_to_be_derived(tmp_path: Path) -> None:
    arch = read(tmp_path, without({**LLAMA, "head_dim": None}, "num_key_value_heads"))
    assert (arch.kv_channels, arch.num_query_groups) == (8, 6)


def test_experts_are_read_under_either_of_their_names(tmp_path: Path) -> None:
    arch = read(tmp_path, {**MOE, "decoder_sparse_step": 2, "mlp_only_layers": [5]})
    assert arch.experts == Experts(4, 2, 24, normalized=True, in_layer=(False, True, False, True, False, False))
    written_by_transformers_5 = {**without(MOE, "num_experts"), "num_local_experts": 4}
    assert read(tmp_path, written_by_transformers_5) == read(tmp_path, MOE)
    assert read(tmp_path, MOE).all_layers_are_sparse and not arch.all_layers_are_sparse


def test_layers_without_rope_are_read_or_counted(tmp_path: Path) -> None:
    assert read(tmp_path, SMOLLM3).layers_without_rope == (3,)
    assert read(tmp_path, {**SMOLLM3, "no_rope_layer_interval": 2}).layers_without_rope == (1, 3, 5)
    assert read(tmp_path, {**SMOLLM3, "no_rope_layers": [0, 1, 1, 1, 1, 0]}).layers_without_rope == (0, 5)
    config = transformer_config(read(tmp_path, SMOLLM3), ModelConfig(), ParallelConfig())
    assert config.no_rope_freq == [0, 0, 0, 1, 0, 0]  # Megatron's 1 is a layer without


def test_the_mixture_reaches_megatron(tmp_path: Path) -> None:
    config = transformer_config(read(tmp_path, MOE), ModelConfig(), ParallelConfig())
    assert (config.num_moe_experts, config.moe_router_topk, config.moe_ffn_hidden_size) == (4, 2, 24)
    assert (config.moe_router_dtype, config.moe_router_pre_softmax) == ("fp32", False)
    assert (config.moe_router_load_balancing_type, config.moe_aux_loss_coeff) == ("none", 0.0)
    plain = read(tmp_path, {**MOE, "norm_topk_prob": False})
    balanced = transformer_config(plain, ModelConfig(moe_aux_loss_coeff=0.01), ParallelConfig())
    assert balanced.moe_router_pre_softmax
    assert (balanced.moe_router_load_balancing_type, balanced.moe_aux_loss_coeff) == ("aux_loss", 0.01)
    with pytest.raises(BadInput, match=r"--moe-aux-loss-coeff 0\.1: the model is dense"):
        transformer_config(read(tmp_path, QWEN3), ModelConfig(moe_aux_loss_coeff=0.1), ParallelConfig())
    with pytest.raises(BadInput, match=r"^--moe-enable-routing-replay: the model is dense, it has no experts$"):
        transformer_config(read(tmp_path, QWEN3), ModelConfig(moe_enable_routing_replay=True), ParallelConfig())


@pytest.mark.parametrize(
    ("rope", "base"),
    [
        ({}, 10_000.0),
        ({"rope_theta": 5e5}, 5e5),
        ({"rope_theta": 5e5, "rope_scaling": None}, 5e5),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 7e4}}, 7e4),
    ],
)
def test_rope_theta_is_found_in_old_and_new_configurations(tmp_path: Path, rope: dict, base: float) -> None:
    assert read(tmp_path, {**LLAMA, **rope}).rotary_base == base


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({**LLAMA, "model_type": "gpt2"}, "'gpt2' is not supported; supported are llama, qwen3, qwen3_moe, smollm3"),
        (without(LLAMA, "model_type"), "model_type None"),
        (without(LLAMA, "hidden_size"), "hidden_size is None"),
        (without(QWEN3, "head_dim"), "head_dim is None"),
        ({**LLAMA, "num_hidden_layers": 2.5}, "num_hidden_layers is 2.5"),
        ({**LLAMA, "vocab_size": -1}, "vocab_size is -1"),
        ({**LLAMA, "rms_norm_eps": "small"}, "rms_norm_eps is 'small'"),
        ({**LLAMA, "rms_norm_eps": float("nan")}, "rms_norm_eps is nan, not a positive number"),
        ({**LLAMA, "rope_theta": float("inf")}, "rope_theta is inf, not a positive number"),
        ({**LLAMA, "num_key_value_heads": 4}, "not a multiple of num_key_value_heads 4"),
        ({**LLAMA, "hidden_act": "gelu"}, "hidden_act 'gelu'"),
        ({**LLAMA, "attention_bias": True}, "attention_bias"),
        ({**LLAMA, "mlp_bias": True}, "mlp_bias"),
        ({**LLAMA, "quantization_config": {"bits": 4}}, "quantization_config"),
        ({**QWEN3, "use_sliding_window": True}, "use_sliding_window"),
        ({**LLAMA, "hidden_act": None}, "hidden_act None is not supported"),
        ({**LLAMA, "sliding_window": 64, "use_sliding_window": False}, "sliding_window 64"),  # as vLLM reads it
        ({**LLAMA, "attention_chunk_size": 64}, "attention_chunk_size 64"),
        ({**LLAMA, "rotary_pct": 0.5}, "rotary_pct 0.5"),
        ({**LLAMA, "rotary_emb_base": 5e5}, "rotary_emb_base 500000.0"),
        ({**LLAMA, "rope_scaling": {"factor": 4.0}}, "rope_scaling has factor 4.0, which plain RoPE has not"),
        (
            {**LLAMA, "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2]}},
            "rope_parameters has mrope_section [1, 1, 2]",
        ),
        ({**LLAMA, "compression_config": {"quant_method": "x"}}, "compression_config"),
        ({**LLAMA, "text_config": {"hidden_size": 48}}, "text_config"),
        ({**LLAMA, "is_encoder_decoder": True}, "is_encoder_decoder True"),
        ({**LLAMA, "head_dim": 7}, "the attention heads have 7 channels"),
        ({**LLAMA, "architectures": ["Qwen3ForCausalLM"]}, "architectures ['Qwen3ForCausalLM'] is not llama"),
        ({**LLAMA, "architectures": ["LlamaForSequenceClassification"]}, "which is LlamaForCausalLM"),
        ({**LLAMA, "architectures": "LlamaForCausalLM"}, "architectures is 'LlamaForCausalLM', not a list"),
        ({**QWEN3, "layer_types": ["full_attention"] * 5}, "layer_types has 5 entries for 6 layers"),
        ({**MOE, "num_local_experts": 8}, "num_experts 4 and num_local_experts 8 contradict each other"),
        ({**MOE, "shared_expert_intermediate_size": 24}, "shared_expert_intermediate_size 24"),
        ({**SMOLLM3, "no_rope_layers": [{}] * 6}, "no_rope_layers is not a list of 0 and 1"),
        (without(MOE, "num_experts"), "num_local_experts is None"),
        (without(MOE, "moe_intermediate_size"), "moe_intermediate_size is None"),
        ({**MOE, "num_experts_per_tok": 5}, "num_experts_per_tok 5 is more than num_experts 4"),
        ({**MOE, "decoder_sparse_step": 7}, "leave no layer with experts"),
        ({**MOE, "mlp_only_layers": list(range(6))}, "leave no layer with experts"),
        ({**SMOLLM3, "no_rope_layers": [1, 1, 0]}, "no_rope_layers is not a list of 0 and 1 for each of the 6 layers"),
        ({**SMOLLM3, "no_rope_layers": [1, 1, 2, 1, 1, 1]}, "no_rope_layers is not a list of 0 and 1"),
        ({**QWEN3, "layer_types": ["full_attention", "sliding_attention"]}, "layer_types sliding_attention"),
        ({**QWEN3, "layer_types": 3}, "layer_types is 3, not a list"),
        ({**MOE, "mlp_only_layers": 3}, "mlp_only_layers is 3, not a list"),
        ({**LLAMA, "rope_scaling": "linear"}, "rope_scaling is 'linear', not an object"),
        (
            {**QWEN3, "rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 1e6}}},
            "rope_parameters for each kind of layer (full_attention) is not supported",
        ),
        ({**LLAMA, "rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling of type 'linear'"),
        ({**LLAMA, "rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "rope_scaling of type 'llama3'"),
        ({**QWEN3, "rope_parameters": {"rope_type": "yarn", "rope_theta": 1e6}}, "rope_parameters of type 'yarn'"),
        ({**QWEN3, "rope_parameters": {"rope_theta": 1e6, "partial_rotary_factor": 0.5}}, "only plain RoPE"),
        ({**QWEN3, "partial_rotary_factor": 0.5}, "partial_rotary_factor 0.5 is not supported, only plain RoPE"),
        ({**LLAMA, "rope_scaling": {"rope_type": "default", "type": "linear"}}, "rope_scaling of type 'default' and"),
        (
            {**LLAMA, "rope_theta": 1e4, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}},
            "rope_theta 10000.0 and rope_parameters.rope_theta 1000000.0 contradict each other",
        ),
        ({**LLAMA, "is_causal": False}, "is_causal False is not supported, only True"),
        ({**LLAMA, "bias": True}, "bias True is not supported"),
        ({**LLAMA, "logit_scale": 0.5}, "logit_scale 0.5 is not supported"),
        ({**LLAMA, "transformers_weights": "other.safetensors"}, "transformers_weights 'other.safetensors'"),
        ({**LLAMA, "tie_word_embeddings": "false"}, "tie_word_embeddings is 'false', not true or false"),
        ({**MOE, "norm_topk_prob": 1}, "norm_topk_prob is 1, not true or false"),
        ({**LLAMA, "hidden_size": 50}, "hidden_size 50 is not a multiple of num_attention_heads 6"),
    ],
)
def test_what_is_not_built_is_refused_with_its_reason(tmp_path: Path, config: dict, reason: str) -> None:
    with pytest.raises(BadInput) as refusal:
        read(tmp_path, config)
    assert reason in str(refusal.value)


def test_null_is_the_family_s_own_answer(tmp_path: Path) -> None:
    assert read(tmp_path, {**SMOLLM3, "tie_word_embeddings": None}).tied_embeddings
    assert not read(tmp_path, {**LLAMA, "tie_word_embeddings": None}).tied_embeddings


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ({}, None),
        ({"rope_theta": 5e5}, ("rope_theta", 1e6, 5e5)),
        ({"rms_norm_eps": 1e-6}, ("rms_norm_eps", 1e-5, 1e-6)),
        ({"num_experts_per_tok": 1}, ("num_experts_per_tok", 2, 1)),
        ({"norm_topk_prob": False}, ("norm_topk_prob", True, False)),
        ({"tie_word_embeddings": True}, ("tie_word_embeddings", False, True)),
        ({"mlp_only_layers": [5]}, ("decoder_sparse_step and mlp_only_layers", [True] * 6, [True] * 5 + [False])),
    ],
)
def test_the_first_difference_of_two_architectures_is_named(
    tmp_path: Path, change: dict, difference: tuple | None
) -> None:
    one, other = (plain_architecture(read(tmp_path, {**MOE, **more})) for more in ({}, change))
    assert first_difference(one, other) == difference


def test_an_architecture_with_experts_differs_from_one_without(tmp_path: Path) -> None:
    dense, sparse = plain_architecture(read(tmp_path, QWEN3)), plain_architecture(read(tmp_path, MOE))
    assert first_difference(dense, sparse) == ("model_type", "qwen3", "qwen3_moe")
    assert first_difference({**dense, "model_type": "qwen3_moe"}, sparse) == ("num_experts", None, 4)


def test_what_changes_nothing_is_no_variant(tmp_path: Path) -> None:
    """transformers ignores a disabled window, and Qwen's published files contain one."""
    plain = read(tmp_path, QWEN3)
    harmless = {
        "architectures": ["Qwen3ForCausalLM"],
        "sliding_window": 4096,
        "use_sliding_window": False,
        "layer_types": ["full_attention"] * 6,
        "rope_scaling": {"rope_type": "default", "factor": 1.0, "type": None},
        "attention_bias": None,
        "rotary_pct": 1,
    }
    assert read(tmp_path, {**QWEN3, **harmless}) == plain


def test_a_missing_or_damaged_configuration_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="is not a directory"):
        Architecture.from_hf(tmp_path / "absent")
    with pytest.raises(BadInput, match="has no config"):
        Architecture.from_hf(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "lla')
    with pytest.raises(BadInput, match="cannot be read"):
        Architecture.from_hf(tmp_path)
    (tmp_path / "config.json").write_text("[" * 100_000)
    with pytest.raises(BadInput, match="cannot be read"):
        Architecture.from_hf(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(BadInput, match="does not hold a JSON object"):
        Architecture.from_hf(tmp_path)


@pytest.mark.parametrize(
    ("vocabulary", "divisible_by", "ranks", "padded"),
    [(49152, 128, 1, 49152), (151936, 128, 2, 152064), (151936, 128, 1, 151936), (331, 8, 2, 336), (1, 128, 4, 512)],
)
def test_the_vocabulary_is_padded_as_megatron_lm_does(
    vocabulary: int, divisible_by: int, ranks: int, padded: int
) -> None:
    assert padded_vocab_size(vocabulary, divisible_by, ranks) == padded


def test_the_configuration_follows_model_and_layout(tmp_path: Path) -> None:
    arch = read(tmp_path, QWEN3)
    parallel = ParallelConfig(tensor_model_parallel_size=3, pipeline_model_parallel_size=2, sequence_parallel=True)
    config = transformer_config(arch, ModelConfig(bf16=True), parallel)
    assert (config.params_dtype, config.pipeline_dtype, config.bf16) == (torch.bfloat16, torch.bfloat16, True)
    assert (config.tensor_model_parallel_size, config.pipeline_model_parallel_size) == (3, 2)
    assert config.qk_layernorm and config.sequence_parallel and config.variable_seq_lengths
    assert config.padded_vocab_size == 384
    llama = transformer_config(read(tmp_path, LLAMA), ModelConfig(bf16=False), ParallelConfig())
    assert (llama.params_dtype, llama.qk_layernorm, llama.kv_channels) == (torch.float32, False, 8)


@pytest.mark.parametrize(
    ("layout", "reason"),
    [
        ({"tensor_model_parallel_size": 4}, "4 does not divide the model's 6 attention heads; .* fits is 3"),
        ({"tensor_model_parallel_size": 2}, "2 does not divide the model's 3 key/value heads; .* fits is 1"),
        ({"pipeline_model_parallel_size": 4}, "4 does not divide the model's 6 layers; .* fits is 3"),
        ({"sequence_parallel": True}, "--sequence-parallel needs --tensor-model-parallel-size"),
    ],
)
def test_a_layout_that_does_not_divide_the_model_is_refused(tmp_path: Path, layout: dict, reason: str) -> None:
    with pytest.raises(BadInput, match=reason):
        transformer_config(read(tmp_path, QWEN3), ModelConfig(), ParallelConfig(**layout))
