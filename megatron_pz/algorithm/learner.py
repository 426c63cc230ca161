"""Update a policy from a step's experience: minibatches, epochs, old and reference log-probabilities."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from megatron_pz.algorithm.response_differences import DifferenceRecorder
from megatron_pz.config.schema import GrpoConfig, OptimizerConfig, RunConfig, TrainingConfig
from megatron_pz.monitoring.compute import ComputeUsed, FlopCounter
from megatron_pz.rl.experience import MicroBatch, OldAndReferenceLogProbs, Role, ScoredGroup
from megatron_pz.rl.losses import policy_loss
from megatron_pz.rl.packing import LossWeighting
from megatron_pz.rl.statistics import GAME_ROLES
from megatron_pz.trainer.optimizer import learning_rate
from megatron_pz.trainer.policy import Policy, PolicyModel, ReferencePolicy, UpdateResult
from megatron_pz.trainer.topology import Topology


@dataclass(frozen=True)
class LearnerReport:
    """The updates that one policy made from a step's experience."""

    roles: tuple[Role, ...]
    learning_rate: float
    updates: tuple[UpdateResult, ...]
    """Optimizer steps; empty if there was nothing to learn from."""
    compute: ComputeUsed
    """Compute used by the trainers of all ranks."""
    seconds_computing: float = 0.0
    """Wall time that this rank spent in forward passes, backward passes and optimizer steps."""
    differences: Mapping[int, tuple[float, ...]] = field(default_factory=dict)
    """Mean |log p(trainer) - log p(rollout)| over the tokens of each response, nats, by the number of its group among
    those of the roles. This rank's share; only the last stage of a pipeline has any."""


@dataclass(frozen=True)
class Learner:
    """A policy, the roles that it plays, and its optimizer settings."""

    policy: Policy
    roles: tuple[Role, ...]
    grpo: GrpoConfig
    optimizer: OptimizerConfig
    """Settings of this policy: the policies of a run may have different learning rates."""
    training: TrainingConfig
    max_response_length: int
    """Tokens; the constant that ``token_sum_constant`` divides by."""
    reference: PolicyModel | None
    """The policy that a KL penalty refers to."""
    name: str = ""
    """The role, if each role has a policy of its own; empty for a single policy."""

    def learn(self, groups: Sequence[ScoredGroup], iteration: int) -> LearnerReport:
        """Run ``grpo_iterations`` epochs of ``updates_per_step`` optimizer steps on the groups of the policy's roles.

        Every epoch has the same minibatches in the same order. Old and reference log-probabilities are computed before
        the first optimizer step. ``iteration`` counts from 1. Collective over all ranks, which pass the same groups.
        """
        grpo = self.grpo
        rate = learning_rate(iteration - 1, self.optimizer, self.training.train_iters)
        own = [group for group in groups if group.role in self.roles]
        minibatches = [self.micro_batches([groups[index] for index in share]) for share in self.minibatches(groups)]
        start = time.perf_counter()
        several_updates = len(minibatches) * grpo.grpo_iterations > 1
        frozen = [self.frozen_log_probs(batches, policy_moves=several_updates) for batches in minibatches]
        loss = partial(policy_loss, grpo=grpo)
        recorder = DifferenceRecorder(loss)
        updates = []
        for epoch in range(grpo.grpo_iterations):
            for number, (batches, log_probs) in enumerate(zip(minibatches, frozen, strict=True)):
                first = recorder.of_minibatch(partial(_place, first=number, stride=grpo.updates_per_step))
                updates.append(self.policy.update(batches, loss if epoch else first, rate, log_probs))
        seconds_computing = time.perf_counter() - start
        flops = FlopCounter(self.policy.architecture)
        forward_passes = int(several_updates) + int(self.reference is not None)
        compute = flops.training(own, grpo.grpo_iterations) + flops.scoring(own, forward_passes)
        return LearnerReport(self.roles, rate, tuple(updates), compute, seconds_computing, recorder.by_group())

    def minibatches(self, groups: Sequence[ScoredGroup]) -> list[list[int]]:
        """Return the indices of the groups of the policy's roles for each optimizer step."""
        own = [index for index, group in enumerate(groups) if group.role in self.roles]
        shares = (own[first :: self.grpo.updates_per_step] for first in range(self.grpo.updates_per_step))
        return [share for share in shares if share]

    def packed_here(self, groups: Sequence[ScoredGroup]) -> list[int]:
        """Return the indices of the groups that this rank packs in :meth:`learn`."""
        return [
            share[place]
            for share in self.minibatches(groups)
            for place in self.policy.packed_here([groups[index] for index in share])
        ]

    def micro_batches(self, groups: Sequence[ScoredGroup]) -> list[MicroBatch]:
        """Pack this data-parallel rank's share of a minibatch; token weights refer to the whole optimizer step."""
        weighting = LossWeighting.of(groups, self.grpo.loss_aggregation, self.max_response_length)
        return self.policy.micro_batches(groups, weighting, self.training.micro_batch_tokens)

    def frozen_log_probs(self, batches: Sequence[MicroBatch], *, policy_moves: bool) -> list[OldAndReferenceLogProbs]:
        """Compute the old and reference log-probabilities; the old ones are needed only for more than one update.

        Only the last pipeline stage has log-probabilities, and only that stage computes a loss.
        """
        old = self.policy.log_probs(batches) if policy_moves else []
        reference = self.reference.log_probs(batches) if self.reference else []
        return [
            OldAndReferenceLogProbs(old[index] if old else None, reference[index] if reference else None)
            for index in range(len(batches))
        ]


def _place(number: int, first: int, stride: int) -> int:
    """Return the step-wide number of a group of minibatch ``first``, which has every ``stride``-th group."""
    return first + number * stride


def make_learners(config: RunConfig, topology: Topology, roles: tuple[Role, ...] = GAME_ROLES) -> list[Learner]:
    """Build the run's policies with their initial weights: one for all roles, or one for each role of the game.

    Raises BadInput if ``config.model.hf_model`` cannot be used. Collective over all ranks.
    """
    reference = ReferencePolicy(config.model, config.parallel, topology) if config.grpo.grpo_kl_beta else None
    optimizer = config.optimizer

    def learner(roles: tuple[Role, ...], own: OptimizerConfig, name: str = "") -> Learner:
        policy = Policy(config.model, config.parallel, optimizer, topology)
        longest = config.rollout.max_response_length
        return Learner(policy, roles, config.grpo, own, config.training, longest, reference, name)

    if config.game.policy_sharing == "shared" or roles != GAME_ROLES:
        return [learner(roles, optimizer)]
    own: dict[Role, OptimizerConfig] = {
        "generator": replace(optimizer, lr=optimizer.generator_lr or optimizer.lr),
        "predictor": optimizer,
    }
    return [learner((role,), own[role], name=role) for role in GAME_ROLES]
