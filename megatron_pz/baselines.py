r"""The paper's baselines without reinforcement learning, on the same passages.

    torchrun --nproc-per-node N -m megatron_pz.baselines --objective continue_pt --config FILE [--flags]

``continue_pt`` is next-token pretraining on the passages. ``sft_mask`` asks the predictor's question and teaches the
hidden words as an immediate ``\boxed{}``, without chain of thought; who hides them says ``--mask-strategy``, which must
be a passive one. Passages come in the order in which reinforcement learning with the same seed draws them; optimizer,
schedule, packing, checkpoints and the account of the compute are the same, too. ``<save>/hf`` is the result as a
Hugging Face directory.
"""

from __future__ import annotations

import dataclasses
import random
import sys
from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from megatron_pz.algorithm.word_entropy import word_entropies
from megatron_pz.config.parse import parse_run_config
from megatron_pz.config.schema import RunConfig
from megatron_pz.corpus.passages import Passage, PassageBlend
from megatron_pz.corpus.sampler import PassageSampler
from megatron_pz.rl.experience import Role
from megatron_pz.rl.packing import supervised_groups
from megatron_pz.roles.examples import predictor_example
from megatron_pz.roles.prompts import PromptFamily
from megatron_pz.roles.spans import SpanRules
from megatron_pz.roles.strategies import passive_mask
from megatron_pz.run.supervised import Part, Plan, run_supervised, target_tokens
from megatron_pz.runtime.errors import BadInput, exits_with_one_line
from megatron_pz.trainer.optimizer import learning_rate
from megatron_pz.trainer.policy import Policy


class PassageExamples:
    """Whole passages to predict token by token (``continue_pt``)."""

    def __init__(
        self, config: RunConfig, tokenizer: PreTrainedTokenizerBase, passages: PassageBlend, policy: Policy
    ) -> None:
        self.config, self.tokenizer, self.passages, self.policy = config, tokenizer, passages, policy
        self.spans = SpanRules.from_config(config.game)
        self.sampler = PassageSampler(passages.sizes, config.training.seed, passages.weights)
        self.steps = 0

    def step(self) -> list[Part]:
        self.steps += 1
        return [self.examples(self.draw())]

    def examples(self, passages: Sequence[Passage]) -> Part:
        """Nothing precedes a passage's first token: it is the prompt."""
        return supervised_groups(
            [("predictor", each.token_ids[:1], [each.token_ids[1:]]) for each in passages if len(each.token_ids) > 1]
        )

    def draw(self) -> list[Passage]:
        """The passages that the step of a run of reinforcement learning would draw."""
        wanted = self.config.game.passages_per_step
        return self.sampler.draw_fitting(wanted, self.passages, lambda passage: self.spans.is_maskable(passage.text))

    def state_dict(self) -> dict[str, Any]:
        objective = self.config.supervised.objective
        return {"sampler": self.sampler.state_dict(), "steps": self.steps, "objective": objective}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Raises BadInput for the state of a run with another objective."""
        asked = self.config.supervised.objective
        if (saved := state.get("objective", asked)) != asked:
            raise BadInput(
                f"--load {self.config.training.load}: holds a run of --objective {saved}, not {asked}; give its own "
                "objective, or begin anew without --load"
            )
        self.sampler.load_state_dict(state["sampler"])
        self.steps = state["steps"]


class MaskExamples(PassageExamples):
    """The predictor's questions about passive masks, each with its answer (``sft_mask``)."""

    def __init__(
        self, config: RunConfig, tokenizer: PreTrainedTokenizerBase, passages: PassageBlend, policy: Policy
    ) -> None:
        super().__init__(config, tokenizer, passages, policy)
        if config.game.mask_strategy == "active":
            raise BadInput("--objective sft_mask has no generator: choose a passive --mask-strategy, as random_span")
        self.strategy = config.game.mask_strategy
        self.family = dataclasses.replace(PromptFamily.load(config.game.prompt_family), quote_words=0)

    def examples(self, passages: Sequence[Passage]) -> Part:
        """``masks_per_passage`` masks of each passage, as many questions as a step of reinforcement learning asks."""
        rules, limit = self.config.game, self.config.training.micro_batch_tokens
        entropies: Sequence[Sequence[float]] = [()] * len(passages)
        if self.strategy == "entropy_next_token":
            entropies = word_entropies(self.policy, self.tokenizer, passages, limit)
        questions: list[tuple[Role, list[int], list[list[int]]]] = []
        for place, passage in enumerate(passages):
            for sample in range(rules.masks_per_passage):
                rng = random.Random(f"{self.config.training.seed} {self.steps} {place} {sample}")
                share = rules.entropy_top_share
                masked = passive_mask(self.strategy, passage.text, self.spans, rng, entropies[place], share)
                if masked is not None:
                    prompt, response = predictor_example(masked, self.family)
                    target = target_tokens(response, self.family, self.tokenizer)
                    questions.append(("predictor", self.tokenizer.encode(prompt, add_special_tokens=False), [target]))
        return supervised_groups(questions)


@exits_with_one_line
def main() -> None:
    """Run the baseline that the flags ask for; exit codes as those of ``megatron_pz.train``."""
    config = parse_run_config(sys.argv[1:], "megatron_pz.baselines")
    training = config.training

    def rate(step: int) -> float:
        return learning_rate(step, config.optimizer, training.train_iters)

    sources = {"continue_pt": PassageExamples, "sft_mask": MaskExamples}
    plan = Plan(training.train_iters, rate, training.seed, training.save_interval)
    run_supervised(config, plan, sources[config.supervised.objective])


if __name__ == "__main__":
    main()
