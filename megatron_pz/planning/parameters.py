"""Count the parameters that a process of each pipeline stage holds in a layout."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from megatron_pz.config.schema import ModelConfig, ParallelConfig
from megatron_pz.config.validate_parallel import expert_tensor_parallel_size
from megatron_pz.hf.architecture import Architecture
from megatron_pz.model.layout import layers_of_stages, refuse_layout, sparse_layers_of_stages
from megatron_pz.model.transformer_config import padded_vocab_size


@dataclass(frozen=True)
class ShardSize:
    """Parameters of one process. Experts have data-parallel ranks of their own, so they are counted separately."""

    dense: int
    experts: int

    @property
    def total(self) -> int:
        return self.dense + self.experts


def shard_sizes(arch: Architecture, model: ModelConfig, parallel: ParallelConfig) -> list[ShardSize]:
    """Return the sizes of each pipeline stage as Megatron-Core builds it, with padded vocabulary and tied head's copy.

    Raises BadInput if the model cannot be divided in this layout.
    """
    refuse_layout(arch, parallel)
    tensor = parallel.tensor_model_parallel_size
    vocabulary = padded_vocab_size(arch.vocab_size, model.make_vocab_size_divisible_by, tensor) // tensor
    table = vocabulary * arch.hidden_size
    of_stages = list(
        zip(layers_of_stages(arch.num_layers, parallel), sparse_layers_of_stages(arch, parallel), strict=True)
    )
    sizes = []
    for stage, (layers, sparse) in enumerate(of_stages):
        dense = layers * _attention(arch, tensor) + (layers - sparse) * _mlp(arch, tensor) + sparse * _router(arch)
        is_first, is_last = stage == 0, stage == len(of_stages) - 1
        if is_first:
            dense += table
        if is_last:
            dense += arch.hidden_size  # the norm before the output layer
            if not (arch.tied_embeddings and is_first):
                dense += table
        sizes.append(ShardSize(dense, sparse * _experts(arch, parallel)))
    return sizes


@cache
def model_size(arch: Architecture) -> int:
    """Return the number of parameters of the whole model, each counted once and without padding."""
    (whole,) = shard_sizes(arch, ModelConfig(make_vocab_size_divisible_by=1), ParallelConfig())
    return whole.total


def _attention(arch: Architecture, tensor: int) -> int:
    """Return the number of parameters of one layer's attention and both norms of the layer."""
    hidden, width = arch.hidden_size, arch.kv_channels
    matrices = hidden * width * (2 * arch.num_attention_heads + 2 * arch.num_query_groups) // tensor
    return matrices + 2 * hidden + (2 * width if arch.family.qk_norm else 0)


def _mlp(arch: Architecture, tensor: int) -> int:
    return 3 * arch.hidden_size * arch.ffn_hidden_size // tensor


def _router(arch: Architecture) -> int:
    return arch.hidden_size * arch.experts.number if arch.experts else 0


def _experts(arch: Architecture, parallel: ParallelConfig) -> int:
    if arch.experts is None:
        return 0
    of_rank = arch.experts.number // parallel.expert_model_parallel_size
    return of_rank * 3 * arch.hidden_size * arch.experts.ffn_hidden_size // expert_tensor_parallel_size(parallel)
