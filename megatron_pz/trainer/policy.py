"""The policy: this rank's shard of a Megatron-Core model, frozen or with its optimizer, and the passes that RL needs.

All passes use Megatron's own schedules (``get_forward_backward_func``), so that the same code runs with and without
tensor, pipeline and data parallelism. The axis R is the response tokens of a packed sequence.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist
from megatron.core.pipeline_parallel import get_forward_backward_func
from megatron.core.transformer import MegatronModule

from megatron_pz.config.schema import ModelConfig, OptimizerConfig, ParallelConfig
from megatron_pz.config.validate_parallel import packed_shape
from megatron_pz.config.validate_precision import needs_equal_packed_counts, padded_for_fp8
from megatron_pz.hf.architecture import Architecture
from megatron_pz.hf.checkpoint import HFTensorSource
from megatron_pz.model import routing_replay
from megatron_pz.model.gpt import build_chunks
from megatron_pz.model.hf_mapping import load_hf_weights
from megatron_pz.model.hf_stream import stream_hf_weights
from megatron_pz.model.packed_forward import packed_forward
from megatron_pz.model.precision import require_precision, this_machine
from megatron_pz.model.transformer_config import transformer_config
from megatron_pz.rl.data_parallel_packing import pack_for_rank, shares_of_ranks
from megatron_pz.rl.experience import MicroBatch, OldAndReferenceLogProbs, ScoredGroup
from megatron_pz.rl.packing import LossWeighting
from megatron_pz.rl.statistics import LossStatistics
from megatron_pz.trainer.optimizer import gather_weights, set_learning_rate, wrap
from megatron_pz.trainer.topology import Topology

LossFunction = Callable[
    [torch.Tensor, torch.Tensor, MicroBatch, OldAndReferenceLogProbs], tuple[torch.Tensor, LossStatistics]
]
"""(log-probs_R, entropy_R, packed sequence, its frozen log-probs) -> (its part of the step's loss, its statistics)."""


@dataclass(frozen=True)
class UpdateResult:
    """Outcome of one optimizer step."""

    grad_norm: float
    """Global gradient norm before clipping; NaN if the gradient was not finite."""
    applied: bool
    """False when the gradient was not finite: the step was skipped and the weights are unchanged."""
    statistics: LossStatistics
    """Summed over all packed sequences of all ranks."""
    replayed_choices: int = 0
    """(token, layer) pairs of all ranks whose experts were those that the rollout engine chose."""
    differing_choices: int = 0
    """Replayed pairs in which the trainer's router would have chosen other experts."""


class PolicyModel:
    """A model that computes log-probabilities and streams its weights.

    All methods are collective: every rank of the topology calls them in the same order. Ranks that share a
    data-parallel rank (tensor, context and pipeline parallel peers) pass the same packed sequences.
    """

    def __init__(self, model: ModelConfig, parallel: ParallelConfig, topology: Topology) -> None:
        """Build the shard and read its weights from ``model.hf_model``.

        Raises:
            BadInput: the files cannot be read, or this machine cannot compute in the configured precision.
        """
        require_precision(model, this_machine())
        self.architecture = Architecture.from_hf(model.hf_model)
        self.topology = topology
        self.transformer_config = transformer_config(self.architecture, model, parallel)
        shape = packed_shape(padded_for_fp8(model, parallel))
        self.packed_shape = replace(shape, equal_counts=shape.equal_counts or needs_equal_packed_counts(model))
        self.chunks: list[MegatronModule] = list(build_chunks(self.architecture, self.transformer_config))
        tensors = HFTensorSource(model.hf_model)
        for chunk in self.chunks:
            load_hf_weights(chunk, self.architecture, tensors)

    @property
    def device(self) -> torch.device:
        """Return the device of the shard."""
        return next(self.chunks[0].parameters()).device

    def weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield (Hugging Face name, full tensor) in the model's dtype; every rank receives every tensor."""
        gather_weights(self.chunks)
        return stream_hf_weights(self.chunks, self.architecture)

    def micro_batches(
        self, groups: Sequence[ScoredGroup], weighting: LossWeighting, micro_batch_tokens: int
    ) -> list[MicroBatch]:
        """Pack this data-parallel rank's share of the step's groups; every rank passes the same groups."""
        return pack_for_rank(
            groups,
            weighting,
            micro_batch_tokens,
            rank=self.topology.data_parallel_rank,
            n_ranks=self.topology.data_parallel_size,
            shape=self.packed_shape,
            hidden_size=self.architecture.hidden_size,
        )

    def packed_here(self, groups: Sequence[ScoredGroup]) -> list[int]:
        """Return the indices of the groups that :meth:`micro_batches` packs on this rank."""
        shares = shares_of_ranks(groups, self.topology.data_parallel_size, self.architecture.hidden_size)
        return shares[self.topology.data_parallel_rank]

    def log_probs(self, batches: Sequence[MicroBatch]) -> list[torch.Tensor]:
        """Return log p of every response token under the current weights: a float32 [R] for each packed sequence.

        Only the last pipeline stage returns tensors, because only that stage computes a loss from them.
        """
        return [output_R2[:, 0] for output_R2 in self._score(batches)]

    def entropies(self, batches: Sequence[MicroBatch]) -> list[torch.Tensor]:
        """Return the entropy in nats of each response token's distribution, in the form of :meth:`log_probs`."""
        return [output_R2[:, 1] for output_R2 in self._score(batches)]

    @torch.no_grad()
    def _score(self, batches: Sequence[MicroBatch]) -> list[torch.Tensor]:
        gather_weights(self.chunks)
        for chunk in self.chunks:
            chunk.eval()

        def loss(output_R2: torch.Tensor, *_: Any) -> tuple[torch.Tensor, torch.Tensor]:
            return output_R2.new_zeros(()), output_R2.clone()

        outputs = self._run(batches, [OldAndReferenceLogProbs()] * len(batches), loss, forward_only=True)
        for chunk in self.chunks:
            chunk.train()
        return outputs

    def _run(
        self,
        batches: Sequence[MicroBatch],
        frozen: Sequence[OldAndReferenceLogProbs],
        loss: Callable[..., tuple[torch.Tensor, Any]],
        *,
        forward_only: bool,
    ) -> list[Any]:
        """Run Megatron's schedule; on the last stage return the second results of ``loss``."""

        def forward_step(inputs: Iterator[Any], model: torch.nn.Module) -> tuple[torch.Tensor, Callable[..., Any]]:
            batch, own_frozen = next(inputs)
            return packed_forward(model, batch), lambda output: loss(output, batch, own_frozen)

        inputs = [(batch.to(self.device), own_frozen) for batch, own_frozen in zip(batches, frozen, strict=True)]
        return get_forward_backward_func()(
            forward_step_func=forward_step,
            data_iterator=[iter(inputs) for _ in self.chunks],
            model=self.chunks,
            num_microbatches=len(inputs),
            seq_length=max(batch.tokens_S.numel() for batch in batches),
            micro_batch_size=1,
            forward_only=forward_only,
        )


class ReferencePolicy(PolicyModel):
    """The run's initial weights, the reference of the KL penalty; on a GPU they are kept in host memory."""

    def __init__(self, model: ModelConfig, parallel: ParallelConfig, topology: Topology) -> None:
        super().__init__(model, parallel, topology)
        self._move("cpu")

    def _score(self, batches: Sequence[MicroBatch]) -> list[torch.Tensor]:
        """Score with the weights on the GPU for the duration of the call."""
        self._move(self.topology.device)
        try:
            return super()._score(batches)
        finally:
            self._move("cpu")

    def _move(self, device: torch.device | str) -> None:
        for chunk in self.chunks:
            chunk.to(device)


class Policy(PolicyModel):
    """A policy that learns from packed sequences."""

    def __init__(
        self, model: ModelConfig, parallel: ParallelConfig, optimizer: OptimizerConfig, topology: Topology
    ) -> None:
        super().__init__(model, parallel, topology)
        self.chunks, self.optimizer = wrap(self.chunks, optimizer, parallel, model.bf16)

    def update(
        self,
        batches: Sequence[MicroBatch],
        loss_function: LossFunction,
        learning_rate: float,
        frozen: Sequence[OldAndReferenceLogProbs] | None = None,
    ) -> UpdateResult:
        """Take one optimizer step on the sum of ``loss_function`` over all packed sequences of all ranks.

        ``frozen`` has one entry for each batch. None means that the policy has not changed since the rollout and that
        there is no reference.
        """
        for chunk in self.chunks:
            chunk.zero_grad_buffer()
        self.optimizer.zero_grad()
        routing_replay.reset(self.chunks)
        set_learning_rate(self.optimizer, learning_rate)
        # Megatron divides a loss by the number of micro-batches and averages gradients over data-parallel ranks, but
        # our token weights already refer to the whole step.
        to_sum = len(batches) * self.topology.data_parallel_size

        def loss(
            output_R2: torch.Tensor, batch: MicroBatch, own_frozen: OldAndReferenceLogProbs
        ) -> tuple[torch.Tensor, dict[str, LossStatistics]]:
            value, statistics = loss_function(output_R2[:, 0], output_R2[:, 1], batch, own_frozen)
            return value * to_sum, {"statistics": statistics}

        outputs = self._run(batches, frozen or [OldAndReferenceLogProbs()] * len(batches), loss, forward_only=False)
        applied, grad_norm = self._step()
        total = sum((output["statistics"] for output in outputs), LossStatistics.zero(self.device))
        return UpdateResult(grad_norm, applied, self._over_all_ranks(total), *self._routing_counts())

    def _step(self) -> tuple[bool, float]:
        """Step the optimizer on all ranks or on none; return (whether it stepped, the gradient norm).

        Megatron-Core checks for non-finite gradients only in float16. In other types a single one would corrupt every
        weight through the global norm.
        """
        sums = [
            buffer.grad_data.sum() for chunk in self.chunks for buffer in chunk.buffers + chunk.expert_parallel_buffers
        ]
        if self.topology.any_rank(not bool(torch.stack(sums).isfinite().all())):
            return False, math.nan
        applied, grad_norm, _ = self.optimizer.step()
        return bool(applied), float(grad_norm)

    def offload(self) -> None:
        """Offload the optimizer state to host memory and free the gradients, until :meth:`onload`.

        The weights stay, so that all methods except :meth:`update` work. On a CPU only the gradients are freed.
        """
        self.optimizer.offload_to_cpu()
        for chunk in self.chunks:
            chunk.offload_grad_buffers()

    def onload(self) -> None:
        """Undo :meth:`offload`; gradients are restored as zeros."""
        for chunk in self.chunks:
            chunk.restore_grad_buffers()
        self.optimizer.restore_from_cpu()

    def _routing_counts(self) -> list[int]:
        """Sum :func:`~megatron_pz.model.routing_replay.counts` over all ranks; empty for a dense model."""
        if self.architecture.experts is None:
            return []
        counts = routing_replay.counts(self.chunks, self.device)
        dist.all_reduce(counts)
        return counts.tolist()

    def _over_all_ranks(self, statistics: LossStatistics) -> LossStatistics:
        """Reduce statistics over all ranks, counting ranks that computed the same values once."""
        place = self.topology
        counts = place.is_last_stage and place.tensor_parallel_rank == place.context_parallel_rank == 0
        sums = statistics.sums.clone() if counts else torch.zeros_like(statistics.sums)
        maxima = statistics.maxima.clone()
        dist.all_reduce(sums)
        dist.all_reduce(maxima, op=dist.ReduceOp.MAX)
        return LossStatistics(sums, maxima)
