"""Run PretrainZero, one step at a time (arXiv 2512.03442, section 3); to be read beside the paper.

Departures from the paper, each a configuration field if there is a choice ("[C]" in ``config/schema.py``):

- Equation 10's second equality cannot hold, because the mean advantage of a group is zero. Its first part is used.
- A generator group is kept while its rewards differ, whatever the accuracies of its masks; otherwise the zero of
  equation 9 would never act. A predictor group with accuracy 0 or 1 carries no signal and is dropped.
- Token weights correct for the mismatch between rollout and trainer probabilities (truncated importance sampling).
- With ``generator_ahead``, which the paper does not have, the generator's samples are one update old, and the ratio of
  its tokens is against the weights that sampled them. With ``rollout_ranks`` this holds for both roles' samples.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from megatron_pz.algorithm.expert_ids import ReadIds
from megatron_pz.algorithm.learner import Learner
from megatron_pz.algorithm.pending_proposals import PendingProposals
from megatron_pz.algorithm.policy_step import PolicyStep, SyncedEngine
from megatron_pz.algorithm.rollouts import Draw, Mask, Predictions, Proposals, RolloutWorker
from megatron_pz.algorithm.stored_experience import (
    StoredExperience,
    StoredRound,
    expert_ids,
    names_of_ids,
    restored_calls,
    share,
    stored_calls,
    stored_groups,
)
from megatron_pz.algorithm.word_entropy import word_entropies
from megatron_pz.config.schema import MaskStrategy, PassiveStrategy, RunConfig
from megatron_pz.corpus.passages import Passage, PassageBlend
from megatron_pz.corpus.sampler import PassageSampler
from megatron_pz.rl.experience import Role, ScoredGroup
from megatron_pz.roles.strategies import mask_strategy


@dataclass(frozen=True)
class RolloutBatch:
    """This rank's share of one round of rollouts in both roles."""

    strategy: MaskStrategy
    """``active`` if the generator chose the masks, otherwise the passive strategy."""
    passages: Sequence[Passage]
    """All passages of the round, the same on every rank."""
    staleness: int
    """Age of the proposals' weights, in steps, relative to those of the predictions."""
    proposals: list[Proposals]
    generator_rewards: list[list[float]]
    """Reward of each response, by proposal group."""
    predictions: list[Predictions]
    rng_key: str
    """Name of the draw of passages."""
    age: int = 0
    """Age of the weights that sampled the predictions, in steps."""


class PretrainZero(PolicyStep[RolloutBatch]):
    """The min-max game between the two roles, played by one policy or by one policy each."""

    def __init__(
        self,
        config: RunConfig,
        worker: RolloutWorker,
        learners: list[Learner],
        passages: PassageBlend,
        sampler: PassageSampler,
        engines: Mapping[Role, SyncedEngine] | None = None,
    ) -> None:
        """Keep the parts of the run; ``engines`` receive the weights and default to the worker's."""
        super().__init__(config, worker, worker.sampler, worker.engines if engines is None else engines, learners)
        self.worker, self.passages, self.sampler = worker, passages, sampler
        self.pending: PendingProposals | None = None
        """Proposals of the next draw with active masks, if an earlier call has sampled them."""
        self.ready: StoredExperience | None = None
        """The next step's rollouts, if they have been sampled during the previous step."""
        self.ready_ids: Mapping[str, bytes] = {}
        """The expert ids of this rank's share of :attr:`ready`."""

    def gather_experience(self, iteration: int) -> tuple[list[RolloutBatch], list[ScoredGroup]]:
        """Roll out once, or with dynamic sampling until there are enough groups to learn from.

        Rollouts that were sampled during the previous step are used instead. They may come from rollout ranks that a
        resumed run no longer has.
        """
        if self.ready is not None:
            return self.experience_of(self.ready, iteration)
        game, rollouts, groups = self.config.game, [], []
        self.worker.calls.parts.clear()
        for number in range(game.max_sampling_rounds if game.dynamic_sampling else 1):
            rollouts.append(self.rollout(iteration, number))
            groups += self.experience(rollouts[-1])
            leading = "generator" if rollouts[-1].strategy == "active" else "predictor"
            if sum(group.role == leading for group in groups) >= game.passages_per_step:
                break
        return rollouts, self.limit_predictor_groups(groups, iteration)

    def rollout(self, iteration: int, number: int) -> RolloutBatch:
        """Sample both roles (equations 6 and 7) and reward them (equations 8 and 9).

        ``number`` counts the draws of the step. The call that samples the predictions may also sample the proposals of
        the next draw (:meth:`draw_ahead`); the proposals of this draw then come from an earlier call.
        """
        strategy, pending = mask_strategy(iteration, self.config.game), None
        if strategy == "active":
            pending, self.pending = self.pending, None
        draw = pending.draw if pending else Draw(self.draw_passages(), f"{iteration}.{number}")
        ahead = self.draw_ahead(iteration, number)
        proposals: list[Proposals] = []
        if strategy == "active" and not pending and not ahead:
            proposals, predictions = self.worker.play(draw)
        else:
            if strategy == "active":
                proposals = pending.proposals if pending else self.worker.propose(draw)
                masks = self.worker.masks_of(proposals, draw.rng_key)
            else:
                masks = self.passive_masks(draw, strategy)
            predictions, upcoming = self.worker.predict(masks, draw.rng_key, ahead)
            if ahead:
                self.pending = PendingProposals(ahead, upcoming, iteration)
        accuracy = self.worker.accuracies(predictions)
        rewards = [self.worker.generator_rewards(group, accuracy) for group in proposals]
        staleness = iteration - pending.iteration if pending else 0
        return RolloutBatch(strategy, draw.passages, staleness, proposals, rewards, predictions, draw.rng_key)

    def stored_share(self, rollouts: Sequence[RolloutBatch]) -> StoredExperience:
        """Return this rank's share of the rollouts as JSON values, with the parts that are equal on all ranks."""
        rounds = [
            {
                "strategy": batch.strategy,
                "rng_key": batch.rng_key,
                "passages": [passage.index for passage in batch.passages],
                "staleness": batch.staleness,
                **stored_groups(batch.proposals, batch.predictions),
            }
            for batch in rollouts
        ]
        drafts = list(dataclasses.astuple(self.take_draft_counts()))
        ids: dict[str, bytes] = {}
        for number, batch in enumerate(rollouts):
            ids |= expert_ids(number, batch.proposals, batch.predictions)
        return {
            "rounds": rounds,
            "calls": stored_calls(self.worker.calls.parts),
            "drafts": drafts,
            "expert_ids": ids,
        }

    def experience_of(self, stored: StoredExperience, iteration: int) -> tuple[list[RolloutBatch], list[ScoredGroup]]:
        """Return the step's experience from stored rollouts, of which each rank takes an equal share. Collective."""
        calls = restored_calls(stored["calls"])
        self.worker.calls.parts[:] = calls
        self.worker.sampler.seconds_generating += sum(max(part.seconds for part in call) for call in calls)
        rollouts = [
            self.restored(each, number, iteration - stored["iteration"]) for number, each in enumerate(stored["rounds"])
        ]
        self.ready, self.ready_ids = None, {}
        groups = [group for batch in rollouts for group in self.experience(batch)]
        return rollouts, self.limit_predictor_groups(groups, iteration)

    def restored(self, stored: StoredRound, number: int, age: int) -> RolloutBatch:
        """Read and score this rank's share of the stored round ``number``. Collective."""
        place = self.ready_ids, self.worker.topology.rank, self.worker.topology.world_size
        strategy: MaskStrategy = stored["strategy"]
        draw = Draw([self.passages[index] for index in stored["passages"]], stored["rng_key"])
        proposals = [
            self.worker.read_again(draw, index, responses)
            for (index,), responses in share(stored, number, "proposals", *place).items()
        ]
        if strategy == "active":
            masks = self.worker.masks_of(proposals, draw.rng_key)
        else:
            masks = self.passive_masks(draw, strategy)
        responses = share(stored, number, "predictions", *place)
        predictions = [self.worker.score_again(mask, responses[mask.key]) for mask in masks if mask.key in responses]
        accuracy = self.worker.accuracies(predictions)
        rewards = [self.worker.generator_rewards(group, accuracy) for group in proposals]
        return RolloutBatch(
            strategy, draw.passages, stored["staleness"], proposals, rewards, predictions, draw.rng_key, age
        )

    def draw_ahead(self, iteration: int, number: int) -> Draw | None:
        """Draw the passages whose proposals this call samples one draw ahead; return none in the last step.

        With dynamic sampling the same step may use these proposals, which then are as recent as its others. Otherwise
        the next step uses them. The passive warm-up needs such a draw only in its last step.
        """
        training, game = self.config.training, self.config.game
        if (
            not self.config.rollout.generator_ahead
            or self.pending
            or iteration >= training.train_iters
            or mask_strategy(iteration + 1, game) != "active"
        ):
            return None
        return Draw(self.draw_passages(), f"{iteration}.{number} ahead")

    def state_dict(self) -> dict[str, Any]:
        """Return the state that the next step's rollouts depend on, besides weights and the position in the corpus.

        The result can be written as JSON. Expert ids are returned separately (:meth:`expert_ids`). Collective.
        """
        pending = self.pending.state_dict(self.worker) if self.pending else None
        return {"mean_lengths": self.worker.calls.lengths.state_dict(), "pending": pending, "ready": self.ready}

    def expert_ids(self) -> dict[str, bytes]:
        """Return the expert ids of this rank's part of the state, by name."""
        ids = {**(self.pending.expert_ids() if self.pending else {}), **self.ready_ids}
        return {name: each for name, each in ids.items() if each}

    def load_state_dict(self, state: dict[str, Any], read: ReadIds) -> None:
        """Restore a saved state. Pending proposals are learned from even if the run no longer samples ahead.

        Args:
            read: returns the expert ids of a name that :meth:`expert_ids` returned on any rank.
        """
        self.worker.calls.lengths.load_state_dict(state["mean_lengths"])
        pending = state["pending"]
        self.pending = PendingProposals.of_state(pending, self.worker, self.passages, read) if pending else None
        self.ready = state.get("ready")  # checkpoints of earlier versions have none
        self.ready_ids = read(self.names_of_share(self.ready)) if self.ready else {}

    def names_of_share(self, stored: StoredExperience) -> list[str]:
        """Return the names of the expert ids of this rank's share of stored rollouts."""
        return names_of_ids(stored["rounds"], self.worker.topology.rank, self.worker.topology.world_size)

    def passive_masks(self, draw: Draw, strategy: PassiveStrategy) -> list[Mask]:
        """Draw the masks of a step without a generator; entropy strategies use the current policy."""
        entropies = None
        if strategy == "entropy_next_token":
            limit = self.config.training.micro_batch_tokens
            entropies = word_entropies(self.learners[-1].policy, self.worker.tokenizer, draw.passages, limit)
        return self.worker.passive_masks(draw, strategy, entropies)

    def experience(self, batch: RolloutBatch) -> list[ScoredGroup]:
        """Compute the group-relative advantages (equation 10) of both roles and drop groups whose advantages are all 0.

        Return the groups of all ranks in the order of their passages and masks. This order does not depend on the
        number of ranks, because minibatches and random draws depend on it.
        """
        mine = {
            ("generator", group.passage_index, 0): self.score(
                "generator", group.prompt_ids, group.responses, rewards, batch.age + batch.staleness
            )
            for group, rewards in zip(batch.proposals, batch.generator_rewards, strict=True)
        } | {
            ("predictor", *group.mask.key): self.score(
                "predictor", group.prompt_ids, group.responses, group.rewards, batch.age
            )
            for group in batch.predictions
        }
        return self.gathered(mine)

    def limit_predictor_groups(self, groups: list[ScoredGroup], iteration: int) -> list[ScoredGroup]:
        """Keep all generator groups and a random draw of at most ``max_predictor_groups`` predictor groups."""
        most = self.config.game.max_predictor_groups
        predictor = [group for group in groups if group.role == "predictor"]
        if most and len(predictor) > most:
            predictor = random.Random(f"{self.config.training.seed} {iteration} limit").sample(predictor, most)
        return [group for group in groups if group.role == "generator"] + predictor

    def draw_passages(self) -> list[Passage]:
        """Draw the next passages, the same on every rank. Skip passages that contain a literal [mask]."""
        wanted, spans = self.config.game.passages_per_step, self.worker.sampler.spans
        return self.sampler.draw_fitting(wanted, self.passages, lambda passage: spans.is_maskable(passage.text))
