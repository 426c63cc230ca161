"""Which packed rows each data-parallel rank runs in an optimizer step, in a form that its parallel layout can run."""

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
    """Rows of one data-parallel rank, of groups that all ranks know; shared out by cost (:func:`balance_groups`).

    At least one row: a rank without groups gets one that teaches nothing, since collectives need every rank. Where the
    shape asks for more rows than the groups fill, such rows fill up.

    Args:
        groups: those of the whole optimizer step, the same on every rank.
        loss_weights: weights of the tokens in the loss of the whole step.
        micro_batch_tokens: most tokens of a row, padding not counted.
        rank: this rank among the ``n_ranks`` data-parallel ranks, from 0.
        shape: what the parallel layout asks of the rows.
        hidden_size: the model's, for the cost of attention.
    """
    shares = balance_groups([group_cost(group, hidden_size=hidden_size) for group in groups], n_ranks)
    rows = pack_groups(
        [groups[index] for index in shares[rank]],
        micro_batch_tokens=micro_batch_tokens,
        loss_weights=loss_weights,
        pad_to_multiple=shape.length_multiple,
    )
    count = max(len(rows), 1)
    if shape.equal_counts:
        lengths = ([packed_length(groups[index]) for index in share] for share in shares)
        count = max(count, *(len(first_fit_decreasing(share, micro_batch_tokens)) for share in lengths))
    count = -(-count // shape.count_multiple) * shape.count_multiple
    rows += [empty_micro_batch(shape.length_multiple)] * (count - len(rows))
    return match_packed_shape(rows, shape)


def match_packed_shape(rows: Sequence[MicroBatch], shape: PackedShape) -> list[MicroBatch]:
    """Rows that one optimizer step runs together, packed in one go or apart; as long as each other where asked for."""
    longest = max(row.tokens_S.numel() for row in rows)
    return [pad_to_length(row, longest) if shape.equal_lengths else row for row in rows]


def pad_to_length(row: MicroBatch, length: int) -> MicroBatch:
    """The row with padding at its end, up to ``length`` tokens: a group of its own, which nothing else sees."""
    missing = length - row.tokens_S.numel()
    if missing == 0:
        return row
    padding_group = row.segments_2S[0, -1] + 1
    padding_segments = torch.stack((padding_group, torch.zeros_like(padding_group)))[:, None].expand(2, missing)
    return replace(
        row,
        tokens_S=pad(row.tokens_S, (0, missing)),
        positions_S=torch.cat((row.positions_S, torch.arange(missing))),
        segments_2S=torch.cat((row.segments_2S, padding_segments), dim=1),
    )
