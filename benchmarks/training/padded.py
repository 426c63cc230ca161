"""Process the same samples with padding, the baseline of packing, with logits only for response tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from unittest import mock

import torch
from megatron.core.utils import unwrap_model
from torch import Tensor

from megatron_pz.model.response_head import ResponseHead, ResponseTargets
from megatron_pz.rl.experience import MicroBatch, ScoredGroup
from megatron_pz.trainer.policy import Policy


class PaddedHead(ResponseHead):
    """Takes a batch of rows instead of one row."""

    def _select(self, input_: Tensor, logit_index_R: Tensor) -> Tensor:
        return input_.transpose(0, 1).flatten(0, 1)[logit_index_R]


def padded_batch(group: ScoredGroup, packed: MicroBatch) -> MicroBatch:
    """Concatenate the group's samples in ``tokens_S``, each with its own prompt; no two may be equal.

    ``packed`` is the same group packed; it supplies the labels, advantages and weights of the response tokens.
    """
    prompt = list(group.prompt_ids)
    samples = [prompt + list(response.token_ids) for response in group.responses]
    longest = max(map(len, samples))
    tokens = torch.tensor([sample + [0] * (longest - len(sample)) for sample in samples])
    rows = [
        number * longest + len(prompt) - 1 + place
        for number, response in enumerate(group.responses)
        for place in range(len(response.token_ids))
    ]
    labels = [token for response in group.responses for token in response.token_ids]
    assert labels == packed.labels_R.tolist(), "the packed row has the response tokens in the same order"
    positions = torch.arange(longest).repeat(len(samples))
    return replace(packed, tokens_S=tokens.flatten(), positions_S=positions, logit_index_R=torch.tensor(rows))


@contextmanager
def padded_policy(policy: Policy, samples: int) -> Iterator[None]:
    """Make the policy read rows as batches of ``samples`` padded samples with plain causal attention in the block."""
    (chunk,) = (unwrap_model(wrapped) for wrapped in policy.chunks)

    def forward(model: torch.nn.Module, batch: MicroBatch) -> Tensor:
        chunk.output_layer.targets = ResponseTargets(batch.logit_index_R, batch.labels_R)
        try:
            return model(batch.tokens_S.view(samples, -1), batch.positions_S.view(samples, -1), None)[0]
        finally:
            chunk.output_layer.targets = None

    head = chunk.output_layer
    plain = type(head)
    head.__class__ = PaddedHead
    try:
        with mock.patch("megatron_pz.trainer.policy.packed_forward", forward):
            yield
    finally:
        head.__class__ = plain


def one_row_each(policy: Policy, groups: Sequence[ScoredGroup], weighting: object) -> list[MicroBatch]:
    """Pack each group into a separate row, in the order of the groups."""
    return [policy.micro_batches([group], weighting, micro_batch_tokens=1_000_000)[0] for group in groups]  # type: ignore[arg-type]
