"""PretrainZero, one step at a time (arXiv 2512.03442, section 3). Read it beside the paper.

Departures from the paper, each a field of the configuration where one can choose ("[C]" in ``config.py``):

- Equation 10's second equality cannot hold (the mean advantage of a group is zero); its first part is implemented.
- A generator group stays although its masks were solved always or never, as long as its rewards differ: otherwise the
  zero of equation 9 would never act. A predictor group whose accuracy is 0 or 1 carries no signal and is dropped.
- Token weights correct for rollout and trainer disagreeing about a probability (truncated importance sampling).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import itemgetter

from megatron_pz.algorithm.colocation import Colocation
from megatron_pz.algorithm.learner import Learner, LearnerReport
from megatron_pz.algorithm.rollouts import Game, Predictions, Proposals
from megatron_pz.algorithm.word_entropy import word_entropies
from megatron_pz.config.schema import MaskStrategy, RunConfig
from megatron_pz.corpus.passages import Passage, PassageBlend
from megatron_pz.corpus.sampler import PassageSampler
from megatron_pz.monitoring.timers import Timers
from megatron_pz.rl.advantages import group_advantages
from megatron_pz.rl.experience import Response, Role, ScoredGroup
from megatron_pz.roles.strategies import mask_strategy
from megatron_pz.rollout.logprob_mismatch import require_in_sync
from megatron_pz.trainer.policy import UpdateResult


@dataclass(frozen=True)
class Turn:
    """What this rank saw of one round of the game."""

    strategy: MaskStrategy
    """Who chose the masks."""
    passages: Sequence[Passage]
    """All that were drawn, the same on every rank."""
    proposals: list[Proposals]
    generator_rewards: list[list[float]]
    """For each proposal group the reward of each response."""
    predictions: list[Predictions]


@dataclass(frozen=True)
class StepReport:
    """Everything that can be said about a step, for the logs."""

    turns: list[Turn]
    groups: list[ScoredGroup]
    """What was learned from, over all ranks."""
    learners: list[LearnerReport]
    """One for each policy."""
    seconds: Timers = field(default_factory=Timers)
    seconds_generating: float = 0.0
    """Of the rollout, those that this rank spent in its engines."""

    @property
    def updates(self) -> list[UpdateResult]:
        """The optimizer steps of all policies."""
        return [update for learner in self.learners for update in learner.updates]


class PretrainZero:
    """The min-max game of one policy in two roles, or of two policies."""

    def __init__(
        self, config: RunConfig, game: Game, learners: list[Learner], passages: PassageBlend, sampler: PassageSampler
    ) -> None:
        self.config, self.game, self.learners, self.passages, self.sampler = config, game, learners, passages, sampler
        self.colocation = Colocation(
            [learner.policy for learner in learners],
            game.engines.values(),
            sleep=config.rollout.sleep_during_update,
            offload=config.optimizer.rl_offload_optimizer_during_inference,
        )

    def step(self, iteration: int) -> StepReport:
        """Play, learn, hand the new weights to the engines. ``iteration`` counts from 1. Collective over all ranks."""
        clock, generated_before = Timers(), self.game.seconds_generating
        with clock("rollout"):
            turns, groups = self.gather_experience(iteration)
        with clock("update"), self.colocation.trainer_works():
            learned = [learner.learn(groups, iteration) for learner in self.learners]
        report = StepReport(turns, groups, learned, clock, self.game.seconds_generating - generated_before)
        require_in_sync(report.updates, self.config.rollout.max_log_prob_difference, iteration)
        with clock("sync"), self.colocation.weights_travel():
            for learner, own in zip(self.learners, learned, strict=True):
                if own.updates:
                    self.game.engines[learner.roles[0]].sync()
        return report

    def gather_experience(self, iteration: int) -> tuple[list[Turn], list[ScoredGroup]]:
        """Play until there is enough to learn from: once, or with dynamic sampling a few times."""
        rules, turns, groups = self.config.game, [], []
        for draw in range(rules.max_sampling_rounds if rules.dynamic_sampling else 1):
            turns.append(self.play(self.draw_passages(), f"{iteration}.{draw}", mask_strategy(iteration, rules)))
            groups += self.experience(turns[-1])
            leading = "generator" if turns[-1].strategy == "active" else "predictor"
            if sum(group.role == leading for group in groups) >= rules.passages_per_step:
                break
        return turns, self.limit_predictor_groups(groups, iteration)

    def play(self, passages: Sequence[Passage], turn: str, strategy: MaskStrategy) -> Turn:
        """Both roles play (equations 6 and 7); the generator earns what the predictor misses (equations 8 and 9)."""
        proposals: list[Proposals] = []
        if strategy == "active":
            proposals = self.game.propose(passages, turn)
            masks = self.game.masks_of(proposals, turn)
        else:
            entropies = None
            if strategy == "entropy_next_token":
                limit = self.config.training.micro_batch_tokens
                entropies = word_entropies(self.learners[-1].policy, self.game.tokenizer, passages, limit)
            masks = self.game.passive_masks(passages, turn, strategy, entropies)
        predictions = self.game.predict(masks, turn)
        accuracy = self.game.accuracies(predictions)
        rewards = [
            self.game.generator.rewards(
                group.masks,
                [None if key is None else accuracy[key] for key in group.keys(self.config.game.share_equal_masks)],
                self.config.game,
            )
            for group in proposals
        ]
        return Turn(strategy, passages, proposals, rewards, predictions)

    def experience(self, turn: Turn) -> list[ScoredGroup]:
        """Group-relative advantages (equation 10) of both roles; groups without any are dropped.

        From all ranks, in the order of their places, whatever the number of ranks: minibatches and draws go by it.
        """
        mine = {
            ("generator", group.place, 0): self.score("generator", group.prompt_ids, group.responses, rewards)
            for group, rewards in zip(turn.proposals, turn.generator_rewards, strict=True)
        } | {
            ("predictor", *group.mask.key): self.score("predictor", group.prompt_ids, group.responses, group.rewards)
            for group in turn.predictions
        }
        scored = self.game.from_all_ranks([item for item in mine.items() if any(item[1].advantages)])
        return [group for _, group in sorted(scored, key=itemgetter(0))]

    def score(
        self, role: Role, prompt_ids: tuple[int, ...], responses: tuple[Response, ...], rewards: Sequence[float]
    ) -> ScoredGroup:
        """A group with its advantages."""
        advantages = group_advantages(rewards, self.config.grpo.advantage_scale)
        return ScoredGroup(role, prompt_ids, responses, tuple(rewards), tuple(advantages))

    def limit_predictor_groups(self, groups: list[ScoredGroup], iteration: int) -> list[ScoredGroup]:
        """At most ``max_predictor_groups`` of the predictor's groups, drawn at random, and all of the generator's."""
        most = self.config.game.max_predictor_groups
        predictor = [group for group in groups if group.role == "predictor"]
        if most and len(predictor) > most:
            predictor = random.Random(f"{self.config.training.seed} {iteration} limit").sample(predictor, most)
        return [group for group in groups if group.role == "generator"] + predictor

    def draw_passages(self) -> list[Passage]:
        """The next passages of the corpus, the same on every rank; those that hold a literal [mask] are passed over."""
        wanted = self.config.game.passages_per_step
        return self.sampler.draw_fitting(
            wanted, self.passages, lambda passage: self.game.spans.is_maskable(passage.text)
        )
