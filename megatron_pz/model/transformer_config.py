"""Build Megatron-Core's configuration of an architecture in a parallel layout."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from megatron.core.transformer import TransformerConfig

from megatron_pz.config.schema import ModelConfig, ParallelConfig
from megatron_pz.config.validate_ranges import flag
from megatron_pz.hf.architecture import Architecture, Experts
from megatron_pz.model.layout import layout_settings, refuse_layout
from megatron_pz.model.precision import precision_settings, refuse_precision
from megatron_pz.runtime.errors import BadInput


@dataclass
class PolicyTransformerConfig(TransformerConfig):
    """Megatron-Core's TransformerConfig with the further settings that the model is built from."""

    padded_vocab_size: int = 0
    """Rows of the embedding and the output layer over all tensor parallel ranks."""
    architecture: Architecture | None = None
    """The architecture that the model was built for, which its checkpoints store."""


def padded_vocab_size(vocab_size: int, divisible_by: int, tensor_parallel: int) -> int:
    """Round the vocabulary up to a multiple of ``divisible_by * tensor_parallel``, as Megatron-LM does."""
    multiple = divisible_by * tensor_parallel
    return -(-vocab_size // multiple) * multiple


def transformer_config(arch: Architecture, model: ModelConfig, parallel: ParallelConfig) -> PolicyTransformerConfig:
    """Build Megatron-Core's configuration of ``arch`` in a layout.

    Weights are left uninitialised, because every model is filled from a checkpoint.

    Raises:
        BadInput: the layout or the precision does not fit the architecture.
    """
    refuse_layout(arch, parallel)
    refuse_precision(arch, model, parallel)
    for name in ("moe_aux_loss_coeff", "moe_enable_routing_replay"):
        if arch.experts is None and (value := getattr(model, name)):
            given = flag(name) if value is True else f"{flag(name)} {value}"
            raise BadInput(f"{given}: the model is dense, it has no experts")
    on_gpu = torch.cuda.is_available()
    config = PolicyTransformerConfig(
        architecture=arch,
        padded_vocab_size=padded_vocab_size(
            arch.vocab_size, model.make_vocab_size_divisible_by, parallel.tensor_model_parallel_size
        ),
        num_layers=arch.num_layers,
        hidden_size=arch.hidden_size,
        ffn_hidden_size=arch.ffn_hidden_size,
        num_attention_heads=arch.num_attention_heads,
        num_query_groups=arch.num_query_groups,
        kv_channels=arch.kv_channels,
        normalization="RMSNorm",
        layernorm_epsilon=arch.layernorm_epsilon,
        qk_layernorm=arch.family.qk_norm,
        gated_linear_unit=True,
        activation_func=torch.nn.functional.silu,
        add_bias_linear=False,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        no_rope_freq=_no_rope_pattern(arch),
        moe_token_dispatcher_type="alltoall",  # variable_seq_lengths requires it, with or without experts
        perform_initialization=False,
        use_cpu_initialization=not on_gpu,
        bias_activation_fusion=on_gpu,
        bias_dropout_fusion=on_gpu,
        # The fused kernel counts positions itself, but packed sequences have their own.
        apply_rope_fusion=False,
        # Needs Apex's kernel, or Transformer Engine for all weights (the output layer does not use it).
        gradient_accumulation_fusion=False,
        **precision_settings(model),
        **layout_settings(parallel),
        **_expert_settings(arch.experts, model),
    )
    if arch.experts is not None and arch.experts.normalized:
        # A softmax over the chosen experts equals one over all, divided by the sum of the chosen. Set here, because
        # the constructor refuses it for a single chosen expert, whose weight is then 1 as in transformers.
        config.moe_router_pre_softmax = False
    return config


def _no_rope_pattern(arch: Architecture) -> list[int] | None:
    """Return Megatron-Core's pattern, which has a 1 for each layer without RoPE."""
    if not arch.layers_without_rope:
        return None
    return [int(layer in arch.layers_without_rope) for layer in range(arch.num_layers)]


def _expert_settings(experts: Experts | None, model: ModelConfig) -> dict[str, Any]:
    """Return the settings of a mixture of experts. The router computes in float32, as transformers' softmax does."""
    if experts is None:
        return {}
    return {
        "num_moe_experts": experts.number,
        "moe_ffn_hidden_size": experts.ffn_hidden_size,
        "moe_layer_freq": [int(sparse) for sparse in experts.in_layer],
        "moe_router_topk": experts.per_token,
        "moe_router_score_function": "softmax",
        "moe_router_pre_softmax": True,
        "moe_router_dtype": "fp32",
        "moe_router_load_balancing_type": "aux_loss" if model.moe_aux_loss_coeff else "none",
        "moe_aux_loss_coeff": model.moe_aux_loss_coeff,
    }
