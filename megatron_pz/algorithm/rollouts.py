"""Playing a step's game over all ranks: who asks the engine what, and how the ranks' results come together.

Every rank has an engine and plays its share of the prompts; what the ranks exchange is compact (spans, rewards and the
groups that will be trained on). Nothing here depends on how the trainer's model is laid out. Every prompt's random
numbers come from (seed, turn, role, its place in the turn), so a step repeats exactly, whatever ran before. A turn is
one round of the game: the step's iteration, and with dynamic sampling the number of the draw within it.
"""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from megatron_pz.config.schema import PassiveStrategy, RunConfig
from megatron_pz.corpus.passages import Passage
from megatron_pz.rl.experience import Response, Role
from megatron_pz.roles.mask_generator import MaskGenerator, MaskProposal
from megatron_pz.roles.mask_predictor import MaskPredictor
from megatron_pz.roles.prompts import PromptFamily
from megatron_pz.roles.spans import MaskedPassage, SpanRules
from megatron_pz.roles.strategies import passive_mask
from megatron_pz.rollout.fault_tolerance import RestartingEngine
from megatron_pz.trainer.topology import Topology

Item = TypeVar("Item")

MaskKey = tuple[int, int]
"""Place of the passage in the step, and of the mask among the passage's proposals."""


class Tokenizer(Protocol):
    """What is asked of a Hugging Face tokenizer."""

    def encode(self, text: str, add_special_tokens: bool = ...) -> list[int]: ...


@dataclass(frozen=True)
class Proposals:
    """The mask generator's rollouts on one passage."""

    place: int
    """Place of the passage in the step."""
    passage: Passage
    prompt_ids: tuple[int, ...]
    responses: tuple[Response, ...]
    masks: tuple[MaskProposal, ...]
    """What each response proposes."""

    def keys(self, share_equal: bool) -> list[MaskKey | None]:
        """For each response the key of its mask, None where it has none; equal spans may share the first one's."""
        spans = [mask.span for mask in self.masks]
        return [
            None if span is None else (self.place, spans.index(span) if share_equal else sample)
            for sample, span in enumerate(spans)
        ]


@dataclass(frozen=True)
class Mask:
    """One question for the predictor."""

    key: MaskKey
    masked: MaskedPassage


@dataclass(frozen=True)
class Predictions:
    """The mask predictor's rollouts on one mask, with the reward of each (equation 8)."""

    mask: Mask
    prompt_ids: tuple[int, ...]
    responses: tuple[Response, ...]
    rewards: tuple[float, ...]

    @property
    def accuracy(self) -> float:
        """Mean reward of the group."""
        return sum(self.rewards) / len(self.rewards)


class Game:
    """Both roles of one step, played on this rank's engines and shared with the other ranks."""

    def __init__(
        self, config: RunConfig, tokenizer: Tokenizer, engines: Mapping[Role, RestartingEngine], topology: Topology
    ) -> None:
        """``engines``: of each role; one and the same where one policy plays both."""
        self.config, self.tokenizer, self.engines, self.topology = config, tokenizer, engines, topology
        self.spans = SpanRules.from_config(config.game)
        family = PromptFamily.load(config.game.prompt_family)
        self.generator = MaskGenerator(self.spans, family)
        self.predictor = MaskPredictor(family, config.game.answer_normalization)
        self.seconds_generating = 0.0
        """Wall time that this rank has spent in its engines so far."""

    def propose(self, passages: Sequence[Passage], turn: str) -> list[Proposals]:
        """The generator's rollouts on this rank's share of the step's passages: m ~ pi(. | s)."""
        places = self._my_share(len(passages))
        prompts = [self.encode(self.generator.prompt(passages[place].text)) for place in places]
        seeds = [self._seed(turn, "generator", place) for place in places]
        sampled = self._generate("generator", prompts, self.config.game.masks_per_passage, seeds)
        return [
            Proposals(
                place,
                passages[place],
                tuple(prompt),
                tuple(responses),
                tuple(
                    self.generator.read(response.text, response.truncated, passages[place].text)
                    for response in responses
                ),
            )
            for place, prompt, responses in zip(places, prompts, sampled, strict=True)
        ]

    def masks_of(self, proposals: Sequence[Proposals], turn: str) -> list[Mask]:
        """The questions that all ranks' valid proposals ask, in the order of their keys. Collective."""
        mine = [
            Mask(key, self.spans.apply(span, group.passage.text, self._random(turn, "place", *key)))
            for group in proposals
            for key, span in {
                key: mask.span
                for key, mask in zip(group.keys(self.config.game.share_equal_masks), group.masks, strict=True)
                if key is not None and mask.span is not None
            }.items()
        ]
        return sorted(self.from_all_ranks(mine), key=lambda mask: mask.key)

    def passive_masks(
        self,
        passages: Sequence[Passage],
        turn: str,
        strategy: PassiveStrategy,
        entropies: Sequence[Sequence[float]] | None = None,
    ) -> list[Mask]:
        """The same number of questions, drawn by a passive strategy instead (the paper's baselines).

        ``entropies``: of each passage, as ``word_entropies`` has them, for the strategy
        that needs them.
        """
        share = self.config.game.entropy_top_share
        keys = [
            (place, sample) for place in range(len(passages)) for sample in range(self.config.game.masks_per_passage)
        ]
        drawn = [
            (
                key,
                passive_mask(
                    strategy,
                    passages[key[0]].text,
                    self.spans,
                    self._random(turn, strategy, *key),
                    entropies[key[0]] if entropies else (),
                    share,
                ),
            )
            for key in keys
        ]
        return [Mask(key, masked) for key, masked in drawn if masked is not None]

    def predict(self, masks: Sequence[Mask], turn: str) -> list[Predictions]:
        """The predictor's rollouts on this rank's share of the masks: x ~ psi(. | m, s), each with its reward."""
        share = [masks[index] for index in self._my_share(len(masks))]
        prompts = [self.encode(self.predictor.prompt(mask.masked)) for mask in share]
        seeds = [self._seed(turn, "predictor", *mask.key) for mask in share]
        sampled = self._generate("predictor", prompts, self.config.game.grpo_group_size, seeds)
        return [
            Predictions(
                mask,
                tuple(prompt),
                tuple(responses),
                tuple(
                    self.predictor.reward(response.text, response.truncated, mask.masked.span) for response in responses
                ),
            )
            for mask, prompt, responses in zip(share, prompts, sampled, strict=True)
        ]

    def accuracies(self, predictions: Sequence[Predictions]) -> dict[MaskKey, float]:
        """Mean predictor reward of every mask of the step, from all ranks. Collective."""
        return dict(self.from_all_ranks([(group.mask.key, group.accuracy) for group in predictions]))

    def from_all_ranks(self, mine: list[Item]) -> list[Item]:
        """Every rank's items, in the order of the ranks. Collective."""
        return [item for part in self.topology.all_gather_object(mine) for item in part]

    def _my_share(self, items: int) -> range:
        return range(self.topology.rank, items, self.topology.world_size)

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, without special tokens."""
        return self.tokenizer.encode(text, add_special_tokens=False)

    def _generate(self, role: Role, prompts: list[list[int]], n: int, seeds: list[int]) -> list[list[Response]]:
        start = time.perf_counter()
        sampled = self.engines[role].generate(
            prompts,
            n,
            seeds=seeds,
            max_tokens=self.config.rollout.longest_response(role),
            stop=self.generator.family.stop,
        )
        self.seconds_generating += time.perf_counter() - start
        return sampled

    def _seed(self, *identity: object) -> int:
        """31 bits that depend on the run's seed and on what the numbers are for."""
        text = " ".join(map(str, (self.config.training.seed, *identity)))
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4]) >> 1

    def _random(self, *identity: object) -> random.Random:
        return random.Random(self._seed(*identity))
