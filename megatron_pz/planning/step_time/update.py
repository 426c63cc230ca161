"""Compute the time of a step's optimizer steps in a parallel layout, packed and balanced as the trainer does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from megatron_pz.config.schema import RunConfig
from megatron_pz.hf.architecture import Architecture
from megatron_pz.monitoring.compute import forward_flops, token_pairs
from megatron_pz.planning.parameters import shard_sizes
from megatron_pz.planning.step_time.devices import Device
from megatron_pz.planning.step_time.rates import Rates
from megatron_pz.rl.packing import balance_groups, first_fit_decreasing

Group = tuple[int, tuple[int, ...]]
"""Tokens of a prompt and of its responses."""
_BF16, _FP32 = 2, 4
_ADAM_BYTES = 40
"""Bytes moved per parameter: gradient, its norm and its zero (12), master weight and both moments (24), weight."""


@dataclass(frozen=True)
class UpdateTime:
    """Seconds of a step's update."""

    seconds: float
    busy: float
    """Mean seconds in which a device computes or communicates; the rest are bubbles and the wait for the slowest."""


@dataclass(frozen=True)
class UpdateCost:
    """The trainer's layout on its devices."""

    arch: Architecture
    config: RunConfig
    device: Device
    rates: Rates
    gpus: int
    gpus_per_node: int

    @property
    def copies(self) -> int:
        """Return the number of data-parallel ranks, each of which has its own micro-batches."""
        sizes = self.config.parallel
        of_copy = sizes.tensor_model_parallel_size * sizes.pipeline_model_parallel_size * sizes.context_parallel_size
        return max(1, self.gpus // of_copy)

    def update(self, groups: Sequence[Group]) -> UpdateTime:
        """Return the time to learn from a step's groups."""
        grpo = self.config.grpo
        shares = [groups[first :: grpo.updates_per_step] for first in range(grpo.updates_per_step)]
        shares = [share for share in shares if share]
        forwards = int(len(shares) * grpo.grpo_iterations > 1) + int(grpo.grpo_kl_beta > 0)
        seconds = busy = 0.0
        for share in shares:
            slowest, mean, batches = self._passes(share)
            passes = grpo.grpo_iterations + forwards / self._passes_per_forward
            exposed = grpo.grpo_iterations * (self._exposed_reduction(slowest, batches) + self._optimizer())
            seconds += passes * slowest + exposed
            busy += passes * mean + exposed
        return UpdateTime(seconds, busy)

    @property
    def _passes_per_forward(self) -> int:
        """Return the cost of forward and backward in units of a forward pass; full recomputation adds one."""
        return 4 if self.config.parallel.recompute_granularity == "full" else 3

    def _passes(self, groups: Sequence[Group]) -> tuple[float, float, int]:
        """Return the forward and backward seconds of the slowest copy, their mean, and its number of micro-batches."""
        sizes, copies = self.config.parallel, self.copies
        flops = [
            forward_flops(self.arch, prompt + sum(lengths), sum(lengths), token_pairs(prompt, lengths))
            for prompt, lengths in groups
        ]
        tokens = [prompt + sum(lengths) for prompt, lengths in groups]
        devices = self.gpus // copies
        speed = self.device.flops * self.rates.update_flops_share * devices
        stages, chunks = sizes.pipeline_model_parallel_size, sizes.virtual_pipeline_model_parallel_size
        slowest, total, most = 0.0, 0.0, 1
        for share in balance_groups(flops, copies):
            if not share:
                continue
            batches = len(
                first_fit_decreasing([tokens[index] for index in share], self.config.training.micro_batch_tokens)
            )
            of_tokens = sum(tokens[index] for index in share)
            work = self._passes_per_forward * sum(flops[index] for index in share) / speed
            work += self._communication(of_tokens)
            bubble = (stages - 1) / (batches * chunks)
            total += work
            if work * (1 + bubble) > slowest:
                slowest, most = work * (1 + bubble), batches
        return slowest, total / copies, most

    def _communication(self, tokens: int) -> float:
        """Return the seconds to exchange the activations of a number of tokens between the ranks of a copy."""
        arch, sizes = self.arch, self.config.parallel
        tensor, context, experts = (
            sizes.tensor_model_parallel_size,
            sizes.context_parallel_size,
            sizes.expert_model_parallel_size,
        )
        layers = arch.num_layers / sizes.pipeline_model_parallel_size
        own = tokens / context
        # a layer has two all-reduces forward and two backward, each of 2 (t - 1) / t of the activations
        tensor_bytes = 8 * (tensor - 1) / tensor * _BF16 * arch.hidden_size * own * layers
        # keys and values are gathered forward, gathered again and scattered backward
        width = 2 * arch.num_query_groups * arch.kv_channels / tensor
        context_bytes = 3 * (context - 1) / context * _BF16 * width * tokens * layers
        seconds = self._over(tensor_bytes, tensor) + self._over(context_bytes, tensor * context)
        if arch.experts is not None and experts > 1:
            # every token goes to its experts and back, forward and backward
            sparse = sum(arch.experts.in_layer) / sizes.pipeline_model_parallel_size
            chosen = arch.experts.per_token * (experts - 1) / experts
            moved = 4 * chosen * _BF16 * arch.hidden_size * own / tensor * sparse
            seconds += self._over(moved, experts)
        return seconds

    def _optimizer(self) -> float:
        """Return the seconds of an optimizer step, which is bound by memory bandwidth."""
        sizes = self.config.parallel
        parameters = max(size.total for size in shard_sizes(self.arch, self.config.model, sizes))
        ranks = self.copies * sizes.context_parallel_size if sizes.use_distributed_optimizer else 1
        return _ADAM_BYTES * parameters / ranks / (self.device.bandwidth * self.rates.link_share)

    def _exposed_reduction(self, slowest: float, batches: int) -> float:
        """Return the seconds of communication of gradients and weights that no computation hides."""
        sizes = self.config.parallel
        ranks = self.copies * sizes.context_parallel_size
        if ranks == 1:
            return 0.0
        parameters = max(size.total for size in shard_sizes(self.arch, self.config.model, sizes))
        weight = _BF16 if self.config.model.bf16 else _FP32
        share = (ranks - 1) / ranks
        spread = ranks * sizes.tensor_model_parallel_size
        if not sizes.use_distributed_optimizer:
            return self._hidden(self._over(2 * share * _FP32 * parameters, spread), slowest, batches)
        reduced = self._hidden(self._over(share * _FP32 * parameters, spread), slowest, batches)
        return reduced + self._over(share * weight * parameters, spread)

    def _hidden(self, seconds: float, slowest: float, batches: int) -> float:
        """Return the remainder of a reduction that may overlap with the last micro-batch's backward pass."""
        if not self.config.parallel.overlap_grad_reduce:
            return seconds
        return max(0.0, seconds - slowest / batches * 2 / 3)

    def _over(self, moved: float, spread: int) -> float:
        """Return the seconds in which a device sends a number of bytes to ranks within ``spread`` devices."""
        link = self.device.peer_link if spread <= self.gpus_per_node else self.device.node_link
        return moved / (link * self.rates.link_share)
