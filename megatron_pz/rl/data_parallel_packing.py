"""Pack the sequences of one data-parallel rank in the shape that the parallel layout requires."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch.nn.functional import pad

from megatron_pz.config.validate_parallel import PackedShape
from megatron_pz.rl.experience import MicroBatch, ScoredGroup
from megatron_pz.rl.packing import (
    LossWeighting,
    balance_groups,
    empty_micro_batch,
    first_fit_decreasing,
    group_cost,
    pack_groups,
    packed_length,
)


def pack_for_rank(
    groups: Sequence[ScoredGroup],
    loss_weights: LossWeighting,
    micro_batch_tokens: int,
    *,
    rank: int,
    n_ranks: int,
    shape: PackedShape,
    hidden_size: int = 2048,
) -> list[MicroBatch]:
    """Pack this data-parallel rank's share of the step's groups, balanced by cost (:func:`balance_groups`).

    A rank without groups gets one :func:`empty_micro_batch`, because collectives need every rank. Empty micro-batches
    are also added if ``shape`` requires more packed sequences than the groups fill.

    Args:
        groups: the groups of the whole optimizer step, the same on every rank.
        loss_weights: weights of the tokens in the loss of the whole step.
        micro_batch_tokens: maximum number of tokens of a packed sequence, padding not counted.
        rank: this rank among the ``n_ranks`` data-parallel ranks, from 0.
        n_ranks: the data-parallel size.
        shape: requirements of the parallel layout.
        hidden_size: hidden size of the model, for the cost of attention.
    """
    shares = shares_of_ranks(groups, n_ranks, hidden_size)
    micro_batches = pack_groups(
        groups,
        micro_batch_tokens=micro_batch_tokens,
        loss_weights=loss_weights,
        pad_to_multiple=shape.length_multiple,
        share=shares[rank],
    )
    count = max(len(micro_batches), 1)
    if shape.equal_counts:
        lengths = ([packed_length(groups[index]) for index in share] for share in shares)
        count = max(count, *(len(first_fit_decreasing(share, micro_batch_tokens)) for share in lengths))
    count = -(-count // shape.count_multiple) * shape.count_multiple
    micro_batches += [empty_micro_batch(shape.length_multiple)] * (count - len(micro_batches))
    return match_packed_shape(micro_batches, shape)


def shares_of_ranks(groups: Sequence[ScoredGroup], n_ranks: int, hidden_size: int) -> list[list[int]]:
    """Return the indices of the groups that each data-parallel rank packs."""
    return balance_groups([group_cost(group, hidden_size=hidden_size) for group in groups], n_ranks)


def match_packed_shape(micro_batches: Sequence[MicroBatch], shape: PackedShape) -> list[MicroBatch]:
    """Pad all packed sequences of one optimizer step to equal length if the shape requires it."""
    longest = max(batch.tokens_S.numel() for batch in micro_batches)
    return [pad_to_length(batch, longest) if shape.equal_lengths else batch for batch in micro_batches]


def pad_to_length(batch: MicroBatch, length: int) -> MicroBatch:
    """Pad a packed sequence to ``length`` tokens. The padding is a separate group to which no other token attends."""
    missing = length - batch.tokens_S.numel()
    if missing == 0:
        return batch
    padding_group = batch.segments_2S[0, -1] + 1
    padding_segments = torch.stack((padding_group, torch.zeros_like(padding_group)))[:, None].expand(2, missing)
    return replace(
        batch,
        tokens_S=pad(batch.tokens_S, (0, missing)),
        positions_S=torch.cat((batch.positions_S, torch.arange(missing))),
        segments_2S=torch.cat((batch.segments_2S, padding_segments), dim=1),
        experts_SE=pad(batch.experts_SE, (0, 0, 0, missing)),
        has_experts_S=pad(batch.has_experts_S, (0, missing)),
    )
