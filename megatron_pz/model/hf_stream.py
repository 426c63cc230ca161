"""Stream the whole model as Hugging Face tensors, from any parallel layout and in bounded memory.

The stream feeds the rollout engines after every update, and the export. Nothing is rounded: tensors keep the dtype of
the trainer's weights, and FP8 weights are dequantised to bfloat16. Parameters are exchanged in buckets, so that a
mixture of experts with thousands of small matrices needs about a hundred collectives instead of one or two for each
matrix.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.utils import unwrap_model
from torch.distributed import ProcessGroup

from megatron_pz.hf.architecture import Architecture
from megatron_pz.model.hf_mapping import OUTPUT_LAYER, HFTensorNames, Shape, hf_tensor_names
from megatron_pz.model.precision import plain_tensor

BUCKET_BYTES = 2**28
"""Bytes of whole tensors that are gathered at once, 256 MiB; a larger tensor has a bucket of its own."""


@torch.no_grad()
def stream_hf_weights(
    chunks: Sequence[torch.nn.Module], arch: Architecture, bucket_bytes: int = BUCKET_BYTES
) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the whole model as (Hugging Face name, full tensor), in the same order on every rank.

    Collective: every rank of the tensor, expert and pipeline parallel groups must iterate to the end. Each receives
    all tensors, on its device and in the dtype of the weights. Padding of the vocabulary is cut off, and a tied output
    layer is left out. A tensor may share memory with the model: copy it if it must outlive the next optimizer step.

    The memory needed in addition to the model is a bucket's shards, the gathered bucket and one joined tensor: at most
    three times the larger of ``bucket_bytes`` and the largest tensor. It is zero if one rank has the whole model.

    Args:
        chunks: this rank's model chunks, bare or wrapped; one, or several under the interleaved schedule.
        arch: the whole model's architecture.
        bucket_bytes: upper bound on a bucket, in bytes of whole tensors.
    """
    own = [entry for chunk in chunks for entry in _parameters(unwrap_model(chunk), arch)]
    own_stage = parallel_state.get_pipeline_model_parallel_rank()
    for stage, entries in enumerate(_of_all_stages([entry for entry, _ in own])):
        places = iter(range(len(entries)))
        for bucket in _buckets(entries, bucket_bytes):
            shards = [own[place][1] for place in itertools.islice(places, len(bucket))] if stage == own_stage else None
            yield from _exchange(bucket, shards, stage, arch)


@dataclass(frozen=True)
class _Entry:
    """The metadata with which another rank receives a parameter."""

    source: HFTensorNames
    shape: Shape
    dtype: torch.dtype

    @property
    def numel(self) -> int:
        return torch.Size(self.shape).numel()

    @property
    def whole_bytes(self) -> int:
        return self.numel * self.dtype.itemsize * _sharing_group(self).size()


def _parameters(model: torch.nn.Module, arch: Architecture) -> Iterator[tuple[_Entry, torch.Tensor]]:
    for name, parameter in model.named_parameters():
        if not (arch.tied_embeddings and name == OUTPUT_LAYER):
            yield (
                _Entry(hf_tensor_names(name, model, arch), tuple(parameter.shape), parameter.dtype),
                parameter.detach(),
            )


def _of_all_stages(own: list[_Entry]) -> list[list[_Entry]]:
    stages = parallel_state.get_pipeline_model_parallel_world_size()
    gathered: list[list[_Entry]] = [own] * stages
    if stages > 1:
        dist.all_gather_object(gathered, own, group=parallel_state.get_pipeline_model_parallel_group())
    return gathered


def _sharing_group(entry: _Entry) -> ProcessGroup:
    """Return the group of ranks that hold the parameter's tensors together."""
    if entry.source.of_expert:  # ordered by expert parallel rank, then by the tensor parallel ranks of an expert
        return parallel_state.get_expert_tensor_and_model_parallel_group()
    return parallel_state.get_tensor_model_parallel_group()


def _buckets(entries: Sequence[_Entry], bucket_bytes: int) -> Iterator[list[_Entry]]:
    """Split parameters into runs of one dtype and one sharing group, each of at most ``bucket_bytes``."""
    bucket: list[_Entry] = []
    held = 0
    for entry in entries:
        unlike = bucket and (bucket[0].dtype, bucket[0].source.of_expert) != (entry.dtype, entry.source.of_expert)
        if unlike or (bucket and held + entry.whole_bytes > bucket_bytes):
            yield bucket
            bucket, held = [], 0
        bucket.append(entry)
        held += entry.whole_bytes
    if bucket:
        yield bucket


def _exchange(
    bucket: Sequence[_Entry], own: Sequence[torch.Tensor] | None, stage: int, arch: Architecture
) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the bucket's whole tensors; ``own`` are this rank's shards, None on ranks of other pipeline stages."""
    group = _sharing_group(bucket[0])
    if own is not None and group.size() == parallel_state.get_pipeline_model_parallel_world_size() == 1:
        shards_of_ranks = [[plain_tensor(shard) for shard in own]]
    else:
        flat = _broadcast_from_stage(bucket, own, stage)
        lengths = [entry.numel for entry in bucket]
        shards_of_ranks = [
            [shard.view(entry.shape) for shard, entry in zip(rank_flat.split(lengths), bucket, strict=True)]
            for rank_flat in _gather(flat, group)
        ]
    for place, entry in enumerate(bucket):
        shards = [of_rank[place] for of_rank in shards_of_ranks]
        tensor_ranks = len(shards) // len(entry.source.hf_names)
        for number, hf_names in enumerate(entry.source.hf_names):
            whole = entry.source.layout.join(shards[number * tensor_ranks : (number + 1) * tensor_ranks], arch)
            yield from zip(hf_names, whole, strict=True)


def _broadcast_from_stage(bucket: Sequence[_Entry], own: Sequence[torch.Tensor] | None, stage: int) -> torch.Tensor:
    """Return the concatenated shards of this rank's peer in pipeline stage ``stage``."""
    if own is None:
        device = torch.cuda.current_device() if torch.cuda.is_available() else "cpu"
        flat = torch.empty(sum(entry.numel for entry in bucket), dtype=bucket[0].dtype, device=device)
    else:
        flat = torch.cat([plain_tensor(shard).flatten() for shard in own])
    group = parallel_state.get_pipeline_model_parallel_group()
    if group.size() > 1:
        dist.broadcast(flat, src=dist.get_global_rank(group, stage), group=group)
    return flat


def _gather(flat: torch.Tensor, group: ProcessGroup) -> list[torch.Tensor]:
    """Return every rank's ``flat``, in the order of the group's ranks."""
    if group.size() == 1:
        return [flat]
    gathered = [torch.empty_like(flat) for _ in range(group.size())]
    dist.all_gather(gathered, flat, group=group)
    return gathered
