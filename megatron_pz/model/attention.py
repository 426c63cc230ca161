"""Core attention for packed rows: exact shared-prompt attention on torch's scaled-dot-product kernels.

It takes the place of megatron's ``DotProductAttention`` in a layer spec (which refuses packed rows) and runs the same
on CPU and GPU.
"""

from __future__ import annotations

import torch
from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor
from torch.nn.attention.bias import causal_lower_right
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.weak import WeakTensorKeyDictionary

from megatron_pz.errors import BadInput

Runs = tuple[tuple[int, bool], ...]
"""A row from left to right, as (number of tokens, whether they are a prompt)."""

_runs_of: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
"""Reading the runs waits for the device, and all layers of a forward pass ask about the same tensor."""


class SharedPromptAttention(MegatronModule):
    """softmax(Q K^T / sqrt(d)) V, causal, or within the segments of a packed row.

    A prompt attends causally to itself; a response attends to its prompt and causally to itself. Each is a kernel call
    of its own over exactly the keys it may see, so the cost is P^2/2 + sum of r (P + r/2) a group, no mask of the
    row's size exists, and on a GPU the flash kernel applies. Against one call a group with a boolean mask this takes
    0.75 of the CPU time at prompts of 200 and 8 responses of 24, and 0.27 at 512 and 8 of 256 (float32).

    The constructor's arguments are those that megatron gives to a core attention.

    Raises:
        BadInput: attention dropout or context parallelism is asked for.
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
        if config.context_parallel_size != 1:
            raise BadInput(
                f"context-parallel size is {config.context_parallel_size}: packed rows are not split, set it to 1"
            )
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
            query: [S, b, heads of this rank, d].
            key, value: [S, b, key-value heads of this rank, d].
            attention_mask: None for plain causal attention; else the ``segments_2S`` of a
                :class:`~megatron_pz.rl.experience.MicroBatch` as int32 [1, 1, 2, S], with b = 1. It is an argument
                and not a state, so recomputed layers and pipelined micro-batches each have their own.
            attn_mask_type, attention_bias, packed_seq_params: megatron's signature; not used.

        Returns:
            [S, b, heads of this rank * d]
        """
        q, k, v = (tensor.permute(1, 2, 0, 3) for tensor in (query, key, value))
        if attention_mask is None:
            attended = scaled_dot_product_attention(q, k, v, is_causal=True, scale=self.softmax_scale, enable_gqa=True)
        else:
            # torch's CPU kernels take bfloat16 apart again and again: float32 is 1.1 times as fast at runs of hundreds
            # of tokens and twice as fast at runs of ten, casts included.
            q, k, v = (tensor.float() if tensor.is_cpu else tensor for tensor in (q, k, v))
            attended = _attend_segments(q, k, v, _read_runs(attention_mask), self.softmax_scale)
        return attended.permute(2, 0, 1, 3).flatten(2).to(query.dtype)


def _attend_segments(q: Tensor, k: Tensor, v: Tensor, runs: Runs, scale: float | None) -> Tensor:
    """[1, heads, S, d] tensors in, the same out."""
    lengths = [length for length, _ in runs]
    # One split has one backward (a concatenation); a slice for every run would each write a gradient of full size.
    pieces = zip(q.split(lengths, 2), k.split(lengths, 2), v.split(lengths, 2), runs, strict=True)
    attended = []
    prompt_k, prompt_v = k[:, :, :0], v[:, :, :0]
    for run_q, run_k, run_v, (length, is_prompt) in pieces:
        if is_prompt:
            prompt_k, prompt_v = run_k, run_v
        else:
            run_k, run_v = torch.cat((prompt_k, run_k), 2), torch.cat((prompt_v, run_v), 2)
        mask = causal_lower_right(length, run_k.size(2))
        attended.append(scaled_dot_product_attention(run_q, run_k, run_v, attn_mask=mask, scale=scale, enable_gqa=True))
    return torch.cat(attended, 2)


def _read_runs(segments: Tensor) -> Runs:
    """The runs of equal (group, response) in int32 [1, 1, 2, S]."""
    runs = _runs_of.get(segments)
    if runs is None:
        kinds, lengths = torch.unique_consecutive(segments[0, 0], dim=1, return_counts=True)
        runs = tuple(zip(lengths.tolist(), (kinds[1] == 0).tolist(), strict=True))
        _runs_of[segments] = runs
    return runs
