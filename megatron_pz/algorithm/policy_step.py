"""Run the step that all objectives with rollouts share: sample and score, update the policies, sync the engines."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any, Generic, Protocol, TypeVar

from megatron_pz.algorithm.colocation import Colocation, SleepingEngine
from megatron_pz.algorithm.expert_ids import fetch_ids, without_ids
from megatron_pz.algorithm.learner import Learner, LearnerReport
from megatron_pz.algorithm.rank_shares import RankShares
from megatron_pz.algorithm.role_sampler import EngineSampler
from megatron_pz.config.precision import log_prob_difference_bound
from megatron_pz.config.schema import RunConfig
from megatron_pz.monitoring.timers import Timers
from megatron_pz.rl.advantages import group_advantages
from megatron_pz.rl.experience import Response, Role, ScoredGroup
from megatron_pz.rollout.logprob_mismatch import require_in_sync
from megatron_pz.rollout.speculation import DraftCounts
from megatron_pz.trainer.policy import UpdateResult

Round = TypeVar("Round")
"""This rank's share of one round of rollouts."""


@dataclass(frozen=True)
class StepReport(Generic[Round]):
    """The results of one step, for metrics and samples."""

    rollouts: list[Round]
    """The rounds of rollouts: one, or several with dynamic sampling."""
    groups: list[ScoredGroup]
    """The groups of all ranks that the step learned from."""
    learners: list[LearnerReport]
    """One per policy."""
    seconds: Timers = field(default_factory=Timers)
    seconds_generating: float = 0.0
    """Wall time of the rollout that this rank spent in its engines, and waiting for those of other ranks."""
    drafts: DraftCounts = field(default_factory=DraftCounts)
    """Draft counts of this rank's engines."""
    schedule: dict[str, float] = field(default_factory=dict)
    """Further metrics about the overlap of rollouts and update."""

    @property
    def updates(self) -> list[UpdateResult]:
        """Return the optimizer steps of all policies."""
        return [update for learner in self.learners for update in learner.updates]


class SyncedEngine(SleepingEngine, Protocol):
    """The part of a policy's engines that takes its weights, and counts drafts."""

    def sync(self) -> None: ...

    def take_draft_counts(self) -> DraftCounts: ...


class PolicyStep(ABC, Generic[Round]):
    """Learns from the experience that a subclass gathers."""

    def __init__(
        self,
        config: RunConfig,
        shares: RankShares,
        sampler: EngineSampler,
        engines: Mapping[Role, SyncedEngine],
        learners: list[Learner],
    ) -> None:
        self.config, self.learners, self._shares = config, learners, shares
        self._sampler, self._engines = sampler, engines
        self.colocation = Colocation(
            [learner.policy for learner in learners],
            engines.values(),
            sleep=config.rollout.sleep_during_update,
            offload=config.optimizer.rl_offload_optimizer_during_inference,
        )

    @abstractmethod
    def gather_experience(self, iteration: int) -> tuple[list[Round], list[ScoredGroup]]:
        """Roll out; return this rank's rollouts, and the :meth:`gathered` groups. Collective over all ranks."""

    def step(self, iteration: int) -> StepReport[Round]:
        """Sample, update the policies, sync the engines' weights. Collective over all ranks.

        ``iteration`` counts from 1.
        """
        timers, generated_before = Timers(), self._sampler.seconds_generating
        self.take_draft_counts()  # discard the counts of evaluations since the last step
        with timers("rollout"):
            rollouts, groups = self.gather_experience(iteration)
            if self.config.model.moe_enable_routing_replay:
                packed = [index for learner in self.learners for index in learner.packed_here(groups)]
                groups = fetch_ids(groups, packed, self._shares.topology)
        drafts = self.take_draft_counts()
        with timers("update"), self.colocation.trainer_works():
            learned = [learner.learn(groups, iteration) for learner in self.learners]
        seconds_generating = self._sampler.seconds_generating - generated_before
        schedule = self.after_update(timers)
        report = StepReport(rollouts, groups, learned, timers, seconds_generating, drafts, schedule)
        require_in_sync(report.updates, log_prob_difference_bound(self.config), iteration)
        with timers("sync"), self.colocation.weights_travel():
            for learner, own in zip(self.learners, learned, strict=True):
                if own.updates:
                    self._engines[learner.roles[0]].sync()
        return report

    def take_draft_counts(self) -> DraftCounts:
        """Return the draft counts of this rank's engines since the last call."""
        if not self.config.rollout.rollout_speculative_tokens:
            return DraftCounts()
        return sum((engine.take_draft_counts() for engine in set(self._engines.values())), DraftCounts())

    def after_update(self, timers: Timers) -> dict[str, float]:
        """Wait until the engines are ready for new weights, and return metrics of the wait. Collective."""
        return {}

    def gathered(self, mine: Mapping[Any, ScoredGroup]) -> list[ScoredGroup]:
        """Return the groups of all ranks with a nonzero advantage, in the order of their keys. Collective.

        Expert ids stay on the rank that sampled them.
        """
        sent = [(key, without_ids(group)) for key, group in mine.items() if any(group.advantages)]
        everywhere = sorted(self._shares.from_all_ranks(sent), key=itemgetter(0))
        return [mine.get(key, group) for key, group in everywhere]

    def score(
        self,
        role: Role,
        prompt_ids: tuple[int, ...],
        responses: tuple[Response, ...],
        rewards: Sequence[float],
        staleness: int = 0,
    ) -> ScoredGroup:
        """Make a group with the advantages of its rewards (equation 10)."""
        advantages = group_advantages(rewards, self.config.grpo.advantage_scale)
        rank = self._shares.topology.rank
        return ScoredGroup(role, prompt_ids, responses, tuple(rewards), tuple(advantages), staleness, rank)
