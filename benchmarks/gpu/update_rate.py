"""Measure the rate of updates on packed rows, as a share of the device's own matrix rate."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from benchmarks.gpu.measure import synchronize
from benchmarks.gpu.operations import update_operations
from megatron_pz.config.schema import GrpoConfig
from megatron_pz.rl.experience import Response, ScoredGroup
from megatron_pz.rl.losses import policy_loss
from megatron_pz.rl.packing import LossWeighting, packed_length
from megatron_pz.trainer.policy import Policy


@dataclass(frozen=True)
class UpdateRate:
    """The rate of whole optimizer steps: forward, backward, gradient norm, Adam."""

    seconds: float
    """Seconds of the fastest counted step, the one with the least disturbance."""
    operations: float
    """Operations that a step needs (:func:`~benchmarks.gpu.operations.update_operations`)."""
    tokens: int
    """Tokens in the packed rows, with prompts counted once."""

    @property
    def rate(self) -> float:
        """Return the needed operations per second."""
        return self.operations / self.seconds


def random_groups(
    vocab_size: int, *, prompt: int, response: int, responses: int, count: int, seed: int = 0
) -> list[ScoredGroup]:
    """Make ``count`` groups of random tokens, all of one shape, with alternating advantages 1 and -1."""
    draw = random.Random(seed)

    def tokens(length: int) -> tuple[int, ...]:
        return tuple(draw.choices(range(vocab_size), k=length))

    groups = []
    for _ in range(count):
        sampled = tuple(Response(tokens(response), (-1.0,) * response, "", False) for _ in range(responses))
        advantages = tuple(1.0 if number % 2 else -1.0 for number in range(responses))
        groups.append(ScoredGroup("predictor", tokens(prompt), sampled, advantages, advantages))
    return groups


def measure_updates(
    policy: Policy, groups: Sequence[ScoredGroup], micro_batch_tokens: int, *, repeats: int = 3, warm_up: int = 2
) -> UpdateRate:
    """Measure optimizer steps of ``policy`` on ``groups``, on one rank; the weights change.

    The first steps, which allocate the optimizer's state and warm up the kernels, are not counted.
    """
    weighting = LossWeighting.of(groups, "sequence_mean", max_response_length=1)
    rows = policy.micro_batches(groups, weighting, micro_batch_tokens)
    loss = partial(policy_loss, grpo=GrpoConfig())
    taken = []
    for _ in range(warm_up + repeats):
        synchronize(policy.device)
        start = time.perf_counter()
        policy.update(rows, loss, learning_rate=1e-7)
        synchronize(policy.device)
        taken.append(time.perf_counter() - start)
    return UpdateRate(
        seconds=min(taken[warm_up:]),
        operations=update_operations(policy.architecture, groups),
        tokens=sum(map(packed_length, groups)),
    )
