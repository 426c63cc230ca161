"""Prompt, sample and read both roles, and score the predictor (equation 8).

Training (:mod:`.rollouts`), the held-out evaluation and ``tools/play.py`` all sample through :class:`RoleSampler`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from megatron_pz.config.schema import GameConfig
from megatron_pz.rl.experience import Response, Role
from megatron_pz.roles.mask_generator import MaskGenerator, MaskProposal
from megatron_pz.roles.mask_predictor import MaskPredictor
from megatron_pz.roles.prompts import PromptFamily
from megatron_pz.roles.spans import MaskedPassage, SpanRules
from megatron_pz.rollout.protocol import Engine


class Tokenizer(Protocol):
    """The part of a Hugging Face tokenizer that encodes prompts."""

    def encode(self, text: str, add_special_tokens: bool = ...) -> list[int]:
        """Return the token ids of a text."""


@dataclass(frozen=True)
class ProposedMasks:
    """The mask generator's n responses to one passage, read."""

    prompt_ids: tuple[int, ...]
    responses: tuple[Response, ...]
    masks: tuple[MaskProposal, ...]
    """The mask that each response proposes."""


@dataclass(frozen=True)
class PredictedMask:
    """The mask predictor's n responses to one masked passage, scored (equation 8)."""

    prompt_ids: tuple[int, ...]
    responses: tuple[Response, ...]
    rewards: tuple[float, ...]
    """1.0 for an exact match, else 0.0; one per response."""

    @property
    def accuracy(self) -> float:
        """Return the mean reward of the responses."""
        return sum(self.rewards) / len(self.rewards)


class EngineSampler:
    """Encodes prompts, samples responses from this rank's engines, and accumulates the sampling time."""

    def __init__(
        self, tokenizer: Tokenizer, engines: Mapping[Role, Engine], max_response_length: Mapping[Role, int]
    ) -> None:
        """
        Keep the engines.

        Args:
            tokenizer: encodes the prompts, as plain completion prompts without special tokens.
            engines: the engine of each role; the same one if one policy plays several roles.
            max_response_length: maximum number of tokens of a response of each role.
        """
        self.tokenizer, self.engines, self.max_response_length = tokenizer, engines, max_response_length
        self.seconds_generating = 0.0
        """Wall time that this rank has spent in its engines so far."""

    def encode(self, text: str) -> list[int]:
        """Return the token ids of a text, without special tokens."""
        return self.tokenizer.encode(text, add_special_tokens=False)

    def sample(
        self, role: Role, prompts: Sequence[Sequence[int]], n: int, seeds: Sequence[int], stop: Sequence[str]
    ) -> list[list[Response]]:
        """Sample n responses of the role to each prompt. Calls the engine even without prompts (a collective)."""
        start = time.perf_counter()
        sampled = self.engines[role].generate(
            prompts, n, seeds=seeds, max_tokens=self.max_response_length[role], stop=stop
        )
        self.seconds_generating += time.perf_counter() - start
        return sampled


class RoleSampler(EngineSampler):
    """Samples both roles of the game and reads their responses."""

    def __init__(
        self,
        game: GameConfig,
        tokenizer: Tokenizer,
        engines: Mapping[Role, Engine],
        max_response_length: Mapping[Role, int],
    ) -> None:
        """Load the prompts and the span rules.

        Args:
            game: span rules, prompt family and answer normalization.
            tokenizer: encodes the prompts, as plain completion prompts without special tokens.
            engines: the engine of each role; the same one if one policy plays both.
            max_response_length: maximum number of tokens of a response of each role.

        Raises:
            BadInput: the prompt family or the span rules cannot be used.
        """
        super().__init__(tokenizer, engines, max_response_length)
        self.spans = SpanRules.from_config(game)
        self.family = PromptFamily.load(game.prompt_family)
        self.generator = MaskGenerator(self.spans, self.family)
        self.predictor = MaskPredictor(self.family, game.answer_normalization)

    def generator_prompt(self, passage: str) -> list[int]:
        """Return the token ids of the generator's prompt."""
        return self.encode(self.generator.prompt(passage))

    def predictor_prompt(self, masked: MaskedPassage) -> list[int]:
        """Return the token ids of the predictor's prompt."""
        return self.encode(self.predictor.prompt(masked))

    def propose(self, passages: Sequence[str], n: int, seeds: Sequence[int]) -> list[ProposedMasks]:
        """Sample n masks for each passage: m ~ pi(. | s). Calls the engine even without passages (a collective)."""
        prompts = [self.generator_prompt(passage) for passage in passages]
        sampled = self.sample("generator", prompts, n, seeds, self.family.stop)
        return list(map(self.read, passages, prompts, sampled))

    def predict(self, masked: Sequence[MaskedPassage], n: int, seeds: Sequence[int]) -> list[PredictedMask]:
        """Sample n predictions of each mask: x ~ psi(. | m, s). Calls the engine even without masks (a collective)."""
        prompts = [self.predictor_prompt(each) for each in masked]
        sampled = self.sample("predictor", prompts, n, seeds, self.family.stop)
        return list(map(self.score, masked, prompts, sampled))

    def read(self, passage: str, prompt: Sequence[int], responses: Sequence[Response]) -> ProposedMasks:
        """Read the masks that responses to a passage's prompt propose."""
        masks = (self.generator.read(response.text, response.truncated, passage) for response in responses)
        return ProposedMasks(tuple(prompt), tuple(responses), tuple(masks))

    def score(self, masked: MaskedPassage, prompt: Sequence[int], responses: Sequence[Response]) -> PredictedMask:
        """Reward responses to a masked passage's prompt (equation 8)."""
        rewards = (self.predictor.reward(response.text, response.truncated, masked.span) for response in responses)
        return PredictedMask(tuple(prompt), tuple(responses), tuple(rewards))
