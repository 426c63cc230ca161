"""Rows of the data-parallel ranks: every group once, in the form that a layout requires."""

from __future__ import annotations

import pytest
import torch

from megatron_pz.config.validate_parallel import PackedShape
from megatron_pz.rl.data_parallel_packing import pack_for_rank, pad_to_length
from megatron_pz.rl.experience import MicroBatch
from megatron_pz.rl.packing import LossWeighting, empty_micro_batch
from tests.support.packed_reference import random_groups

SHAPES = [(5, [3, 2]), (9, [4, 4, 1]), (2, [7]), (12, [1, 1]), (6, [5, 5]), (3, [2, 2, 2, 2]), (20, [30])]


def rows_of_ranks(n_ranks: int, shape: PackedShape, shapes: list = SHAPES, tokens: int = 24) -> list[list[MicroBatch]]:
    groups = random_groups(331, shapes, seed=3)
    weighting = LossWeighting.of(groups, "token_mean", 10)
    return [
        pack_for_rank(groups, weighting, tokens, rank=rank, n_ranks=n_ranks, shape=shape) for rank in range(n_ranks)
    ]


@pytest.mark.parametrize("n_ranks", [1, 2, 3])
@pytest.mark.parametrize(
    "shape",
    [
        PackedShape(),
        PackedShape(length_multiple=8),
        PackedShape(count_multiple=4, equal_lengths=True),
        PackedShape(equal_counts=True),
    ],
    ids=str,
)
def test_every_response_token_is_somewhere_once(n_ranks: int, shape: PackedShape) -> None:
    everything = random_groups(331, SHAPES, seed=3)
    expected = sorted(token for group in everything for response in group.responses for token in response.token_ids)
    rows = [row for share in rows_of_ranks(n_ranks, shape) for row in share]
    assert sorted(token for row in rows for token in row.labels_R[row.loss_weights_R > 0].tolist()) == expected
    assert sum(row.loss_weights_R.sum().item() for row in rows) == pytest.approx(1.0)


def test_lengths_and_counts_are_as_asked() -> None:
    lengths = [[row.tokens_S.numel() for row in share] for share in rows_of_ranks(2, PackedShape())]
    assert len({len(share) for share in lengths}) == 2 or len(set(lengths[0])) > 1, "the examples show nothing"
    for share in rows_of_ranks(3, PackedShape(length_multiple=8, count_multiple=4, equal_lengths=True)):
        assert len(share) % 4 == 0
        assert len({row.tokens_S.numel() for row in share}) == 1
        assert share[0].tokens_S.numel() % 8 == 0
    assert len({len(share) for share in rows_of_ranks(3, PackedShape(equal_counts=True))}) == 1
    # With one group on three ranks, ranks without groups run rows without effect.
    shares = rows_of_ranks(3, PackedShape(), [(5, [3])])
    assert [len(share) for share in shares] == [1, 1, 1]
    assert sum(bool(share[0].loss_weights_R.any()) for share in shares) == 1


def test_padding_is_a_group_of_its_own() -> None:
    row = empty_micro_batch()
    padded = pad_to_length(row, 5)
    assert pad_to_length(padded, 5) is padded
    assert padded.tokens_S.tolist() == [0, 0, 0, 0, 0]
    assert padded.positions_S.tolist() == [0, 1, 0, 1, 2]
    assert padded.segments_2S.tolist() == [[0, 0, 1, 1, 1], [0, 1, 0, 0, 0]]
    assert torch.equal(padded.logit_index_R, row.logit_index_R)
    assert padded.segments_2S.dtype == row.segments_2S.dtype
