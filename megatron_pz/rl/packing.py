"""Pack sequences with shared prompts: the responses of one prompt share one copy of it in a packed sequence.

A group with a prompt of P tokens and n responses of r tokens costs P + n*r tokens instead of n*(P + r). Responses that
are equal token by token, as short ones often are, are stored once; each keeps its own response entries, with its own
advantage and weight. The packing is exact: :class:`~megatron_pz.rl.experience.MicroBatch` defines which token attends
to which.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from megatron_pz.rl.experience import MicroBatch, Response, Role, ScoredGroup
from megatron_pz.rl.statistics import ROLES
from megatron_pz.runtime.errors import BadInput

LossAggregation = Literal["sequence_mean", "token_mean", "token_sum_constant"]


@dataclass(frozen=True)
class LossWeighting:
    """The token weights in the loss of an optimizer step. The totals cover all data-parallel ranks."""

    aggregation: LossAggregation
    total_responses: int
    total_tokens: int
    max_response_length: int
    """Tokens: the length limit of the rollout, the constant of Dr. GRPO."""

    @classmethod
    def of(cls, groups: Sequence[ScoredGroup], aggregation: LossAggregation, max_response_length: int) -> LossWeighting:
        """Build the weighting of a step that learns from exactly these groups of all ranks."""
        responses, tokens = count_responses_and_tokens(groups)
        return cls(aggregation, responses, tokens, max_response_length)

    def token_weight(self, response_length: int) -> float:
        """Return the weight of each token of a response of ``response_length`` tokens.

        For N responses, T tokens and the length limit L, the weight is 1/(N |o|) with ``sequence_mean`` (equation 11),
        1/T with ``token_mean`` (DAPO) and 1/(N L) with ``token_sum_constant`` (Dr. GRPO).
        """
        if self.aggregation == "sequence_mean":
            return 1.0 / (self.total_responses * response_length)
        if self.aggregation == "token_mean":
            return 1.0 / self.total_tokens
        return 1.0 / (self.total_responses * self.max_response_length)


def count_responses_and_tokens(groups: Sequence[ScoredGroup]) -> tuple[int, int]:
    """Count the responses and the response tokens of the groups, the totals of :class:`LossWeighting`."""
    responses = sum(len(group.responses) for group in groups)
    return responses, sum(len(response.token_ids) for group in groups for response in group.responses)


def packed_length(group: ScoredGroup) -> int:
    """Count the tokens of a packed group: the prompt once and every distinct response once."""
    return len(group.prompt_ids) + sum(map(len, _distinct_responses(group)))


def _distinct_responses(group: ScoredGroup) -> set[tuple[int, ...]]:
    return {response.token_ids for response in group.responses}


def group_cost(group: ScoredGroup, *, hidden_size: int = 2048) -> float:
    """Estimate the compute of a group's forward and backward pass, in units of one token's linear layers.

    A layer's linear part takes about 24 h^2 operations per token and its attention 4 h per pair of attending tokens (h
    is the hidden size; the MLP is 4 h wide, or a gated equivalent), so a pair costs 1/(6 h) of a token.
    """
    prompt = len(group.prompt_ids)
    pairs = prompt * (prompt + 1) / 2
    for length in map(len, _distinct_responses(group)):
        pairs += length * prompt + length * (length + 1) / 2
    return packed_length(group) + pairs / (6 * hidden_size)


def balance_groups(costs: Sequence[float], n_ranks: int) -> list[list[int]]:
    """Assign groups to data-parallel ranks greedily, most expensive first.

    Each group goes to the rank with the lowest total cost so far. Ties go to the lower index and the lower rank, and
    every rank computes the same assignment. The most expensive rank costs at most 4/3 of the optimum (Graham 1969).

    Returns:
        The ascending indices of each rank's groups; a rank may have none.

    >>> balance_groups([5.0, 4.0, 3.0, 3.0, 3.0], 2)
    [[0, 3], [1, 2, 4]]
    """
    shares: list[list[int]] = [[] for _ in range(n_ranks)]
    loads = [(0.0, rank) for rank in range(n_ranks)]
    for index in sorted(range(len(costs)), key=lambda index: (-costs[index], index)):
        load, rank = heapq.heappop(loads)
        shares[rank].append(index)
        heapq.heappush(loads, (load + costs[index], rank))
    return [sorted(share) for share in shares]


def pack_groups(
    groups: Sequence[ScoredGroup],
    *,
    micro_batch_tokens: int,
    loss_weights: LossWeighting,
    pad_to_multiple: int = 1,
    share: Sequence[int] | None = None,
) -> list[MicroBatch]:
    """Pack whole groups into as few sequences as first-fit-decreasing finds.

    Args:
        groups: the step's groups. ``MicroBatch.group_index_R`` refers to this list.
        micro_batch_tokens: maximum number of tokens of a packed sequence, padding not counted. A larger group gets a
            sequence of its own length; a group is never split, because its responses share the prompt's activations.
        loss_weights: weights of the tokens in the loss of the whole step.
        pad_to_multiple: lengths are rounded up to a multiple of this (the tensor-parallel size under sequence
            parallelism, 16 or 32 for FP8 matrices).
        share: indices of the groups to pack; None packs all of them.

    Returns:
        The micro-batches; an empty list without groups (see :func:`empty_micro_batch`).

    Raises:
        BadInput: a group has an empty prompt, no responses, or an empty response.
    """
    chosen = range(len(groups)) if share is None else share
    for index in chosen:
        _check(groups[index])
    bins = first_fit_decreasing([packed_length(groups[index]) for index in chosen], micro_batch_tokens)
    micro_batches = []
    for members in bins:
        sequence = _PackedSequence()
        for index in (chosen[member] for member in members):
            weights = [loss_weights.token_weight(len(response.token_ids)) for response in groups[index].responses]
            sequence.add_group(groups[index], weights, index)
        micro_batches.append(sequence.finish(pad_to_multiple))
    return micro_batches


def first_fit_decreasing(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Pack items into bins: each item, longest first, goes into the first bin that has room.

    An item longer than ``capacity`` gets a bin of its own.

    Returns:
        The indices of each bin's items.

    >>> first_fit_decreasing([3, 6, 2, 9], 8)
    [[3], [1, 2], [0]]
    """
    bins: list[list[int]] = []
    room: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        found = next((number for number, free in enumerate(room) if lengths[index] <= free), None)
        if found is None:
            bins.append([index])
            room.append(capacity - lengths[index])
        else:
            bins[found].append(index)
            room[found] -= lengths[index]
    return bins


def empty_micro_batch(pad_to_multiple: int = 1) -> MicroBatch:
    """Make a packed sequence with one response token of weight zero.

    A rank without groups runs it, so that all ranks join the collectives of the forward and backward pass.
    """
    dummy = ScoredGroup(
        role="predictor",
        prompt_ids=(0,),
        responses=(Response(token_ids=(0,), log_probs=(0.0,), text="", truncated=False),),
        rewards=(0.0,),
        advantages=(0.0,),
    )
    sequence = _PackedSequence()
    sequence.add_group(dummy, token_weights=(0.0,), group_index=-1)
    return sequence.finish(pad_to_multiple)


def supervised_groups(examples: Sequence[tuple[Role, Sequence[int], Sequence[Sequence[int]]]]) -> list[ScoredGroup]:
    """Make groups of (role, prompt tokens, target responses' tokens) for a supervised loss.

    Packing and log-probabilities are those of reinforcement learning. Rewards, advantages and rollout
    log-probabilities are placeholders (1, 1 and 0) that :func:`~megatron_pz.rl.losses.supervised_loss` does not read.
    """
    return [
        ScoredGroup(
            role=role,
            prompt_ids=tuple(prompt_ids),
            responses=tuple(
                Response(token_ids=tuple(target), log_probs=(0.0,) * len(target), text="", truncated=False)
                for target in targets
            ),
            rewards=(1.0,) * len(targets),
            advantages=(1.0,) * len(targets),
        )
        for role, prompt_ids, targets in examples
    ]


class _PackedSequence:
    """Collects groups into the tensors of a micro-batch."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.positions: list[int] = []
        self.group_indices: list[int] = []
        self.response_numbers: list[int] = []
        self.logit_indices: list[int] = []
        self.labels: list[int] = []
        self.rollout_log_probs: list[float] = []
        self.advantages: list[float] = []
        self.loss_weights: list[float] = []
        self.response_indices: list[int] = []
        self.packed_groups: list[int] = []
        self.roles: list[int] = []
        self.is_stale: list[bool] = []
        self.experts: list[tuple[int, int, bytes]] = []
        """(first token, number of tokens, their expert ids)"""
        self.n_groups = 0
        self.n_responses = 0

    def _add_tokens(
        self,
        token_ids: Sequence[int],
        first_position: int,
        response_number: int,
        experts: bytes = b"",
        unknown: int = 0,
    ) -> None:
        """Append tokens with the expert ids of all but the last ``unknown`` of them."""
        length = len(token_ids)
        if experts:
            self.experts.append((len(self.tokens), length - unknown, experts))
        self.tokens += token_ids
        self.positions += range(first_position, first_position + length)
        self.group_indices += [self.n_groups] * length
        self.response_numbers += [response_number] * length

    def add_group(self, group: ScoredGroup, token_weights: Sequence[float], group_index: int) -> None:
        """Append a group. ``token_weights`` has one weight per response, which applies to each of its tokens."""
        prompt_length = len(group.prompt_ids)
        # The samples of a prompt share its prefill, so all responses have the same expert ids for the prompt.
        prompt_experts = next(filter(None, (response.prompt_experts for response in group.responses)), b"")
        self._add_tokens(group.prompt_ids, 0, 0, prompt_experts)
        last_prompt_token = len(self.tokens) - 1
        starts: dict[tuple[int, ...], int] = {}
        for response, advantage, weight in zip(group.responses, group.advantages, token_weights, strict=True):
            length = len(response.token_ids)
            if response.token_ids not in starts:
                starts[response.token_ids] = len(self.tokens)
                self._add_tokens(response.token_ids, prompt_length, len(starts), response.experts, unknown=1)
            start = starts[response.token_ids]
            self.logit_indices += [last_prompt_token, *range(start, start + length - 1)]
            self.labels += response.token_ids
            self.rollout_log_probs += response.log_probs
            self.advantages += [advantage] * length
            self.loss_weights += [weight] * length
            self.response_indices += [self.n_responses] * length
            self.packed_groups += [group_index] * length
            self.roles += [ROLES.index(group.role)] * length
            self.is_stale += [group.staleness > 0] * length
            self.n_responses += 1
        self.n_groups += 1

    def finish(self, pad_to_multiple: int) -> MicroBatch:
        self._add_tokens([0] * (-len(self.tokens) % pad_to_multiple), 0, 0)
        experts_SE, has_experts_S = self._expert_ids()
        return MicroBatch(
            tokens_S=torch.tensor(self.tokens, dtype=torch.int64),
            positions_S=torch.tensor(self.positions, dtype=torch.int64),
            segments_2S=torch.tensor([self.group_indices, self.response_numbers], dtype=torch.int32),
            logit_index_R=torch.tensor(self.logit_indices, dtype=torch.int64),
            labels_R=torch.tensor(self.labels, dtype=torch.int64),
            rollout_log_probs_R=torch.tensor(self.rollout_log_probs, dtype=torch.float32),
            advantages_R=torch.tensor(self.advantages, dtype=torch.float32),
            loss_weights_R=torch.tensor(self.loss_weights, dtype=torch.float32),
            response_index_R=torch.tensor(self.response_indices, dtype=torch.int64),
            group_index_R=torch.tensor(self.packed_groups, dtype=torch.int64),
            role_R=torch.tensor(self.roles, dtype=torch.int64),
            is_stale_R=torch.tensor(self.is_stale, dtype=torch.bool),
            experts_SE=experts_SE,
            has_experts_S=has_experts_S,
        )

    def _expert_ids(self) -> tuple[torch.Tensor, torch.Tensor]:
        widths = {len(ids) / count for _, count, ids in self.experts}
        if len(widths) > 1 or not all(width.is_integer() for width in widths):
            raise BadInput(
                f"the expert ids of the responses take {sorted(widths)} bytes a token: they must be of one model"
            )
        experts_SE = torch.zeros(len(self.tokens), int(max(widths, default=0)), dtype=torch.uint8)
        has_experts_S = torch.zeros(len(self.tokens), dtype=torch.bool)
        for first, count, ids in self.experts:
            experts_SE[first : first + count] = torch.frombuffer(bytearray(ids), dtype=torch.uint8).view(count, -1)
            has_experts_S[first : first + count] = True
        return experts_SE, has_experts_S


def _check(group: ScoredGroup) -> None:
    if not group.prompt_ids:
        raise BadInput(f"a {group.role} group has an empty prompt: its first response token has nothing to follow")
    if not group.responses:
        raise BadInput(f"a {group.role} group has no responses: drop it before packing")
    for number, response in enumerate(group.responses):
        if not response.token_ids:
            raise BadInput(f"response {number} of a {group.role} group has no tokens: it needs an end token at least")
        if len(response.log_probs) != len(response.token_ids):
            raise BadInput(
                f"response {number} of a {group.role} group has {len(response.token_ids)} tokens"
                f" but {len(response.log_probs)} log-probabilities"
            )
