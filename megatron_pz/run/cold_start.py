"""Teach a small model both answer formats by a few dozen supervised steps before reinforcement learning.

Examples are made only from the training passages: a span worth masking, the generator's answer that proposes it, and
the predictor's answer that recovers it. The run saves no checkpoints.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence
from functools import partial
from typing import Any

from transformers import PreTrainedTokenizerBase

from megatron_pz.config.schema import GameConfig, RunConfig
from megatron_pz.config.supervised_schema import ColdStartConfig
from megatron_pz.corpus.passages import PassageBlend
from megatron_pz.corpus.sampler import PassageSampler
from megatron_pz.rl.experience import Role, ScoredGroup
from megatron_pz.rl.packing import supervised_groups
from megatron_pz.roles.examples import generator_example, predictor_example, teaching_span
from megatron_pz.roles.prompts import PromptFamily
from megatron_pz.roles.spans import SpanRules
from megatron_pz.run.objective import Schedule
from megatron_pz.run.run import run
from megatron_pz.run.supervised import LossTerm, SupervisedObjective, target_tokens
from megatron_pz.runtime.errors import BadInput
from megatron_pz.trainer.policy import Policy

WARMUP_STEPS = 5
FINAL_RATE = 0.1
"""The learning rate warms up over a few steps, stays, and falls linearly to this share over the second half."""


class TeachingExamples:
    """Examples of both roles from passages, in the order in which the sampler draws them."""

    def __init__(
        self, settings: ColdStartConfig, game: GameConfig, tokenizer: PreTrainedTokenizerBase, passages: PassageBlend
    ) -> None:
        self.settings, self.tokenizer, self.passages = settings, tokenizer, passages
        self.spans = SpanRules.from_config(game)
        self.family = PromptFamily.load(game.prompt_family)
        self.random = random.Random(settings.cold_start_seed)
        self.sampler = PassageSampler(passages.sizes, settings.cold_start_seed, passages.weights)

    @classmethod
    def from_config(
        cls, config: RunConfig, tokenizer: PreTrainedTokenizerBase, passages: PassageBlend, policy: Policy
    ) -> TeachingExamples:
        """Make the examples of a run."""
        return cls(config.cold_start, config.game, tokenizer, passages)

    def step(self) -> list[LossTerm]:
        """Return the generator's and the predictor's examples of one optimizer step over all ranks.

        Raises:
            BadInput: a pass over the whole corpus yields no example.
        """
        makers = {"generator": self._generator_group, "predictor": self._predictor_group}
        wanted = {
            "generator": self.settings.cold_start_passages,
            "predictor": self.settings.cold_start_predictions,
        }
        examples: dict[Role, list[ScoredGroup]] = {"generator": [], "predictor": []}
        for role, groups in examples.items():
            barren = 0
            while len(groups) < wanted[role]:
                text = self.passages[self.sampler.draw(1)[0]].text
                made = makers[role](text) if self.spans.is_maskable(text) else []
                groups += made
                barren = 0 if made else barren + 1
                if barren == len(self.passages):
                    raise BadInput(
                        "no passage of --data-path has a word to mask under these rules: give other passages"
                    )
        return list(examples.values())

    def state_dict(self) -> dict[str, Any]:
        """Return the position in the passages and the state of Python's random number generator."""
        version, internal, gauss = self.random.getstate()
        return {"sampler": self.sampler.state_dict(), "random": [version, list(internal), gauss]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a saved state."""
        self.sampler.load_state_dict(state["sampler"])
        version, internal, gauss = state["random"]
        self.random.setstate((version, tuple(internal), gauss))

    def _generator_group(self, passage: str) -> list[ScoredGroup]:
        """Return one prompt with up to ``cold_start_spans`` answers, or nothing if the passage has no usable span."""
        drawn = (self._span(passage) for _ in range(self.settings.cold_start_spans))
        spans = sorted({span for span in drawn if span is not None})
        answers = [generator_example(passage, span, self.family, self.spans, self.random) for span in spans]
        return self._group("generator", answers)

    def _predictor_group(self, passage: str) -> list[ScoredGroup]:
        span = self._span(passage)
        if span is None:
            return []
        return self._group("predictor", [predictor_example(self.spans.apply(span, passage, self.random), self.family)])

    def _group(self, role: Role, answers: Sequence[tuple[str, str]]) -> list[ScoredGroup]:
        if not answers:
            return []
        prompt = answers[0][0]
        targets = [target_tokens(response, self.family, self.tokenizer) for _, response in answers]
        return supervised_groups([(role, self.tokenizer.encode(prompt, add_special_tokens=False), targets)])

    def _span(self, passage: str) -> str | None:
        return teaching_span(passage, self.spans, self.random, self.settings.cold_start_repeated_share)


def cold_start_rate(step: int, settings: ColdStartConfig) -> float:
    """Return the learning rate of a step, counted from 0."""
    half = settings.cold_start_iters / 2
    decay = 1.0 if step < half else 1.0 - (1.0 - FINAL_RATE) * (step - half) / half
    return settings.cold_start_lr * min(1.0, (step + 1) / WARMUP_STEPS) * decay


def cold_start(config: RunConfig) -> None:
    """Train and write ``<save>/hf``. Collective over all ranks of the launcher.

    Raises:
        BadInput: ``--load`` is given.
    """
    if config.training.load:
        raise BadInput(f"--load {config.training.load}: a cold start keeps no checkpoints; give --save a new directory")
    settings = config.cold_start
    config = dataclasses.replace(
        config, optimizer=dataclasses.replace(config.optimizer, lr=settings.cold_start_lr, min_lr=0.0)
    )
    schedule = Schedule(settings.cold_start_iters, settings.cold_start_seed, save_interval=0)
    rate = partial(cold_start_rate, settings=settings)
    run(
        config,
        schedule,
        lambda config, topology, _: SupervisedObjective(config, topology, TeachingExamples.from_config, rate),
    )
