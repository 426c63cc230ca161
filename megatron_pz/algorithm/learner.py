"""How a policy learns from a step's experience: minibatches, epochs, and the log-probabilities that stay frozen."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from megatron_pz.config.schema import OptimizerConfig, RunConfig
from megatron_pz.monitoring.compute import ComputeUsed, FlopCounter
from megatron_pz.rl.experience import MicroBatch, OldAndReferenceLogProbs, Role, ScoredGroup
from megatron_pz.rl.losses import policy_loss
from megatron_pz.rl.packing import LossWeighting
from megatron_pz.rl.statistics import ROLES
from megatron_pz.trainer.optimizer import learning_rate
from megatron_pz.trainer.policy import Policy, PolicyModel, ReferencePolicy, UpdateResult
from megatron_pz.trainer.topology import Topology


@dataclass(frozen=True)
class LearnerReport:
    """What one policy did with a step's experience."""

    roles: tuple[Role, ...]
    learning_rate: float
    updates: tuple[UpdateResult, ...]
    """None where there was nothing to learn from."""
    work: ComputeUsed
    """What it cost the trainers of all ranks."""
    seconds_computing: float = 0.0
    """Wall time of this rank in forward passes, backward passes and optimizer steps."""


@dataclass(frozen=True)
class Learner:
    """A policy, the roles that it plays, and what it learns with."""

    config: RunConfig
    policy: Policy
    roles: tuple[Role, ...]
    optimizer: OptimizerConfig
    """Its own: the policies of a run may have different learning rates."""
    reference: PolicyModel | None
    """What a KL penalty holds it to."""

    @property
    def name(self) -> str:
        """The role, when there is a policy for each; the empty name, when one plays both."""
        return self.roles[0] if len(self.roles) == 1 else ""

    def learn(self, groups: Sequence[ScoredGroup], iteration: int) -> LearnerReport:
        """``grpo_iterations`` times one optimizer step on each of ``updates_per_step`` shares of its roles' groups.

        Every epoch has the same shares in the same order. The old log-probabilities and the reference's are those of
        before the first optimizer step. ``iteration`` counts from 1. Collective over all ranks, with the same groups.
        """
        grpo = self.config.grpo
        rate = learning_rate(iteration - 1, self.optimizer, self.config.training.train_iters)
        own = [group for group in groups if group.role in self.roles]
        shares = [own[first :: grpo.updates_per_step] for first in range(grpo.updates_per_step)]
        minibatches = [self.micro_batches(share) for share in shares if share]
        start = time.perf_counter()
        moves = len(minibatches) * grpo.grpo_iterations > 1
        frozen = [self.frozen_log_probs(rows, policy_moves=moves) for rows in minibatches]
        loss = partial(policy_loss, grpo=grpo)
        updates = [
            self.policy.update(rows, loss, rate, rows_frozen)
            for _ in range(grpo.grpo_iterations)
            for rows, rows_frozen in zip(minibatches, frozen, strict=True)
        ]
        seconds_computing = time.perf_counter() - start
        costs = FlopCounter(self.policy.architecture)
        forward_passes = int(moves) + int(self.reference is not None)
        work = costs.training(own, grpo.grpo_iterations) + costs.scoring(own, forward_passes)
        return LearnerReport(self.roles, rate, tuple(updates), work, seconds_computing)

    def micro_batches(self, groups: Sequence[ScoredGroup]) -> list[MicroBatch]:
        """Pack this data-parallel rank's share of a minibatch; token weights refer to the whole optimizer step."""
        longest = self.config.rollout.max_response_length
        weighting = LossWeighting.of(groups, self.config.grpo.loss_aggregation, longest)
        return self.policy.micro_batches(groups, weighting, self.config.training.micro_batch_tokens)

    def frozen_log_probs(self, rows: Sequence[MicroBatch], *, policy_moves: bool) -> list[OldAndReferenceLogProbs]:
        """What the rows' losses refer to. Old log-probabilities are needed where the policy moves before the last one.

        Only the last stage of a pipeline has log-probabilities, and only it computes a loss.
        """
        old = self.policy.log_probs(rows) if policy_moves else []
        reference = self.reference.log_probs(rows) if self.reference else []
        return [
            OldAndReferenceLogProbs(old[row] if old else None, reference[row] if reference else None)
            for row in range(len(rows))
        ]


def make_learners(config: RunConfig, topology: Topology) -> list[Learner]:
    """The run's policies with their initial weights: one that plays both roles, or the generator and the predictor.

    Raises BadInput as the readers of ``config.model.hf_model`` do. Collective over all ranks.
    """
    reference = ReferencePolicy(config, topology) if config.grpo.grpo_kl_beta else None
    optimizer = config.optimizer
    if config.game.policy_sharing == "shared":
        return [Learner(config, Policy(config, topology), ROLES, optimizer, reference)]
    own: dict[Role, OptimizerConfig] = {
        "generator": replace(optimizer, lr=optimizer.generator_lr or optimizer.lr),
        "predictor": optimizer,
    }
    return [Learner(config, Policy(config, topology), (role,), own[role], reference) for role in ROLES]
