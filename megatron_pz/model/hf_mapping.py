"""Map weights between Hugging Face's tensors and a Megatron-Core model's parameters, in both directions.

One table for each family defines which Hugging Face tensors a parameter consists of and how they are arranged in its
shards (:class:`ShardLayout`). Loading (this module) and streaming (:mod:`~megatron_pz.model.hf_stream`) use the same
table. Loading holds at most one tensor in addition to the model.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from megatron.core import parallel_state
from megatron.core.models.common.language_module.language_module import LanguageModule
from megatron.core.utils import unwrap_model

from megatron_pz.hf.architecture import Architecture
from megatron_pz.hf.checkpoint import HFTensorSource, Sliceable
from megatron_pz.model.precision import keep_unrounded
from megatron_pz.runtime.errors import BadInput

Shape = tuple[int, ...]


class ShardLayout(ABC):
    """The arrangement of a parameter's Hugging Face tensors in its tensor parallel shards."""

    @abstractmethod
    def hf_shapes(self, shard: Shape, ranks: int, arch: Architecture) -> tuple[Shape, ...]:
        """Return the shapes of the Hugging Face tensors, from the shape of one shard."""

    @abstractmethod
    def cut(self, sources: Sequence[Sliceable], shard: Shape, rank: int, arch: Architecture) -> torch.Tensor:
        """Return the shard of tensor parallel rank ``rank``, of shape ``shard``; read only that part."""

    @abstractmethod
    def join(self, shards: Sequence[torch.Tensor], arch: Architecture) -> tuple[torch.Tensor, ...]:
        """Return the Hugging Face tensors, from the shards of all ranks in order."""


class Replicated(ShardLayout):
    """The same values on every rank (norms, routers)."""

    def hf_shapes(self, shard: Shape, ranks: int, arch: Architecture) -> tuple[Shape, ...]:
        return (shard,)

    def cut(self, sources: Sequence[Sliceable], shard: Shape, rank: int, arch: Architecture) -> torch.Tensor:
        return sources[0][:]

    def join(self, shards: Sequence[torch.Tensor], arch: Architecture) -> tuple[torch.Tensor, ...]:
        return (shards[0],)


class Columns(ShardLayout):
    """A row-parallel linear layer: each rank has a share of the input channels, the weight's second axis."""

    def hf_shapes(self, shard: Shape, ranks: int, arch: Architecture) -> tuple[Shape, ...]:
        return ((shard[0], shard[1] * ranks),)

    def cut(self, sources: Sequence[Sliceable], shard: Shape, rank: int, arch: Architecture) -> torch.Tensor:
        return sources[0][:, rank * shard[1] : (rank + 1) * shard[1]]

    def join(self, shards: Sequence[torch.Tensor], arch: Architecture) -> tuple[torch.Tensor, ...]:
        return (_concatenate(shards, dim=1),)


class Vocabulary(ShardLayout):
    """Embedding or output layer: each rank has a share of the vocabulary, which is padded at its end with zeros."""

    def hf_shapes(self, shard: Shape, ranks: int, arch: Architecture) -> tuple[Shape, ...]:
        return ((arch.vocab_size, shard[1]),)

    def cut(self, sources: Sequence[Sliceable], shard: Shape, rank: int, arch: Architecture) -> torch.Tensor:
        first, last = (min(row * shard[0], arch.vocab_size) for row in (rank, rank + 1))
        rows = sources[0][first:last]
        return torch.cat((rows, rows.new_zeros(shard[0] - len(rows), shard[1])))

    def join(self, shards: Sequence[torch.Tensor], arch: Architecture) -> tuple[torch.Tensor, ...]:
        return (_concatenate(shards)[: arch.vocab_size],)


class GateUp(ShardLayout):
    """SwiGLU's first layer: each rank has its rows of the gate projection, then its rows of the up projection."""

    def hf_shapes(self, shard: Shape, ranks: int, arch: Architecture) -> tuple[Shape, ...]:
        return ((shard[0] // 2 * ranks, shard[1]),) * 2

    def cut(self, sources: Sequence[Sliceable], shard: Shape, rank: int, arch: Architecture) -> torch.Tensor:
        rows = shard[0] // 2
        return torch.cat([source[rank * rows : (rank + 1) * rows] for source in sources])

    def join(self, shards: Sequence[torch.Tensor], arch: Architecture) -> tuple[torch.Tensor, ...]:
        gates, ups = zip(*(shard.chunk(2) for shard in shards), strict=True)
        return _concatenate(gates), _concatenate(ups)


class GroupedQKV(ShardLayout):
    """Attention's first layer: for each key/value head the queries that share it, then its key, then its value."""

    def _rows_of_group(self, arch: Architecture) -> tuple[int, int, int]:
        queries = arch.num_attention_heads // arch.num_query_groups
        return queries * arch.kv_channels, arch.kv_channels, arch.kv_channels

    def hf_shapes(self, shard: Shape, ranks: int, arch: Architecture) -> tuple[Shape, ...]:
        return tuple((rows * arch.num_query_groups, *shard[1:]) for rows in self._rows_of_group(arch))

    def cut(self, sources: Sequence[Sliceable], shard: Shape, rank: int, arch: Architecture) -> torch.Tensor:
        rows_of_group = self._rows_of_group(arch)
        groups = shard[0] // sum(rows_of_group)
        first = rank * groups
        parts = [
            source[first * rows : (first + groups) * rows].view(groups, rows, *shard[1:])
            for source, rows in zip(sources, rows_of_group, strict=True)
        ]
        return torch.cat(parts, dim=1).view(shard)

    def join(self, shards: Sequence[torch.Tensor], arch: Architecture) -> tuple[torch.Tensor, ...]:
        whole = _concatenate(shards)
        columns = whole.shape[1:]
        grouped = whole.view(arch.num_query_groups, -1, *columns)
        return tuple(part.reshape(-1, *columns) for part in grouped.split(self._rows_of_group(arch), dim=1))


@dataclass(frozen=True)
class Rule:
    """The Hugging Face tensors of one parameter, and their arrangement."""

    hf_names: tuple[str, ...]
    layout: ShardLayout


# Parameters of one transformer layer; Hugging Face names follow "model.layers.{number}.".
_LLAMA_LAYER: Mapping[str, Rule] = {
    "self_attention.linear_qkv.weight": Rule(
        ("self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight"), GroupedQKV()
    ),
    "self_attention.linear_proj.weight": Rule(("self_attn.o_proj.weight",), Columns()),
    "mlp.linear_fc1.weight": Rule(("mlp.gate_proj.weight", "mlp.up_proj.weight"), GateUp()),
    "mlp.linear_fc2.weight": Rule(("mlp.down_proj.weight",), Columns()),
    "input_layernorm.weight": Rule(("input_layernorm.weight",), Replicated()),
    "pre_mlp_layernorm.weight": Rule(("post_attention_layernorm.weight",), Replicated()),
    # Transformer Engine keeps these two norms inside the linear layers that follow them.
    "self_attention.linear_qkv.layer_norm_weight": Rule(("input_layernorm.weight",), Replicated()),
    "mlp.linear_fc1.layer_norm_weight": Rule(("post_attention_layernorm.weight",), Replicated()),
}
_QWEN3_LAYER: Mapping[str, Rule] = {
    **_LLAMA_LAYER,
    "self_attention.q_layernorm.weight": Rule(("self_attn.q_norm.weight",), Replicated()),
    "self_attention.k_layernorm.weight": Rule(("self_attn.k_norm.weight",), Replicated()),
}
_QWEN3_MOE_LAYER: Mapping[str, Rule] = {**_QWEN3_LAYER, "mlp.router.weight": Rule(("mlp.gate.weight",), Replicated())}
LAYER_RULES: Mapping[str, Mapping[str, Rule]] = {
    "llama": _LLAMA_LAYER,
    "qwen3": _QWEN3_LAYER,
    "qwen3_moe": _QWEN3_MOE_LAYER,
    "smollm3": _LLAMA_LAYER,
}

# Parameters of one expert; Hugging Face names follow "model.layers.{number}.mlp.experts.{expert}.".
EXPERT_RULES: Mapping[str, Rule] = {
    "linear_fc1": Rule(("gate_proj.weight", "up_proj.weight"), GateUp()),
    "linear_fc2": Rule(("down_proj.weight",), Columns()),
}
# SequentialMLP's name of an expert's matrix, or that of Transformer Engine's grouped matrices.
_EXPERT = re.compile(r"mlp\.experts\.(?:local_experts\.(\d+)\.(linear_fc[12])\.weight|(linear_fc[12])\.weight(\d+))")


_EMBEDDING = Rule(("model.embed_tokens.weight",), Vocabulary())
OUTPUT_LAYER = "output_layer.weight"
_OUTSIDE_LAYERS: Mapping[str, Rule] = {
    "embedding.word_embeddings.weight": _EMBEDDING,
    "decoder.final_layernorm.weight": Rule(("model.norm.weight",), Replicated()),
    OUTPUT_LAYER: Rule(("lm_head.weight",), Vocabulary()),
}


@dataclass(frozen=True)
class HFTensorNames:
    """The Hugging Face tensors of a parameter of this rank, on each expert parallel rank."""

    hf_names: tuple[tuple[str, ...], ...]
    """Complete names: one entry for a parameter outside the experts, else one for each expert parallel rank."""
    layout: ShardLayout
    of_expert: bool


def hf_tensor_names(name: str, model: LanguageModule, arch: Architecture) -> HFTensorNames:
    """Return the Hugging Face tensors of a parameter, given its name in this rank's model."""
    if name == OUTPUT_LAYER and arch.tied_embeddings:
        return HFTensorNames((_EMBEDDING.hf_names,), _EMBEDDING.layout, False)  # the last pipeline stage's own copy
    if name in _OUTSIDE_LAYERS:
        rule = _OUTSIDE_LAYERS[name]
        return HFTensorNames((rule.hf_names,), rule.layout, False)
    _, _, place, suffix = name.split(".", 3)  # decoder.layers.{place in this chunk}.{suffix}
    # Megatron numbers layers from 1 over all stages and chunks, however unevenly these share them.
    prefix = f"model.layers.{model.decoder.layers[int(place)].layer_number - 1}."
    expert = _EXPERT.fullmatch(suffix)
    if expert is None:
        rule = LAYER_RULES[arch.model_type][suffix]
        return HFTensorNames((tuple(prefix + hf_name for hf_name in rule.hf_names),), rule.layout, False)
    assert arch.experts is not None, name
    rule = EXPERT_RULES[expert[2] or expert[3]]
    ranks = parallel_state.get_expert_model_parallel_world_size()
    of_a_rank, local = arch.experts.number // ranks, int(expert[1] or expert[4])
    numbers = (rank * of_a_rank + local for rank in range(ranks))
    names = tuple(tuple(f"{prefix}mlp.experts.{number}.{name}" for name in rule.hf_names) for number in numbers)
    return HFTensorNames(names, rule.layout, True)


@torch.no_grad()
def load_hf_weights(model: torch.nn.Module, arch: Architecture, tensors: HFTensorSource) -> None:
    """Fill the parameters of this rank's model (or DDP around it) from a Hugging Face checkpoint.

    Each rank reads only its own part of the files. The ranks of a node share its page cache, so that common parts are
    read from the disk once. Values are cast to the parameters' dtype.

    Raises:
        BadInput: the checkpoint's tensors are not exactly those of ``arch`` (:meth:`HFTensorSource.require`), or a
            value of this rank's part is not finite.
    """
    tensors.require(arch)
    model = unwrap_model(model)
    for name, parameter in model.named_parameters():
        source = hf_tensor_names(name, model, arch)
        ranks, rank = _tensor_ranks(source.of_expert)
        hf_names = source.hf_names[parallel_state.get_expert_model_parallel_rank() if source.of_expert else 0]
        shard = tuple(parameter.shape)
        shapes = source.layout.hf_shapes(shard, ranks, arch)
        for hf_name, expected in zip(hf_names, shapes, strict=True):
            found = tensors.shape(hf_name)
            if found != expected:
                raise RuntimeError(f"{name} is built for {hf_name} of shape {list(expected)}, not {list(found)}")
        values = source.layout.cut([tensors.slices(hf_name) for hf_name in hf_names], shard, rank, arch)
        if not all(bound.isfinite() for bound in values.aminmax()):  # a NaN is both minimum and maximum
            raise BadInput(f"{tensors.directory}: {' or '.join(hf_names)} holds NaN or infinity; fetch it again")
        parameter.copy_(values)
        keep_unrounded(parameter, values)


def _tensor_ranks(of_expert: bool) -> tuple[int, int]:
    """Return the size of the group that shares a matrix, and this rank's position in it."""
    if of_expert:
        group = parallel_state.get_expert_tensor_parallel_group()
        return group.size(), group.rank()
    return (
        parallel_state.get_tensor_model_parallel_world_size(),
        parallel_state.get_tensor_model_parallel_rank(),
    )


def _concatenate(parts: Sequence[torch.Tensor], dim: int = 0) -> torch.Tensor:
    """Concatenate tensors; a single one is not copied."""
    return parts[0] if len(parts) == 1 else torch.cat(tuple(parts), dim)
