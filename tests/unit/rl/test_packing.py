"""Shared-prompt packing, its loss weights, and the balance over ranks."""

from __future__ import annotations

import doctest
import itertools
import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from megatron_pz.rl import packing
from megatron_pz.rl.data_parallel_packing import pad_to_length
from megatron_pz.rl.experience import MicroBatch, Response, ScoredGroup
from megatron_pz.rl.packing import (
    LossWeighting,
    balance_groups,
    count_responses_and_tokens,
    empty_micro_batch,
    group_cost,
    pack_groups,
    packed_length,
    supervised_groups,
)
from megatron_pz.runtime.errors import BadInput


def make_group(prompt: Sequence[int], *responses: Sequence[int], role: str = "predictor") -> ScoredGroup:
    """Make a group with log-probabilities -token/100 and advantages 1, 2, 3, … so that their places can be checked."""
    return ScoredGroup(
        role=role,
        prompt_ids=tuple(prompt),
        responses=tuple(Response(tuple(r), tuple(-token / 100 for token in r), "", False) for r in responses),
        rewards=(0.0,) * len(responses),
        advantages=tuple(float(number) for number in range(1, len(responses) + 1)),
    )


def pack(groups: Sequence[ScoredGroup], tokens: int = 1000, multiple: int = 1) -> list[MicroBatch]:
    weights = LossWeighting.of(groups, "sequence_mean", max_response_length=10)
    return pack_groups(groups, micro_batch_tokens=tokens, loss_weights=weights, pad_to_multiple=multiple)


def random_groups(seed: int, count: int) -> list[ScoredGroup]:
    draw = random.Random(seed)

    def tokens(most: int) -> list[int]:
        return [draw.randrange(1, 99) for _ in range(draw.randint(1, most))]

    def responses() -> list[list[int]]:
        different = [tokens(6) for _ in range(draw.randint(1, 4))]
        return different + draw.choices(different, k=draw.randint(0, 2))

    return [make_group(tokens(12), *responses()) for _ in range(count)]


def test_a_row_by_hand() -> None:
    generator = make_group([11, 12, 13], [21, 22], [31], role="generator")
    predictor = make_group([41], [51, 52])
    (batch,) = pack([generator, predictor], multiple=4)
    assert batch.tokens_S.tolist() == [11, 12, 13, 21, 22, 31, 41, 51, 52, 0, 0, 0]
    assert batch.positions_S.tolist() == [0, 1, 2, 3, 4, 3, 0, 1, 2, 0, 1, 2]
    assert batch.segments_2S.tolist() == [[0, 0, 0, 0, 0, 0, 1, 1, 1, 2, 2, 2], [0, 0, 0, 1, 1, 2, 0, 1, 1, 0, 0, 0]]
    assert batch.logit_index_R.tolist() == [2, 3, 2, 6, 7]
    assert batch.labels_R.tolist() == [21, 22, 31, 51, 52]
    assert batch.rollout_log_probs_R.tolist() == pytest.approx([-0.21, -0.22, -0.31, -0.51, -0.52])
    assert batch.advantages_R.tolist() == [1, 1, 2, 1, 1]
    assert batch.loss_weights_R.tolist() == pytest.approx([1 / 6, 1 / 6, 1 / 3, 1 / 6, 1 / 6])
    assert batch.response_index_R.tolist() == [0, 0, 1, 2, 2]
    assert batch.group_index_R.tolist() == [0, 0, 0, 1, 1]
    assert batch.role_R.tolist() == [0, 0, 0, 1, 1]
    dtypes = [batch.tokens_S.dtype, batch.segments_2S.dtype, batch.logit_index_R.dtype, batch.loss_weights_R.dtype]
    assert dtypes == [torch.int64, torch.int32, torch.int64, torch.float32]


def test_equal_responses_share_their_tokens_and_keep_their_entries() -> None:
    (batch,) = pack([make_group([11, 12], [21, 22], [31], [21, 22])])
    assert batch.tokens_S.tolist() == [11, 12, 21, 22, 31]
    assert batch.segments_2S.tolist() == [[0] * 5, [0, 0, 1, 1, 2]]
    assert batch.logit_index_R.tolist() == [1, 2, 1, 1, 2]
    assert batch.labels_R.tolist() == [21, 22, 31, 21, 22]
    assert batch.advantages_R.tolist() == [1, 1, 2, 3, 3]
    assert batch.response_index_R.tolist() == [0, 0, 1, 2, 2]
    assert batch.loss_weights_R.tolist() == pytest.approx([1 / 6, 1 / 6, 1 / 3, 1 / 6, 1 / 6])


def with_experts(group: ScoredGroup, prompt: Sequence[bytes], *responses: Sequence[bytes]) -> ScoredGroup:
    """Add expert ids derived from the tokens; the last token of a response has none."""
    first, *others = (replace(r, experts=b"".join(ids)) for r, ids in zip(group.responses, responses, strict=True))
    return replace(group, responses=(replace(first, prompt_experts=b"".join(prompt)), *others))


def test_expert_ids_lie_beside_their_tokens() -> None:
    """Ids have two bytes per token. Equal responses share those of the first; a group may have none."""
    routed = with_experts(
        make_group([11, 12], [21, 22, 23], [31], [21, 22, 23]), [b"ab", b"cd"], [b"ef", b"gh"], [], [b"ef", b"xx"]
    )
    (batch,) = pack([routed, make_group([41], [51])], multiple=5)
    assert batch.tokens_S.tolist() == [11, 12, 21, 22, 23, 31, 41, 51, 0, 0]
    rows = [bytes(row) for row in batch.experts_SE.tolist()]
    assert rows == [b"ab", b"cd", b"ef", b"gh", *[bytes(2)] * 6]
    assert batch.has_experts_S.tolist() == [row != bytes(2) for row in rows]
    longer = pad_to_length(batch, 15)
    assert torch.equal(longer.experts_SE[:10], batch.experts_SE) and not longer.has_experts_S[10:].any()
    (without,) = pack([make_group([41], [51])])
    assert without.experts_SE.shape == (2, 0) and not without.has_experts_S.any()


def test_expert_ids_of_different_models_are_refused() -> None:
    two, three = (with_experts(make_group([1], [2, 3]), [bytes(n)], [bytes(n)]) for n in (2, 3))
    with pytest.raises(BadInput, match=r"take \[2.0, 3.0\] bytes a token"):
        pack([two, three])


@given(st.integers(0, 10**6), st.integers(1, 12), st.integers(1, 80), st.sampled_from([1, 2, 16]))
def test_every_group_is_packed_once_and_within_the_budget(seed: int, count: int, budget: int, multiple: int) -> None:
    groups = random_groups(seed, count)
    batches = pack(groups, budget, multiple)
    unpacked = []
    for batch in batches:
        assert batch.tokens_S.numel() % multiple == 0
        row = [group for group in unpack(batch) if group[1]]
        filled = sum(len(prompt) + sum(map(len, responses)) for prompt, responses in row)
        assert filled <= budget or len(row) == 1
        assert batch.tokens_S.numel() - filled < multiple
        unpacked += row
    expected = [
        (list(group.prompt_ids), list(map(list, dict.fromkeys(response.token_ids for response in group.responses))))
        for group in groups
    ]
    assert sorted(unpacked) == sorted(expected)


def unpack(batch: MicroBatch) -> list[tuple[list[int], list[list[int]]]]:
    """Return (prompt, responses) of each group, read only from tokens and segments; padding has no responses."""
    groups: dict[int, tuple[list[int], list[list[int]]]] = {}
    for token, group, response in zip(batch.tokens_S.tolist(), *batch.segments_2S.tolist(), strict=True):
        prompt, responses = groups.setdefault(group, ([], []))
        if response > len(responses):
            responses.append([])
        (responses[response - 1] if response else prompt).append(token)
    return list(groups.values())


@pytest.mark.parametrize(
    ("aggregation", "expected"),
    [
        ("sequence_mean", [1 / 6, 1 / 6, 1 / 3, 1 / 9, 1 / 9, 1 / 9]),
        ("token_mean", [1 / 6] * 6),
        ("token_sum_constant", [1 / 30] * 6),
    ],
)
def test_loss_weights_of_three_responses_on_two_ranks(aggregation: str, expected: list[float]) -> None:
    ranks = [[make_group([1], [2, 3], [4])], [make_group([5], [6, 7, 8])]]
    counts = [count_responses_and_tokens(groups) for groups in ranks]
    assert counts == [(2, 3), (1, 3)]
    weighting = LossWeighting(aggregation, *map(sum, zip(*counts, strict=True)), max_response_length=10)
    assert weighting == LossWeighting.of(ranks[0] + ranks[1], aggregation, max_response_length=10)
    batches = [b for groups in ranks for b in pack_groups(groups, micro_batch_tokens=99, loss_weights=weighting)]
    assert torch.cat([batch.loss_weights_R for batch in batches]).tolist() == pytest.approx(expected)


def test_the_docstrings_are_right() -> None:
    results = doctest.testmod(packing)
    assert results.attempted >= 2 and results.failed == 0


@given(st.lists(st.floats(0.1, 100.0), max_size=6), st.integers(1, 3))
def test_balance_is_a_partition_within_4_thirds_of_the_best_one(costs: list[float], n_ranks: int) -> None:
    shares = balance_groups(costs, n_ranks)
    assert sorted(index for share in shares for index in share) == list(range(len(costs)))

    def dearest(owners: Sequence[int]) -> float:
        return max(sum(cost for cost, owner in zip(costs, owners, strict=True) if owner == r) for r in range(n_ranks))

    best = min(dearest(owners) for owners in itertools.product(range(n_ranks), repeat=len(costs)))
    assert max(sum(costs[index] for index in share) for share in shares) <= best * 4 / 3 + 1e-9


def test_cost_counts_the_prompt_once_and_attention_by_pairs() -> None:
    group = make_group([1] * 10, [2] * 3, [3] * 3)
    pairs = 55 + 2 * (30 + 6)
    assert group_cost(group, hidden_size=100) == pytest.approx(16 + pairs / 600)
    assert packed_length(group) == 16


def test_an_empty_micro_batch_has_one_response_token_without_weight() -> None:
    batch = empty_micro_batch(pad_to_multiple=4)
    assert batch.tokens_S.numel() == 4 and batch.labels_R.numel() == 1
    assert batch.loss_weights_R.tolist() == [0.0]


def test_supervised_groups_pack_like_any_other() -> None:
    (group,) = supervised_groups([("generator", [1, 2], [[3], [4, 5]])])
    (batch,) = pack([group])
    assert unpack(batch) == [([1, 2], [[3], [4, 5]])]
    assert not batch.role_R.any() and batch.labels_R.tolist() == [3, 4, 5]


@pytest.mark.parametrize(
    ("group", "complaint"),
    [
        (make_group([], [1]), "empty prompt"),
        (make_group([1]), "no responses"),
        (make_group([1], [2], []), "response 1 of a predictor group has no tokens"),
        (
            ScoredGroup("generator", (1,), (Response((2, 3), (0.0,), "", False),), (0.0,), (0.0,)),
            "2 tokens but 1 log-probabilities",
        ),
    ],
)
def test_what_cannot_be_packed_is_refused(group: ScoredGroup, complaint: str) -> None:
    weights = LossWeighting("token_mean", 1, 1, 1)
    with pytest.raises(BadInput, match=complaint):
        pack_groups([group], micro_batch_tokens=10, loss_weights=weights)


def test_tokens_know_whether_an_earlier_steps_weights_sampled_them() -> None:
    stale = replace(make_group([1], [2, 3], role="generator"), staleness=1)
    (batch,) = pack([stale, make_group([4], [5])])
    assert batch.is_stale_R.tolist() == (batch.role_R == 0).tolist() == [True, True, False]
