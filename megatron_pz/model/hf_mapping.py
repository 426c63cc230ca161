"""Weights between Hugging Face's names and shapes and a Megatron-Core GPTModel's, tensor by tensor, both ways.

One table a family says which Hugging Face tensors a parameter is made of and how they lie in it (:class:`Layout`).
Loading and streaming read the same table, and neither holds more than one whole tensor at a time beside the model.
Nothing is rounded on the way out: tensors keep the dtype of the trainer's weights.

A mixture of experts would be one more table: the router is ``Replicated``, an expert's two matrices ``GateUp`` and
``Columns`` under the number of the expert, as the layers are under theirs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.models.gpt import GPTModel
from megatron.core.utils import unwrap_model

from megatron_pz.errors import BadInput
from megatron_pz.model.architecture import Architecture
from megatron_pz.model.hf_checkpoint import HFTensorSource, Sliceable

Shape = tuple[int, ...]


class Layout(ABC):
    """How the Hugging Face tensors of one parameter lie in its tensor parallel shards."""

    sharded = True
    """False: every tensor parallel rank holds the same values."""

    @abstractmethod
    def hf_shapes(self, shard: Shape, ranks: int, arch: Architecture) -> tuple[Shape, ...]:
        """Shapes of the Hugging Face tensors, from the shape of one shard."""

    @abstractmethod
    def cut(self, sources: Sequence[Sliceable], shard: Shape, rank: int, arch: Architecture) -> torch.Tensor:
        """The shard of tensor parallel rank ``rank``, of shape ``shard``, reading only what it needs."""

    @abstractmethod
    def join(self, shards: Sequence[torch.Tensor], arch: Architecture) -> tuple[torch.Tensor, ...]:
        """The Hugging Face tensors, from the shards of all ranks in order."""


class Replicated(Layout):
    """The same values on every rank: norms."""

    sharded = False

    def hf_shapes(self, shard: Shape, ranks: int, arch: Architecture) -> tuple[Shape, ...]:
        return (shard,)

    def cut(self, sources: Sequence[Sliceable], shard: Shape, rank: int, arch: Architecture) -> torch.Tensor:
        return sources[0][:]

    def join(self, shards: Sequence[torch.Tensor], arch: Architecture) -> tuple[torch.Tensor, ...]:
        return (shards[0],)


class Columns(Layout):
    """A row-parallel linear layer: each rank has some of the input channels, the second axis of the weight."""

    def hf_shapes(self, shard: Shape, ranks: int, arch: Architecture) -> tuple[Shape, ...]:
        return ((shard[0], shard[1] * ranks),)

    def cut(self, sources: Sequence[Sliceable], shard: Shape, rank: int, arch: Architecture) -> torch.Tensor:
        return sources[0][:, rank * shard[1] : (rank + 1) * shard[1]]

    def join(self, shards: Sequence[torch.Tensor], arch: Architecture) -> tuple[torch.Tensor, ...]:
        return (_concatenate(shards, dim=1),)


class Vocabulary(Layout):
    """Embedding and output layer: each rank has some rows; Megatron pads the vocabulary at its end, here with zeros."""

    def hf_shapes(self, shard: Shape, ranks: int, arch: Architecture) -> tuple[Shape, ...]:
        return ((arch.vocab_size, shard[1]),)

    def cut(self, sources: Sequence[Sliceable], shard: Shape, rank: int, arch: Architecture) -> torch.Tensor:
        first, last = (min(row * shard[0], arch.vocab_size) for row in (rank, rank + 1))
        rows = sources[0][first:last]
        return torch.cat((rows, rows.new_zeros(shard[0] - len(rows), shard[1])))

    def join(self, shards: Sequence[torch.Tensor], arch: Architecture) -> tuple[torch.Tensor, ...]:
        return (_concatenate(shards)[: arch.vocab_size],)


class GateUp(Layout):
    """SwiGLU's first layer: each rank has its rows of the gate, then its rows of the up projection."""

    def hf_shapes(self, shard: Shape, ranks: int, arch: Architecture) -> tuple[Shape, ...]:
        return ((shard[0] // 2 * ranks, shard[1]),) * 2

    def cut(self, sources: Sequence[Sliceable], shard: Shape, rank: int, arch: Architecture) -> torch.Tensor:
        rows = shard[0] // 2
        return torch.cat([source[rank * rows : (rank + 1) * rows] for source in sources])

    def join(self, shards: Sequence[torch.Tensor], arch: Architecture) -> tuple[torch.Tensor, ...]:
        gates, ups = zip(*(shard.chunk(2) for shard in shards), strict=True)
        return _concatenate(gates), _concatenate(ups)


class GroupedQKV(Layout):
    """Attention's first layer: key/value head by key/value head, the queries that share it, the key, the value."""

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
    """Which Hugging Face tensors one parameter is made of."""

    hf_names: tuple[str, ...]
    layout: Layout


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
LAYER_RULES: Mapping[str, Mapping[str, Rule]] = {"llama": _LLAMA_LAYER, "qwen3": _QWEN3_LAYER}

_EMBEDDING = Rule(("model.embed_tokens.weight",), Vocabulary())
_OUTPUT_LAYER = "output_layer.weight"
_OUTSIDE_LAYERS: Mapping[str, Rule] = {
    "embedding.word_embeddings.weight": _EMBEDDING,
    "decoder.final_layernorm.weight": Rule(("model.norm.weight",), Replicated()),
    _OUTPUT_LAYER: Rule(("lm_head.weight",), Vocabulary()),
}


@torch.no_grad()
def load_hf_weights(model: torch.nn.Module, arch: Architecture, tensors: HFTensorSource) -> None:
    """Fill the parameters of this rank's GPTModel (or DDP around it) from a Hugging Face checkpoint.

    Each rank reads its own part of the files only. Values are cast to the parameters' dtype. Raises BadInput where a
    tensor is missing or of another shape.
    """
    ranks = parallel_state.get_tensor_model_parallel_world_size()
    rank = parallel_state.get_tensor_model_parallel_rank()
    model = unwrap_model(model)
    for name, parameter in model.named_parameters():
        rule = _rule_of(name, model, arch)
        shard = tuple(parameter.shape)
        shapes = rule.layout.hf_shapes(shard, ranks, arch)
        for hf_name, expected in zip(rule.hf_names, shapes, strict=True):
            found = tensors.shape(hf_name)
            if found != expected:
                raise BadInput(
                    f"{tensors.directory}: {hf_name} has shape {list(found)} where config.json implies {list(expected)}"
                )
        sources = [tensors.slices(hf_name) for hf_name in rule.hf_names]
        parameter.copy_(rule.layout.cut(sources, shard, rank, arch))


@torch.no_grad()
def stream_hf_weights(model: torch.nn.Module, arch: Architecture) -> Iterator[tuple[str, torch.Tensor]]:
    """The whole model as (Hugging Face name, full tensor), one parameter at a time, in the same order on every rank.

    ``model`` is this rank's GPTModel, or DDP around it. Collective: every rank of the tensor and pipeline parallel
    groups must iterate to the end, and each is given all tensors, on its device and in the dtype of the weights.
    Padding of the vocabulary is cut off, and a tied output layer is left out. A tensor may share memory with the
    model: copy what is to outlive the next optimizer step.
    """
    model = unwrap_model(model)
    own = [
        (_Parameter(_rule_of(name, model, arch), tuple(parameter.shape), parameter.dtype), parameter.detach())
        for name, parameter in model.named_parameters()
        if not (arch.tied_embeddings and name == _OUTPUT_LAYER)
    ]
    own_stage = parallel_state.get_pipeline_model_parallel_rank()
    for stage, parameters in enumerate(_of_all_stages([parameter for parameter, _ in own])):
        for place, parameter in enumerate(parameters):
            shard = own[place][1] if stage == own_stage else _empty(parameter)
            _send_to_other_stages(shard, stage)
            shards = _of_all_tensor_ranks(shard) if parameter.rule.layout.sharded else [shard]
            yield from zip(parameter.rule.hf_names, parameter.rule.layout.join(shards, arch), strict=True)


@dataclass(frozen=True)
class _Parameter:
    """What another pipeline stage has to know to receive a parameter."""

    rule: Rule
    shape: Shape
    dtype: torch.dtype


def _rule_of(name: str, model: GPTModel, arch: Architecture) -> Rule:
    """The rule of a parameter by its name in this rank's model, with complete Hugging Face names."""
    if name == _OUTPUT_LAYER and arch.tied_embeddings:
        return _EMBEDDING  # the last pipeline stage's own copy of the embedding
    if name in _OUTSIDE_LAYERS:
        return _OUTSIDE_LAYERS[name]
    _, _, place, suffix = name.split(".", 3)  # decoder.layers.{place in this stage}.{suffix}
    rule = LAYER_RULES[arch.model_type][suffix]
    # Megatron numbers layers over all stages, from 1, however unevenly the stages share them.
    number = model.decoder.layers[int(place)].layer_number - 1
    return Rule(tuple(f"model.layers.{number}.{hf_name}" for hf_name in rule.hf_names), rule.layout)


def _of_all_stages(own: list[_Parameter]) -> list[list[_Parameter]]:
    stages = parallel_state.get_pipeline_model_parallel_world_size()
    gathered: list[list[_Parameter]] = [own] * stages
    if stages > 1:
        dist.all_gather_object(gathered, own, group=parallel_state.get_pipeline_model_parallel_group())
    return gathered


def _empty(parameter: _Parameter) -> torch.Tensor:
    device = torch.cuda.current_device() if torch.cuda.is_available() else "cpu"
    return torch.empty(parameter.shape, dtype=parameter.dtype, device=device)


def _send_to_other_stages(shard: torch.Tensor, stage: int) -> None:
    """Broadcast ``shard`` in place from pipeline stage ``stage`` to the other stages of the same tensor rank."""
    if parallel_state.get_pipeline_model_parallel_world_size() > 1:
        group = parallel_state.get_pipeline_model_parallel_group()
        dist.broadcast(shard, src=dist.get_global_rank(group, stage), group=group)


def _of_all_tensor_ranks(shard: torch.Tensor) -> list[torch.Tensor]:
    ranks = parallel_state.get_tensor_model_parallel_world_size()
    if ranks == 1:
        return [shard]
    shards = [torch.empty_like(shard) for _ in range(ranks)]
    dist.all_gather(shards, shard, group=parallel_state.get_tensor_model_parallel_group())
    return shards


def _concatenate(parts: Sequence[torch.Tensor], dim: int = 0) -> torch.Tensor:
    """torch.cat that does not copy a single part."""
    return parts[0] if len(parts) == 1 else torch.cat(tuple(parts), dim)
