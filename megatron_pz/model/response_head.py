"""Extend the output layer to return log-probabilities of response tokens instead of logits of all tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from megatron.core.tensor_parallel import (
    ColumnParallelLinear,
    copy_to_tensor_model_parallel_region,
    gather_from_sequence_parallel_region,
    reduce_from_tensor_model_parallel_region,
)
from torch import Tensor
from torch.distributed import ProcessGroup

from megatron_pz.model.context_parallel import own_rows
from megatron_pz.model.log_probs import vocab_parallel_log_probs


@dataclass(frozen=True)
class ResponseTargets:
    """The hidden states that predict the R response tokens (see :class:`~megatron_pz.rl.experience.MicroBatch`)."""

    logit_index_R: Tensor
    labels_R: Tensor


class ResponseHead(ColumnParallelLinear):
    """The model's output layer with a second mode.

    While :attr:`targets` is set, a call returns float32 [R, 1, 2]: log-probability and entropy of every response token.
    Otherwise it behaves as Megatron-Core's output layer. :func:`~megatron_pz.model.packed_forward.attach` turns an
    existing output layer into one. The layer keeps its weight (its own or the embedding's), its sharding and its
    checkpoint entry.
    """

    targets: ResponseTargets | None = None
    true_vocab_size: int
    """Vocabulary size without padding."""
    cp_group: ProcessGroup
    """Ranks that share the tokens of a packed sequence."""

    def forward(
        self, input_: Tensor, weight: Tensor | None = None, runtime_gather_output: bool | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Map hidden states [S, 1, hidden], or this rank's part of S under context and sequence parallelism."""
        if self.targets is None:
            return super().forward(input_, weight, runtime_gather_output)
        head = self.weight if weight is None else weight
        if self.cp_group.size() == 1:
            return self._answer(input_, head, self.targets)[:, None], None
        # Each context parallel rank computes its own tokens, and the sum over ranks assembles all of them. The loss is
        # the same on these ranks, so that the backward of the sum (the identity) counts each rank's part once.
        length = input_.size(0) * self.cp_group.size() * (self.tp_group.size() if self.sequence_parallel else 1)
        own_r, rows_r = own_rows(self.targets.logit_index_R, length, self.cp_group)
        answer_r2 = self._answer(input_, head, ResponseTargets(rows_r, self.targets.labels_R[own_r]))
        answer_R2 = answer_r2.new_zeros(len(self.targets.logit_index_R), 2).index_copy(0, own_r, answer_r2)
        return reduce_from_tensor_model_parallel_region(answer_R2, group=self.cp_group)[:, None], None

    def sharded_state_dict(self, prefix: str = "", *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Store the weight alone, as GPTModel does; HybridModel would also store the layer's empty extra state."""
        state = super().sharded_state_dict(prefix, *args, **kwargs)
        state.pop(f"{prefix}_extra_state", None)
        return state

    def _answer(self, input_: Tensor, weight: Tensor, targets: ResponseTargets) -> Tensor:
        """Return float32 [R, 2] for targets among the tokens of ``input_``."""
        log_probs_R, entropy_R = vocab_parallel_log_probs(
            self._select(input_, targets.logit_index_R),
            weight,
            targets.labels_R,
            vocab_start=self.tp_group.rank() * self.output_size_per_partition,
            vocab_size=self.true_vocab_size,
            group=self.tp_group,
        )
        return torch.stack((log_probs_R, entropy_R), dim=-1)

    def _select(self, input_: Tensor, logit_index_R: Tensor) -> Tensor:
        """Select hidden states [R, hidden] on every rank; the backward pass sums the ranks' gradients exactly once.

        Under sequence parallelism the gather's backward reduce-scatters. Otherwise the copy's backward all-reduces,
        over R rows instead of S. Applying both would double every gradient below this layer.
        """
        if self.sequence_parallel:
            return gather_from_sequence_parallel_region(input_, group=self.tp_group)[:, 0][logit_index_R]
        return copy_to_tensor_model_parallel_region(input_[:, 0][logit_index_R], group=self.tp_group)
