"""The norm of the local layers, and the places of it and our core attention in a block."""

from __future__ import annotations

import pytest
import torch
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

from megatron_pz.config.schema import ModelConfig, ParallelConfig
from megatron_pz.hf.architecture import Architecture
from megatron_pz.model.attention import SharedPromptAttention
from megatron_pz.model.layers import RMSNorm, block_spec
from megatron_pz.model.transformer_config import transformer_config

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="local layers are for machines without CUDA")

ARCH = Architecture("qwen3", 4, 32, 48, 4, 2, 16, 331, 64, 1e-6, 1e6, tied_embeddings=False)


@pytest.mark.parametrize("bf16", [False, True])
def test_the_norm_is_that_of_transformers_in_the_dtype_of_the_model(bf16: bool) -> None:
    config = transformer_config(ARCH, ModelConfig(bf16=bf16), ParallelConfig())
    norm, theirs = RMSNorm(config, 32, eps=0.1), Qwen3RMSNorm(32, eps=0.1).to(config.params_dtype)
    assert norm.weight.dtype == config.params_dtype
    weight, hidden = torch.randn(2, 32, generator=torch.Generator().manual_seed(0)).to(config.params_dtype)
    with torch.no_grad():
        norm.weight.copy_(weight)
        theirs.weight.copy_(weight)
    torch.testing.assert_close(norm(hidden), theirs(hidden))


@pytest.mark.parametrize("sequence_parallel", [False, True])
def test_the_norm_tells_megatron_when_to_reduce_its_gradient(sequence_parallel: bool) -> None:
    parallel = ParallelConfig(tensor_model_parallel_size=2, sequence_parallel=sequence_parallel)
    norm = RMSNorm(transformer_config(ARCH, ModelConfig(), parallel), 32)
    assert norm.weight.sequence_parallel is sequence_parallel


@pytest.mark.usefixtures("topology")
def test_every_norm_of_a_block_is_ours_and_so_is_the_attention() -> None:
    config = transformer_config(ARCH, ModelConfig(), ParallelConfig())
    block = block_spec(config, SharedPromptAttention)
    assert len(block.layer_specs) == 4
    layer = block.layer_specs[0].submodules
    attention = layer.self_attention.submodules
    norms = (
        block.layer_norm,
        layer.input_layernorm,
        layer.pre_mlp_layernorm,
        attention.q_layernorm,
        attention.k_layernorm,
    )
    assert set(norms) == {RMSNorm}
    assert attention.core_attention is SharedPromptAttention
