"""Specify the layers of the policy: Megatron-Core's, with our core attention and, on a CPU, our norm."""

from __future__ import annotations

from typing import Any

import torch
from megatron.core.models.gpt.gpt_layer_specs import (
    get_gpt_layer_local_spec,
    get_gpt_layer_with_transformer_engine_spec,
)
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules, get_num_layers_to_build
from megatron.core.transformer.transformer_layer import get_transformer_layer_offset


class RMSNorm(torch.nn.RMSNorm):
    """torch's RMSNorm over the last axis, with the attribute that makes Megatron-Core all-reduce its gradient.

    Under sequence parallelism each tensor parallel rank normalises different tokens, so the weight's gradients must be
    summed over the ranks. Megatron-Core's own wrapper of torch's norm does not set the attribute and therefore refuses
    sequence parallelism.
    """

    def __init__(self, config: TransformerConfig, hidden_size: int, eps: float = 1e-5, **_: Any) -> None:
        super().__init__(hidden_size, eps=eps, device=_device(), dtype=config.params_dtype)
        self.weight.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]


def block_spec(
    config: TransformerConfig, core_attention: type[MegatronModule], vp_stage: int | None = None
) -> TransformerBlockSubmodules:
    """Return the specification of this pipeline stage's layers and final norm, with ``core_attention`` in each layer.

    Modules are Transformer Engine's if there is a CUDA device, and Megatron-Core's local ones elsewhere: Transformer
    Engine can be imported on a machine without a GPU, but its modules fail when they are constructed there.
    """
    make_layer = _transformer_engine_layer if torch.cuda.is_available() else _local_layer
    dense, final_norm = make_layer(config, None)
    sparse = dense if config.num_moe_experts is None else make_layer(config, config.num_moe_experts)[0]
    for layer in (dense, sparse):
        layer.submodules.self_attention.submodules.core_attention = core_attention
    first = get_transformer_layer_offset(config, vp_stage=vp_stage)
    count = get_num_layers_to_build(config, vp_stage=vp_stage)
    # Megatron's pattern: 1 for a layer with experts; a model without experts has the number 1.
    has_experts = config.moe_layer_freq if isinstance(config.moe_layer_freq, list) else [0] * config.num_layers
    layers = [sparse if has_experts[number] else dense for number in range(first, first + count)]
    return TransformerBlockSubmodules(layer_specs=layers, layer_norm=final_norm)


def _transformer_engine_layer(config: TransformerConfig, num_experts: int | None) -> tuple[ModuleSpec, type]:
    from megatron.core.extensions.transformer_engine import TENorm  # importable with Transformer Engine only

    layer = get_gpt_layer_with_transformer_engine_spec(
        num_experts=num_experts, moe_grouped_gemm=config.moe_grouped_gemm, qk_layernorm=config.qk_layernorm
    )
    return layer, TENorm


def _local_layer(config: TransformerConfig, num_experts: int | None) -> tuple[ModuleSpec, type]:
    layer = get_gpt_layer_local_spec(num_experts=num_experts, qk_layernorm=config.qk_layernorm, normalization="RMSNorm")
    layer.submodules.input_layernorm = layer.submodules.pre_mlp_layernorm = RMSNorm
    if config.qk_layernorm:
        attention = layer.submodules.self_attention.submodules
        attention.q_layernorm = attention.k_layernorm = RMSNorm
    return layer, RMSNorm


def _device() -> torch.device | int:
    return torch.cuda.current_device() if torch.cuda.is_available() else torch.device("cpu")
