"""The output layer as the trainer needs it: log-probabilities of response tokens instead of logits of all tokens."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from megatron.core.tensor_parallel import (
    ColumnParallelLinear,
    copy_to_tensor_model_parallel_region,
    gather_from_sequence_parallel_region,
)
from torch import Tensor

from megatron_pz.model.log_probs import vocab_parallel_log_probs


@dataclass(frozen=True)
class ResponseTargets:
    """Which hidden states predict which tokens, R of them (see :class:`~megatron_pz.rl.experience.MicroBatch`)."""

    rows_R: Tensor
    labels_R: Tensor


class ResponseHead(ColumnParallelLinear):
    """``GPTModel.output_layer`` with a second way to be called.

    While :attr:`targets` is set, the call returns float32 [R, 1, 2]: log-probability and entropy of every response
    token. Else it is megatron's output layer. :func:`~megatron_pz.model.packed_forward.attach` makes an existing output
    layer one, which keeps its weight (its own or the embedding's), its sharding and its checkpoint entry.
    """

    targets: ResponseTargets | None = None
    true_vocab_size: int
    """Without padding."""

    def forward(
        self, input_: Tensor, weight: Tensor | None = None, runtime_gather_output: bool | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """``input_`` is [S, 1, hidden], or this rank's part of S under sequence parallelism."""
        if self.targets is None:
            return super().forward(input_, weight, runtime_gather_output)
        log_probs_R, entropy_R = vocab_parallel_log_probs(
            self._select(input_, self.targets.rows_R),
            self.weight if weight is None else weight,
            self.targets.labels_R,
            vocab_start=self.tp_group.rank() * self.output_size_per_partition,
            vocab_size=self.true_vocab_size,
            group=self.tp_group,
        )
        return torch.stack((log_probs_R, entropy_R), dim=-1)[:, None], None

    def _select(self, input_: Tensor, rows_R: Tensor) -> Tensor:
        """The rows [R, hidden] on every rank; the backward pass sums the ranks' gradients exactly once.

        Under sequence parallelism the gather's backward reduce-scatters. Else the copy's backward all-reduces, over R
        rows and not over S. One of them, never both: both would double every gradient below this layer.
        """
        if self.sequence_parallel:
            return gather_from_sequence_parallel_region(input_, group=self.tp_group)[:, 0][rows_R]
        return copy_to_tensor_model_parallel_region(input_[:, 0][rows_R], group=self.tp_group)
