"""The rollouts of a step over all ranks: which rank samples which prompts, and how their results are combined.

Every rank samples its share of the prompts from its own engine. The ranks exchange spans, rewards and the groups that
are trained on, never logits or weights. Nothing here depends on the trainer's parallel layout.

Every sample is drawn with a seed of (run seed, rng_key, role, index), so a step repeats exactly, whatever ran before
it. The ``rng_key`` names the rollout batch: the step's iteration and, with dynamic sampling, the number of the draw
within it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from megatron_pz.algorithm.rank_shares import RankShares
from megatron_pz.algorithm.role_sampler import PredictedMask, ProposedMasks, RoleSampler, Tokenizer
from megatron_pz.config.schema import GameConfig, PassiveStrategy, RolloutConfig
from megatron_pz.corpus.passages import Passage
from megatron_pz.rl.experience import Role
from megatron_pz.rl.statistics import GAME_ROLES
from megatron_pz.roles.spans import MaskedPassage
from megatron_pz.roles.strategies import passive_mask
from megatron_pz.rollout.fault_tolerance import RestartingEngine
from megatron_pz.trainer.topology import Topology

MaskKey = tuple[int, int]
"""Index of the passage in the step, and index of the mask among the passage's proposals."""


@dataclass(frozen=True)
class Proposals(ProposedMasks):
    """The mask generator's responses to one passage of the step."""

    passage_index: int
    """Index of the passage in the step."""
    passage: Passage

    def keys(self, share_equal: bool) -> list[MaskKey | None]:
        """Return the key of each response's mask, None where it has none.

        With ``share_equal``, responses that propose the same span share the first one's key.
        """
        spans = [mask.span for mask in self.masks]
        return [
            None if span is None else (self.passage_index, spans.index(span) if share_equal else sample)
            for sample, span in enumerate(spans)
        ]


@dataclass(frozen=True)
class Mask:
    """One masked passage for the predictor."""

    key: MaskKey
    masked: MaskedPassage


@dataclass(frozen=True)
class Predictions(PredictedMask):
    """The mask predictor's responses to one mask of the step, with the reward of each (equation 8)."""

    mask: Mask


class RolloutWorker(RankShares):
    """Samples this rank's share of a step's rollouts in both roles and exchanges the results with the other ranks."""

    def __init__(
        self,
        game: GameConfig,
        rollout: RolloutConfig,
        seed: int,
        tokenizer: Tokenizer,
        engines: Mapping[Role, RestartingEngine],
        topology: Topology,
    ) -> None:
        """Prepare the prompts. ``engines``: one per role, the same one twice where one policy plays both."""
        super().__init__(seed, topology)
        self.game, self.tokenizer, self.engines = game, tokenizer, engines
        lengths = {role: rollout.longest_response(role) for role in GAME_ROLES}
        self.sampler = RoleSampler(game, tokenizer, engines, lengths)

    def propose(self, passages: Sequence[Passage], rng_key: str) -> list[Proposals]:
        """Sample the generator on this rank's share of the step's passages: m ~ pi(. | s)."""
        share = self.my_share(len(passages))
        seeds = [self.seed_of(rng_key, "generator", index) for index in share]
        sampled = self.sampler.propose([passages[index].text for index in share], self.game.masks_per_passage, seeds)
        return [
            Proposals(each.prompt_ids, each.responses, each.masks, index, passages[index])
            for index, each in zip(share, sampled, strict=True)
        ]

    def masks_of(self, proposals: Sequence[Proposals], rng_key: str) -> list[Mask]:
        """Collect the valid masks of all ranks, sorted by key. Collective."""
        mine = [
            Mask(key, self.sampler.spans.apply(span, group.passage.text, self.random(rng_key, "place", *key)))
            for group in proposals
            for key, span in {
                key: mask.span
                for key, mask in zip(group.keys(self.game.share_equal_masks), group.masks, strict=True)
                if key is not None and mask.span is not None
            }.items()
        ]
        return sorted(self.from_all_ranks(mine), key=lambda mask: mask.key)

    def passive_masks(
        self,
        passages: Sequence[Passage],
        rng_key: str,
        strategy: PassiveStrategy,
        entropies: Sequence[Sequence[float]] | None = None,
    ) -> list[Mask]:
        """Draw as many masks by a passive strategy, one of the paper's baselines, the same on every rank.

        ``entropies``: for ``entropy_next_token``, per passage, as
        :func:`~megatron_pz.algorithm.word_entropy.word_entropies` returns them.
        """
        keys = [(index, sample) for index in range(len(passages)) for sample in range(self.game.masks_per_passage)]
        drawn = [
            (
                key,
                passive_mask(
                    strategy,
                    passages[key[0]].text,
                    self.sampler.spans,
                    self.random(rng_key, strategy, *key),
                    entropies[key[0]] if entropies else (),
                    self.game.entropy_top_share,
                ),
            )
            for key in keys
        ]
        return [Mask(key, masked) for key, masked in drawn if masked is not None]

    def predict(self, masks: Sequence[Mask], rng_key: str) -> list[Predictions]:
        """Sample the predictor on this rank's share of the masks: x ~ psi(. | m, s), each with its reward."""
        share = [masks[index] for index in self.my_share(len(masks))]
        seeds = [self.seed_of(rng_key, "predictor", *mask.key) for mask in share]
        sampled = self.sampler.predict([mask.masked for mask in share], self.game.grpo_group_size, seeds)
        return [
            Predictions(each.prompt_ids, each.responses, each.rewards, mask)
            for mask, each in zip(share, sampled, strict=True)
        ]

    def accuracies(self, predictions: Sequence[Predictions]) -> dict[MaskKey, float]:
        """Return the mean predictor reward of every mask of the step. Collective."""
        return dict(self.from_all_ranks([(group.mask.key, group.accuracy) for group in predictions]))

    def generator_rewards(self, group: Proposals, accuracy: Mapping[MaskKey, float]) -> list[float]:
        """Reward each response of a generator group by the accuracy of its mask (equation 9)."""
        keys = group.keys(self.game.share_equal_masks)
        accuracies = [None if key is None else accuracy[key] for key in keys]
        return self.sampler.generator.rewards(group.masks, accuracies, self.game)
