"""PretrainZero, one step at a time (arXiv 2512.03442, section 3). Read it beside the paper.

Departures from the paper, each a configuration field where there is a choice ("[C]" in ``config/schema.py``):

- Equation 10's second equality cannot hold, because the mean advantage of a group is zero. Its first part is used.
- A generator group is kept while its rewards differ, whatever the accuracies of its masks; otherwise the zero of
  equation 9 would never act. A predictor group with accuracy 0 or 1 carries no signal and is dropped.
- Token weights correct for the mismatch between rollout and trainer probabilities (truncated importance sampling).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter

from megatron_pz.algorithm.learner import Learner
from megatron_pz.algorithm.policy_step import PolicyStep
from megatron_pz.algorithm.rollouts import Predictions, Proposals, RolloutWorker
from megatron_pz.algorithm.word_entropy import word_entropies
from megatron_pz.config.schema import MaskStrategy, RunConfig
from megatron_pz.corpus.passages import Passage, PassageBlend
from megatron_pz.corpus.sampler import PassageSampler
from megatron_pz.rl.experience import ScoredGroup
from megatron_pz.roles.strategies import mask_strategy


@dataclass(frozen=True)
class RolloutBatch:
    """This rank's share of one round of rollouts in both roles."""

    strategy: MaskStrategy
    """``active`` where the generator chose the masks, else the passive strategy."""
    passages: Sequence[Passage]
    """All passages of the round, the same on every rank."""
    proposals: list[Proposals]
    generator_rewards: list[list[float]]
    """For each proposal group the reward of each response."""
    predictions: list[Predictions]


class PretrainZero(PolicyStep[RolloutBatch]):
    """The min-max game between the two roles, played by one policy or by one policy each."""

    def __init__(
        self,
        config: RunConfig,
        worker: RolloutWorker,
        learners: list[Learner],
        passages: PassageBlend,
        sampler: PassageSampler,
    ) -> None:
        super().__init__(config, worker.sampler, worker.engines, learners)
        self.worker, self.passages, self.sampler = worker, passages, sampler

    def gather_experience(self, iteration: int) -> tuple[list[RolloutBatch], list[ScoredGroup]]:
        """Roll out once, or with dynamic sampling until there are enough groups to learn from."""
        game, rollouts, groups = self.config.game, [], []
        for draw in range(game.max_sampling_rounds if game.dynamic_sampling else 1):
            rollouts.append(self.rollout(self.draw_passages(), f"{iteration}.{draw}", mask_strategy(iteration, game)))
            groups += self.experience(rollouts[-1])
            leading = "generator" if rollouts[-1].strategy == "active" else "predictor"
            if sum(group.role == leading for group in groups) >= game.passages_per_step:
                break
        return rollouts, self.limit_predictor_groups(groups, iteration)

    def rollout(self, passages: Sequence[Passage], rng_key: str, strategy: MaskStrategy) -> RolloutBatch:
        """Sample both roles (equations 6 and 7) and reward them (equations 8 and 9)."""
        proposals: list[Proposals] = []
        if strategy == "active":
            proposals = self.worker.propose(passages, rng_key)
            masks = self.worker.masks_of(proposals, rng_key)
        else:
            entropies = None
            if strategy == "entropy_next_token":
                limit = self.config.training.micro_batch_tokens
                entropies = word_entropies(self.learners[-1].policy, self.worker.tokenizer, passages, limit)
            masks = self.worker.passive_masks(passages, rng_key, strategy, entropies)
        predictions = self.worker.predict(masks, rng_key)
        accuracy = self.worker.accuracies(predictions)
        rewards = [self.worker.generator_rewards(group, accuracy) for group in proposals]
        return RolloutBatch(strategy, passages, proposals, rewards, predictions)

    def experience(self, batch: RolloutBatch) -> list[ScoredGroup]:
        """Compute the group-relative advantages (equation 10) of both roles and drop groups without any.

        Returns the groups of all ranks in the order of their passages and masks, for any number of ranks, because
        minibatches and random draws depend on that order.
        """
        mine = {
            ("generator", group.passage_index, 0): self.score("generator", group.prompt_ids, group.responses, rewards)
            for group, rewards in zip(batch.proposals, batch.generator_rewards, strict=True)
        } | {
            ("predictor", *group.mask.key): self.score("predictor", group.prompt_ids, group.responses, group.rewards)
            for group in batch.predictions
        }
        scored = self.worker.from_all_ranks([item for item in mine.items() if any(item[1].advantages)])
        return [group for _, group in sorted(scored, key=itemgetter(0))]

    def limit_predictor_groups(self, groups: list[ScoredGroup], iteration: int) -> list[ScoredGroup]:
        """Keep all generator groups and a random draw of at most ``max_predictor_groups`` predictor groups."""
        most = self.config.game.max_predictor_groups
        predictor = [group for group in groups if group.role == "predictor"]
        if most and len(predictor) > most:
            predictor = random.Random(f"{self.config.training.seed} {iteration} limit").sample(predictor, most)
        return [group for group in groups if group.role == "generator"] + predictor

    def draw_passages(self) -> list[Passage]:
        """Draw the next passages, the same on every rank; passages with a literal [mask] are skipped."""
        wanted, spans = self.config.game.passages_per_step, self.worker.sampler.spans
        return self.sampler.draw_fitting(wanted, self.passages, lambda passage: spans.is_maskable(passage.text))
