"""Evaluate a policy in both roles on held-out passages.

Two measurements are made. *Own masks*: the policy masks each passage and predicts its own masks; this gives validity,
reward (equation 9) and accuracy, but the policy chooses the difficulty. *Fixed masks*: the same hidden words for every
policy (:mod:`megatron_pz.roles.held_out`), so that accuracies of policies can be compared.

The result of every passage is kept, so that two evaluations can be compared in pairs (:mod:`.summary`). Every sample's
seed is derived from its passage's text, so results do not depend on the distribution of passages over ranks.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from megatron_pz.algorithm.role_sampler import PredictedMask, RoleSampler, Tokenizer
from megatron_pz.config.schema import GameConfig
from megatron_pz.evaluation.results import (
    Evaluation,
    EvaluationSettings,
    MaskPredictions,
    OwnMask,
    PassageResult,
    rules_of,
)
from megatron_pz.rl.experience import Response, Role
from megatron_pz.roles.answers import last_command
from megatron_pz.roles.held_out import Kind, held_out_masks
from megatron_pz.roles.mask_generator import MaskProposal, generator_reward
from megatron_pz.roles.spans import MaskedPassage, is_subword
from megatron_pz.roles.words import FUNCTION_WORDS
from megatron_pz.rollout.protocol import Engine
from megatron_pz.runtime.errors import BadInput

Key = TypeVar("Key")


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
    """Evaluate the policy in ``engine`` on ``passages``, this rank's share. Results keep the passages' order.

    Args:
        name: name of the model in tables.
        engine: the engine of the policy; with one policy per role, that of the predictor.
        tokenizer: the policy's tokenizer.
        passages: this rank's passages. The engines are called even if there are none.
        game: span rules, prompts and the form of the reward.
        settings: sample counts and length limits.
        generator: the generator's engine, if the generator has a policy of its own.

    Raises:
        BadInput: a generator prompt is longer than ``settings.max_prompt_length``;
            :func:`megatron_pz.evaluation.passages.choose` selects passages that fit.
    """
    engines: dict[Role, Engine] = {"generator": generator or engine, "predictor": engine}
    lengths: dict[Role, int] = {
        "generator": settings.generator_max_response_length or settings.max_response_length,
        "predictor": settings.max_response_length,
    }
    evaluator = _Evaluator(RoleSampler(game, tokenizer, engines, lengths), game, settings)
    own = evaluator.own_masks(passages)
    repeated = evaluator.fixed_masks(passages, "repeated")
    once = evaluator.fixed_masks(passages, "once")
    results = [PassageResult(text, own[i], repeated.get(i), once.get(i)) for i, text in enumerate(passages)]
    return Evaluation(name, settings, tuple(results), rules_of(game))


@dataclass(frozen=True)
class _Evaluator:
    """The sampler, the rules and the settings of one evaluation."""

    sampler: RoleSampler
    game: GameConfig
    settings: EvaluationSettings

    def own_masks(self, passages: Sequence[str]) -> list[tuple[OwnMask, ...]]:
        """Sample masks of every passage, and predictions of every valid mask."""
        for text in passages:
            length = len(self.sampler.generator_prompt(text))
            if length > self.settings.max_prompt_length:
                raise BadInput(
                    f"the prompt of the held-out passage {text[:40]!r}… has {length} tokens, more than "
                    f"max_prompt_length {self.settings.max_prompt_length}"
                )
        seeds = [self._seed("generator", text) for text in passages]
        proposed = self.sampler.propose(passages, self.settings.masks_per_passage, seeds)
        masked: dict[tuple[int, int], MaskedPassage] = {}
        for index, (text, group) in enumerate(zip(passages, proposed, strict=True)):
            for k, mask in enumerate(group.masks):
                if mask.span is not None:
                    rng = random.Random(self._seed(f"place {k}", text))
                    masked[index, k] = self.sampler.spans.apply(mask.span, text, rng)
        purposes = {key: f"own {key[1]}" for key in masked}
        predictions = self._predict(masked, self.settings.predictions_per_mask, purposes)
        return [
            tuple(
                self._own_mask(text, mask, response, predictions.get((index, k)))
                for k, (mask, response) in enumerate(zip(group.masks, group.responses, strict=True))
            )
            for index, (text, group) in enumerate(zip(passages, proposed, strict=True))
        ]

    def _own_mask(
        self, text: str, mask: MaskProposal, response: Response, predictions: MaskPredictions | None
    ) -> OwnMask:
        span = mask.span
        return OwnMask(
            fault=mask.fault.value,
            predictions=predictions,
            reward=generator_reward(predictions.accuracy, self.game.generator_reward) if predictions else 0.0,
            sub_word=span is not None and is_subword(span, text),
            function_word=span is not None and span.casefold() in FUNCTION_WORDS,
            length=len(response.token_ids),
            entropy=-sum(response.log_probs) / max(1, len(response.log_probs)),
        )

    def fixed_masks(self, passages: Sequence[str], kind: Kind) -> dict[int, MaskPredictions]:
        """Sample predictions of the passages' fixed masks of one kind; the result is keyed by passage index."""
        samples = {"repeated": self.settings.samples_per_repeated_word, "once": self.settings.samples_per_once_word}
        if samples[kind] == 0:
            return {}
        masked = {mask.passage: mask.masked for mask in held_out_masks(passages, kind)}
        return self._predict(masked, samples[kind], dict.fromkeys(masked, kind))

    def _predict(
        self, masked: Mapping[Key, MaskedPassage], n: int, purposes: Mapping[Key, str]
    ) -> dict[Key, MaskPredictions]:
        """Sample n predictions of each mask. A mask whose prompt exceeds the prompt limit counts as unsolved."""
        limit = self.settings.max_prompt_length
        asked = [key for key, each in masked.items() if len(self.sampler.predictor_prompt(each)) <= limit]
        seeds = [self._seed(purposes[key], masked[key].text) for key in asked]
        sampled = self.sampler.predict([masked[key] for key in asked], n, seeds)
        predicted = dict(zip(asked, sampled, strict=True))
        return {key: _summary(each.span, predicted.get(key)) for key, each in masked.items()}

    def _seed(self, purpose: str, text: str) -> int:
        """Return a 64-bit seed for one purpose and text, the same on every rank."""
        digest = hashlib.sha256(f"{self.settings.seed} {purpose}\n{text}".encode()).digest()
        return int.from_bytes(digest[:8])


def _summary(span: str, predicted: PredictedMask | None) -> MaskPredictions:
    """Summarize the predictions of one mask; return zeros if the predictor was not asked."""
    if predicted is None:
        return MaskPredictions(span, accuracy=0.0, readable=0.0, length=0.0)
    responses = predicted.responses
    readable = sum(not each.truncated and last_command(each.text, "boxed") is not None for each in responses)
    tokens = sum(len(each.token_ids) for each in responses)
    return MaskPredictions(
        span, accuracy=predicted.accuracy, readable=readable / len(responses), length=tokens / len(responses)
    )
