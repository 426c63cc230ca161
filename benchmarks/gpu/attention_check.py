"""Compare the core attention of packed rows with textbook attention, in float64 with a mask of the row's size."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from megatron.core.transformer.enums import AttnMaskType
from torch import Tensor

from megatron_pz.model.attention import SharedPromptAttention
from megatron_pz.model.transformer_config import PolicyTransformerConfig
from megatron_pz.rl.experience import MicroBatch


@dataclass(frozen=True)
class AttentionErrors:
    """Errors relative to the norm of the float64 result."""

    output: float
    gradient: float
    """The largest error of the gradients of queries, keys and values."""


def compare_attention(
    row: MicroBatch, config: PolicyTransformerConfig, device: torch.device, dtype: torch.dtype
) -> AttentionErrors:
    """Compare both over a packed row, with random inputs to ``config``'s heads. Needs Megatron's process groups."""
    attention = SharedPromptAttention(config, 1, AttnMaskType.causal, "self").to(device)
    generator = torch.Generator(device).manual_seed(0)
    heads = (config.num_attention_heads, config.num_query_groups, config.num_query_groups)
    length = row.tokens_S.numel()
    query, key, value = (
        torch.randn(length, 1, count, config.kv_channels, generator=generator, device=device).to(dtype).requires_grad_()
        for count in heads
    )
    output = attention(query, key, value, row.segments_2S[None, None].to(device))
    upstream = torch.randn(output.shape, generator=generator, device=device)
    gradients = torch.autograd.grad(output, (query, key, value), upstream.to(dtype))

    q, k, v = (tensor.detach().double().requires_grad_() for tensor in (query, key, value))
    exact = _textbook(q, k, v, visible(row.segments_2S).to(device))
    exact_gradients = torch.autograd.grad(exact, (q, k, v), upstream.double())
    errors = [_distance(*pair) for pair in zip(gradients, exact_gradients, strict=True)]
    return AttentionErrors(_distance(output, exact), max(errors))


def visible(segments_2S: Tensor) -> Tensor:
    """Return bool [S, S]: whether a query (row) attends to a key (column), by the rules of ``MicroBatch``."""
    groups_S, responses_S = segments_2S
    same_group = groups_S[:, None] == groups_S[None]
    same_run = same_group & (responses_S[:, None] == responses_S[None])
    own_prompt = same_group & (responses_S[None] == 0)
    return (same_run | own_prompt).tril()


def _textbook(query: Tensor, key: Tensor, value: Tensor, visible_SS: Tensor) -> Tensor:
    """Compute textbook attention, from [S, 1, heads, d] to [S, 1, heads * d]."""
    shared_by = query.size(2) // key.size(2)
    q, k, v = query[:, 0], key[:, 0].repeat_interleave(shared_by, 1), value[:, 0].repeat_interleave(shared_by, 1)
    scores = torch.einsum("qhd,khd->hqk", q, k) * query.size(-1) ** -0.5
    shares = scores.masked_fill(~visible_SS, float("-inf")).softmax(-1)
    return torch.einsum("hqk,khd->qhd", shares, v).flatten(1)[:, None]


def _distance(found: Tensor, exact: Tensor) -> float:
    return float((found.detach().double() - exact.detach()).norm() / exact.detach().norm())
