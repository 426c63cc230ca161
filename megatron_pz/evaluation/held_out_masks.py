r"""How well a policy plays both roles on held-out passages.

Two things are measured. *Its own game*: the policy masks each passage and predicts its own masks; validity, reward
(equation 9) and accuracy come from here, but the difficulty is the policy's own choice. *Fixed masks*: the same hidden
words for every policy (:mod:`megatron_pz.roles.held_out`), so that accuracies can be compared.

What every passage gave is kept, so that two evaluations can be compared pair by pair (:mod:`.summary`). Every sample's
seed is drawn from its passage's text: the split of the passages over ranks does not enter.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from megatron_pz.config.schema import GameConfig
from megatron_pz.evaluation.results import (
    Evaluation,
    EvaluationSettings,
    MaskPredictions,
    OwnMask,
    PassageResult,
    rules_of,
)
from megatron_pz.rl.experience import Response
from megatron_pz.roles.answers import last_command
from megatron_pz.roles.held_out import Kind, held_out_masks
from megatron_pz.roles.mask_generator import MaskGenerator, MaskProposal, generator_reward
from megatron_pz.roles.mask_predictor import MaskPredictor
from megatron_pz.roles.prompts import PromptFamily
from megatron_pz.roles.spans import MaskedPassage, SpanRules, is_subword
from megatron_pz.roles.words import FUNCTION_WORDS
from megatron_pz.runtime.errors import BadInput

Key = TypeVar("Key")


class Engine(Protocol):
    """What is needed of a rollout engine."""

    def generate(
        self, prompts: Sequence[Sequence[int]], n: int, *, seeds: Sequence[int], max_tokens: int, stop: Sequence[str]
    ) -> list[list[Response]]:
        """n responses for each prompt, sampled at temperature 1; sample k of a prompt uses its seed plus k."""


class Tokenizer(Protocol):
    """What is needed of a Hugging Face tokenizer."""

    def encode(self, text: str, add_special_tokens: bool = ...) -> list[int]:
        """Token ids of a text."""


def evaluate(
    name: str,
    engine: Engine,
    tokenizer: Tokenizer,
    passages: Sequence[str],
    game: GameConfig,
    settings: EvaluationSettings,
    *,
    generator: Engine | None = None,
) -> Evaluation:
    """Evaluate the policy that the engine holds on ``passages`` (this rank's share); results keep their order.

    Where each role has a policy, ``engine`` holds the predictor's and ``generator`` the generator's.

    Raises :class:`BadInput` for a passage whose generator prompt is longer than ``settings.max_prompt_length``;
    :func:`megatron_pz.evaluation.passages.choose` picks passages that fit.
    """
    evaluator = _Evaluator(
        generator or engine, engine, tokenizer, PromptFamily.load(game.prompt_family), game, settings
    )
    own = evaluator.own_game(passages)
    repeated = evaluator.fixed_masks(passages, "repeated")
    once = evaluator.fixed_masks(passages, "once")
    results = [PassageResult(text, own[i], repeated.get(i), once.get(i)) for i, text in enumerate(passages)]
    return Evaluation(name, settings, tuple(results), rules_of(game))


@dataclass(frozen=True)
class _Evaluator:
    """The engines, the rules and the settings of one evaluation."""

    generator_engine: Engine
    predictor_engine: Engine
    tokenizer: Tokenizer
    family: PromptFamily
    game: GameConfig
    settings: EvaluationSettings

    def own_game(self, passages: Sequence[str]) -> list[tuple[OwnMask, ...]]:
        """Generator rollouts for every passage, each valid mask predicted."""
        policy = SpanRules.from_config(self.game)
        generator = MaskGenerator(policy, self.family)
        prompts = [self._encode(generator.prompt(text)) for text in passages]
        for prompt, text in zip(prompts, passages, strict=True):
            if len(prompt) > self.settings.max_prompt_length:
                raise BadInput(
                    f"the prompt of the held-out passage {text[:40]!r}… has {len(prompt)} tokens, more than "
                    f"max_prompt_length {self.settings.max_prompt_length}"
                )
        seeds = [self._number("generator", text) for text in passages]
        longest = self.settings.generator_max_response_length or self.settings.max_response_length
        rollouts = self._sample(self.generator_engine, prompts, seeds, self.settings.masks_per_passage, longest)

        proposals: dict[tuple[int, int], MaskProposal] = {}
        questions: dict[tuple[int, int], MaskedPassage] = {}
        for index, (text, responses) in enumerate(zip(passages, rollouts, strict=True)):
            for k, response in enumerate(responses):
                proposal = proposals[index, k] = generator.read(response.text, response.truncated, text)
                if proposal.span is not None:
                    place = random.Random(self._number(f"place {k}", text))
                    questions[index, k] = policy.apply(proposal.span, text, place)
        purposes = {key: f"own {key[1]}" for key in questions}
        predictions = self._predict(questions, self.settings.predictions_per_mask, purposes)
        return [
            tuple(
                self._own_mask(text, proposals[index, k], response, predictions.get((index, k)))
                for k, response in enumerate(rollouts[index])
            )
            for index, text in enumerate(passages)
        ]

    def _own_mask(
        self, text: str, proposal: MaskProposal, response: Response, predictions: MaskPredictions | None
    ) -> OwnMask:
        span = proposal.span
        return OwnMask(
            fault=proposal.fault.value,
            predictions=predictions,
            reward=generator_reward(predictions.accuracy, self.game.generator_reward) if predictions else 0.0,
            sub_word=span is not None and is_subword(span, text),
            function_word=span is not None and span.casefold() in FUNCTION_WORDS,
            length=len(response.token_ids),
            entropy=-sum(response.log_probs) / max(1, len(response.log_probs)),
        )

    def fixed_masks(self, passages: Sequence[str], kind: Kind) -> dict[int, MaskPredictions]:
        """Predictions of the passages' fixed masks of one kind, by the passage's index."""
        samples = {"repeated": self.settings.samples_per_repeated_word, "once": self.settings.samples_per_once_word}
        if samples[kind] == 0:
            return {}
        questions = {mask.passage: mask.masked for mask in held_out_masks(passages, kind)}
        return self._predict(questions, samples[kind], dict.fromkeys(questions, kind))

    def _predict(
        self, questions: Mapping[Key, MaskedPassage], n: int, purposes: Mapping[Key, str]
    ) -> dict[Key, MaskPredictions]:
        """n predictions of each question. One that is longer than the prompt budget goes unanswered."""
        predictor = MaskPredictor(self.family, self.game.answer_normalization)
        prompts = {key: self._encode(predictor.prompt(masked)) for key, masked in questions.items()}
        asked = [key for key in questions if len(prompts[key]) <= self.settings.max_prompt_length]
        seeds = [self._number(purposes[key], questions[key].text) for key in asked]
        asked_prompts, longest = [prompts[key] for key in asked], self.settings.max_response_length
        sampled = self._sample(self.predictor_engine, asked_prompts, seeds, n, longest)
        answers = dict(zip(asked, sampled, strict=True))
        return {key: _judge(masked.span, answers.get(key, []), predictor) for key, masked in questions.items()}

    def _sample(
        self, engine: Engine, prompts: Sequence[Sequence[int]], seeds: Sequence[int], n: int, longest: int
    ) -> list[list[Response]]:
        return engine.generate(prompts, n, seeds=seeds, max_tokens=longest, stop=self.family.stop)

    def _encode(self, prompt: str) -> list[int]:
        return self.tokenizer.encode(prompt, add_special_tokens=False)  # as in training: plain completion prompts

    def _number(self, purpose: str, text: str) -> int:
        """A seed (64 bits) for one purpose and text, the same on every rank."""
        digest = hashlib.sha256(f"{self.settings.seed} {purpose}\n{text}".encode()).digest()
        return int.from_bytes(digest[:8])


def _judge(span: str, answers: Sequence[Response], predictor: MaskPredictor) -> MaskPredictions:
    """Score the answers to one mask; no answers at all is no right answer."""
    count = max(1, len(answers))
    right = sum(predictor.reward(answer.text, answer.truncated, span) for answer in answers)
    readable = sum(not answer.truncated and last_command(answer.text, "boxed") is not None for answer in answers)
    tokens = sum(len(answer.token_ids) for answer in answers)
    return MaskPredictions(span, accuracy=right / count, readable=readable / count, length=tokens / count)
