"""Core attention for packed rows: exact shared-prompt attention on torch's scaled-dot-product kernels.

It takes the place of megatron's ``DotProductAttention`` in a layer spec (which refuses packed rows) and runs the same
on CPU and GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.nn.attention.bias import causal_lower_right
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.weak import WeakTensorKeyDictionary

from megatron_pz.errors import BadInput
from megatron_pz.model.context_parallel import gather_tokens, own_ranges


@dataclass(frozen=True)
class Piece:
    """Queries that one kernel call answers: tokens of this rank that lie in one run of the row."""

    length: int
    """Queries, the run's last ones up to ``end``."""
    run: int
    """Number of the run that they belong to."""
    end: int
    """They see the run's first ``end`` keys, each query up to itself."""
    prompt: int | None
    """Number of the run that they see whole beside it; None for the tokens of a prompt."""


@dataclass(frozen=True)
class Plan:
    """A row as runs of tokens that belong together (a prompt or one response), and this rank's share of the work."""

    run_lengths: tuple[int, ...]
    pieces: tuple[Piece, ...]


_plan_of: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
"""Reading the runs waits for the device, and all layers of a forward pass ask about the same tensor."""


class SharedPromptAttention(MegatronModule):
    """softmax(Q K^T / sqrt(d)) V, causal, or within the segments of a packed row.

    A prompt attends causally to itself; a response attends to its prompt and causally to itself. Each is a kernel call
    of its own over exactly the keys it may see, so the cost is P^2/2 + sum of r (P + r/2) a group, no mask of the
    row's size exists, and on a GPU the flash kernel applies. Against one call a group with a boolean mask this takes
    0.75 of the CPU time at prompts of 200 and 8 responses of 24, and 0.27 at 512 and 8 of 256 (float32).

    Context parallel ranks answer the queries of their own tokens over the keys and values of all, which they gather.

    The constructor's arguments are those that megatron gives to a core attention.

    Raises:
        BadInput: attention dropout is asked for.
    """

    def __init__(
        self,
        config: TransformerConfig,
        layer_number: int,
        attn_mask_type: AttnMaskType,
        attention_type: str,
        attention_dropout: float | None = None,
        softmax_scale: float | None = None,
        cp_comm_type: str | None = None,
        pg_collection: ProcessGroupCollection | None = None,
    ) -> None:
        super().__init__(config=config)
        dropout = config.attention_dropout if attention_dropout is None else attention_dropout
        if dropout != 0.0:
            raise BadInput(f"attention dropout is {dropout}: the packed attention has none, set it to 0")
        groups = pg_collection or ProcessGroupCollection.use_mpu_process_groups(["cp"])
        self.cp_group = groups.cp
        self.softmax_scale = softmax_scale

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        attn_mask_type: AttnMaskType | None = None,
        attention_bias: Tensor | None = None,
        packed_seq_params: PackedSeqParams | None = None,
    ) -> Tensor:
        """Attend.

        Args:
            query: [s, b, heads of this rank, d]; s = S / context parallel ranks tokens of this rank.
            key, value: [s, b, key-value heads of this rank, d].
            attention_mask: None for plain causal attention; else the ``segments_2S`` of a
                :class:`~megatron_pz.rl.experience.MicroBatch`, all of it, as int32 [1, 1, 2, S], with b = 1. It is an
                argument and not a state, so recomputed layers and pipelined micro-batches each have their own.
            attn_mask_type, attention_bias, packed_seq_params: megatron's signature; not used.

        Returns:
            [s, b, heads of this rank * d]
        """
        if self.cp_group.size() > 1:
            both = gather_tokens(torch.cat((key, value), -1), self.cp_group)
            key, value = both.split(key.size(-1), -1)
        q, k, v = (tensor.permute(1, 2, 0, 3) for tensor in (query, key, value))
        if attention_mask is None and self.cp_group.size() == 1:
            attended = scaled_dot_product_attention(q, k, v, is_causal=True, scale=self.softmax_scale, enable_gqa=True)
        else:
            plan = _plan(attention_mask, key.size(0), self.cp_group)
            # torch's CPU kernels take bfloat16 apart again and again: float32 is 1.1 times as fast at runs of hundreds
            # of tokens and twice as fast at runs of ten, casts included.
            q, k, v = (tensor.float() if tensor.is_cpu else tensor for tensor in (q, k, v))
            attended = _attend_pieces(q, k, v, plan, self.softmax_scale)
        return attended.permute(2, 0, 1, 3).flatten(2).to(query.dtype)


def _attend_pieces(q: Tensor, k: Tensor, v: Tensor, plan: Plan, scale: float | None) -> Tensor:
    """[b, heads, s, d] queries and [b, heads, S, d] keys and values in, [b, heads, s, d] out."""
    # One split has one backward (a concatenation); a slice for every run would each write a gradient of full size.
    keys, values = k.split(plan.run_lengths, 2), v.split(plan.run_lengths, 2)
    attended = []
    for piece_q, piece in zip(q.split([piece.length for piece in plan.pieces], 2), plan.pieces, strict=True):
        seen_k, seen_v = keys[piece.run][:, :, : piece.end], values[piece.run][:, :, : piece.end]
        if piece.prompt is not None:
            seen_k = torch.cat((keys[piece.prompt], seen_k), 2)
            seen_v = torch.cat((values[piece.prompt], seen_v), 2)
        mask = causal_lower_right(piece.length, seen_k.size(2))
        attended.append(
            scaled_dot_product_attention(piece_q, seen_k, seen_v, attn_mask=mask, scale=scale, enable_gqa=True)
        )
    return torch.cat(attended, 2)


def _plan(segments: Tensor | None, length: int, cp_group: ProcessGroup) -> Plan:
    """The plan of a row of ``length`` tokens for this rank; a row without segments is one prompt."""
    if segments is None:
        return plan_of_runs([(length, True)], own_ranges(length, cp_group.rank(), cp_group.size()))
    plan = _plan_of.get(segments)
    if plan is None:
        kinds, lengths = torch.unique_consecutive(segments[0, 0], dim=1, return_counts=True)
        runs = list(zip(lengths.tolist(), (kinds[1] == 0).tolist(), strict=True))
        plan = plan_of_runs(runs, own_ranges(length, cp_group.rank(), cp_group.size()))
        _plan_of[segments] = plan
    return plan


def plan_of_runs(runs: Sequence[tuple[int, bool]], own: Sequence[range]) -> Plan:
    """The plan of a row.

    Args:
        runs: the row from left to right, as (number of tokens, whether they are a prompt).
        own: the tokens whose queries are asked, in their order.

    >>> plan_of_runs([(4, True), (3, False)], [range(2, 6)]).pieces
    (Piece(length=2, run=0, end=4, prompt=None), Piece(length=2, run=1, end=2, prompt=0))
    """
    lengths = [length for length, _ in runs]
    starts = list(accumulate(lengths, initial=0))
    pieces = []
    for tokens in own:
        prompt = None
        for number, (length, is_prompt) in enumerate(runs):
            prompt = number if is_prompt else prompt
            first, last = max(tokens.start, starts[number]), min(tokens.stop, starts[number] + length)
            if first < last:
                pieces.append(Piece(last - first, number, last - starts[number], None if is_prompt else prompt))
    return Plan(tuple(lengths), tuple(pieces))
