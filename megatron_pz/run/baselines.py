r"""Train the paper's baselines without reinforcement learning, on the same passages.

``continue_pt`` is next-token pretraining on the passages. ``sft_mask`` uses the predictor's prompt and teaches the
hidden words as an immediate ``\boxed{}``, without chain of thought; ``--mask-strategy``, which must be passive, chooses
the hidden words. Passages come in the order in which reinforcement learning with the same seed draws them.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence
from typing import Any, ClassVar

from transformers import PreTrainedTokenizerBase

from megatron_pz.algorithm.word_entropy import word_entropies
from megatron_pz.config.schema import GameConfig, RunConfig
from megatron_pz.corpus.passages import Passage, PassageBlend
from megatron_pz.corpus.sampler import PassageSampler
from megatron_pz.rl.experience import Role
from megatron_pz.rl.packing import supervised_groups
from megatron_pz.roles.examples import predictor_example
from megatron_pz.roles.prompts import PromptFamily
from megatron_pz.roles.spans import SpanRules
from megatron_pz.roles.strategies import passive_mask
from megatron_pz.run.objective import Schedule
from megatron_pz.run.run import run
from megatron_pz.run.supervised import LossTerm, SupervisedObjective, target_tokens
from megatron_pz.runtime.errors import BadInput
from megatron_pz.trainer.optimizer import learning_rate
from megatron_pz.trainer.policy import Policy


class PassageExamples:
    """Whole passages to predict token by token (``continue_pt``)."""

    objective: ClassVar[str] = "continue_pt"

    def __init__(self, game: GameConfig, seed: int, passages: PassageBlend) -> None:
        self.game, self.seed, self.passages = game, seed, passages
        self.spans = SpanRules.from_config(game)
        self.sampler = PassageSampler(passages.sizes, seed, passages.weights)
        self.steps = 0

    @classmethod
    def from_config(
        cls, config: RunConfig, tokenizer: PreTrainedTokenizerBase, passages: PassageBlend, policy: Policy
    ) -> PassageExamples:
        """Make the examples of a run."""
        return cls(config.game, config.training.seed, passages)

    def step(self) -> list[LossTerm]:
        """Return the examples of the next ``passages_per_step`` passages as the step's only term."""
        self.steps += 1
        return [self.examples(self.draw())]

    def examples(self, passages: Sequence[Passage]) -> LossTerm:
        """Make one example of each passage, with its first token as the prompt."""
        return supervised_groups(
            [("predictor", each.token_ids[:1], [each.token_ids[1:]]) for each in passages if len(each.token_ids) > 1]
        )

    def draw(self) -> list[Passage]:
        """Draw the same passages as this step of reinforcement learning."""
        wanted = self.game.passages_per_step
        return self.sampler.draw_fitting(wanted, self.passages, lambda passage: self.spans.is_maskable(passage.text))

    def state_dict(self) -> dict[str, Any]:
        """Return the position in the passages, the steps done, and the objective."""
        return {"sampler": self.sampler.state_dict(), "steps": self.steps, "objective": self.objective}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a saved state.

        Raises:
            BadInput: the state belongs to a run with another objective.
        """
        saved = state.get("objective", self.objective)  # checkpoints of earlier versions do not name it
        if saved != self.objective:
            raise BadInput(
                f"--load holds a run of --objective {saved}, not {self.objective}; give its own objective, or begin "
                "anew without --load"
            )
        self.sampler.load_state_dict(state["sampler"])
        self.steps = state["steps"]


class MaskExamples(PassageExamples):
    """The predictor's questions about passive masks, each with its answer (``sft_mask``)."""

    objective: ClassVar[str] = "sft_mask"

    def __init__(
        self,
        game: GameConfig,
        seed: int,
        passages: PassageBlend,
        tokenizer: PreTrainedTokenizerBase,
        policy: Policy,
        micro_batch_tokens: int,
    ) -> None:
        """
        Prepare the strategy that masks.

        Args:
            policy: chooses the words to mask under ``entropy_next_token``; other strategies do not use it.
            micro_batch_tokens: the maximum number of tokens in one of its forward passes.

        Raises:
            BadInput: the mask strategy is not passive.
        """
        super().__init__(game, seed, passages)
        if game.mask_strategy == "active":
            raise BadInput("--objective sft_mask has no generator: choose a passive --mask-strategy, as random_span")
        self.strategy = game.mask_strategy
        self.tokenizer, self.policy, self.micro_batch_tokens = tokenizer, policy, micro_batch_tokens
        self.family = dataclasses.replace(PromptFamily.load(game.prompt_family), quote_words=0)

    @classmethod
    def from_config(
        cls, config: RunConfig, tokenizer: PreTrainedTokenizerBase, passages: PassageBlend, policy: Policy
    ) -> MaskExamples:
        """Make the examples of a run."""
        training = config.training
        return cls(config.game, training.seed, passages, tokenizer, policy, training.micro_batch_tokens)

    def examples(self, passages: Sequence[Passage]) -> LossTerm:
        """Mask each passage ``masks_per_passage`` times, the number of a step of reinforcement learning."""
        entropies: Sequence[Sequence[float]] = [()] * len(passages)
        if self.strategy == "entropy_next_token":
            entropies = word_entropies(self.policy, self.tokenizer, passages, self.micro_batch_tokens)
        questions: list[tuple[Role, list[int], list[list[int]]]] = []
        for index, passage in enumerate(passages):
            for sample in range(self.game.masks_per_passage):
                rng = random.Random(f"{self.seed} {self.steps} {index} {sample}")
                share = self.game.entropy_top_share
                masked = passive_mask(self.strategy, passage.text, self.spans, rng, entropies[index], share)
                if masked is not None:
                    prompt, response = predictor_example(masked, self.family)
                    target = target_tokens(response, self.family, self.tokenizer)
                    questions.append(("predictor", self.tokenizer.encode(prompt, add_special_tokens=False), [target]))
        return supervised_groups(questions)


def baseline(config: RunConfig) -> None:
    """Train the objective that the configuration names and write ``<save>/hf``. Collective over all ranks."""

    def rate(step: int) -> float:
        return learning_rate(step, config.optimizer, config.training.train_iters)

    sources = {source.objective: source for source in (PassageExamples, MaskExamples)}
    make_examples = sources[config.supervised.objective].from_config
    run(
        config,
        Schedule.from_config(config.training),
        lambda config, topology, _: SupervisedObjective(config, topology, make_examples, rate),
    )
