"""The supervised cold start: a few dozen steps that teach a small model both answer formats.

    torchrun --nproc-per-node N -m megatron_pz.cold_start --config FILE --hf-model DIR --data-path PREFIX --save OUT

Examples are made from the training passages alone: a span worth masking, the generator's answer that proposes it, the
predictor's answer that recovers it. The result is a Hugging Face directory, ``OUT/hf``, to start reinforcement learning
from. It uses the same packed rows, log-probabilities and optimizer as the reinforcement learning does.
"""

from __future__ import annotations

import dataclasses
import math
import random
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from megatron_pz.arguments import parse_run_config
from megatron_pz.config import ColdStartConfig, GrpoConfig, RunConfig
from megatron_pz.corpus.passages import PassageBlend
from megatron_pz.corpus.sampler import PassageSampler
from megatron_pz.errors import exits_with_one_line
from megatron_pz.model.hf_checkpoint import save_hf
from megatron_pz.monitoring.run_logger import RunLogger
from megatron_pz.rl.experience import Anchors, MicroBatch, Role, ScoredGroup
from megatron_pz.rl.losses import policy_loss, supervised_loss
from megatron_pz.rl.packing import LossWeighting, count_responses_and_tokens, supervised_groups
from megatron_pz.rl.statistics import LossStatistics
from megatron_pz.roles.examples import generator_example, predictor_example, teaching_span
from megatron_pz.roles.prompts import PromptFamily
from megatron_pz.roles.spans import SpanPolicy
from megatron_pz.train import open_passages, open_tokenizer, write_config
from megatron_pz.trainer.policy import Policy
from megatron_pz.trainer.signals import claim_run_folder
from megatron_pz.trainer.topology import Topology

WARMUP_STEPS = 5
FINAL_RATE = 0.1
"""The learning rate warms up over a few steps, stays, and falls linearly to this share over the second half."""


class ExampleMaker:
    """Teaching examples of both roles from passages, in the order in which the sampler draws them."""

    def __init__(self, config: RunConfig, tokenizer: PreTrainedTokenizerBase, passages: PassageBlend) -> None:
        self.settings = config.cold_start
        self.passages, self.tokenizer = passages, tokenizer
        self.spans = SpanPolicy.from_config(config.game)
        self.family = PromptFamily.load(config.game.prompt_family)
        self.random = random.Random(config.cold_start.cold_start_seed)
        self.sampler = PassageSampler(passages.sizes, config.cold_start.cold_start_seed, passages.weights)

    def step(self) -> dict[Role, list[ScoredGroup]]:
        """The examples of one optimizer step, over all ranks."""
        makers = {"generator": self._generator_group, "predictor": self._predictor_group}
        wanted = {
            "generator": self.settings.cold_start_passages,
            "predictor": self.settings.cold_start_predictions,
        }
        examples: dict[Role, list[ScoredGroup]] = {"generator": [], "predictor": []}
        for role, groups in examples.items():
            while len(groups) < wanted[role]:
                groups += makers[role](next(self._passages()))
        return examples

    def _generator_group(self, passage: str) -> list[ScoredGroup]:
        """One prompt with up to ``cold_start_spans`` answers; none when the passage offers no span."""
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
        return supervised_groups([(role, self._encode(prompt), [self._target(response) for _, response in answers])])

    def _target(self, response: str) -> list[int]:
        """A stop string ends the engine's responses; where there is none the model must learn to end them itself."""
        end = [] if self.family.stop else [self.tokenizer.eos_token_id]
        return self._encode(response) + end

    def _encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False)

    def _span(self, passage: str) -> str | None:
        return teaching_span(passage, self.spans, self.random, self.settings.cold_start_repeated_share)

    def _passages(self) -> Iterator[str]:
        while True:
            text = self.passages[self.sampler.draw(1)[0]].text
            if self.spans.playable(text):
                yield text


def rate(step: int, settings: ColdStartConfig) -> float:
    """Learning rate of a step, counted from 0."""
    half = settings.cold_start_iters / 2
    decay = 1.0 if step < half else 1.0 - (1.0 - FINAL_RATE) * (step - half) / half
    return settings.cold_start_lr * min(1.0, (step + 1) / WARMUP_STEPS) * decay


def loss(log_probs_R: Tensor, entropy_R: Tensor, batch: MicroBatch, anchors: Anchors) -> tuple[Tensor, LossStatistics]:
    """Negative log-likelihood of the examples; the statistics are those of the policy loss, which has them all."""
    _, statistics = policy_loss(log_probs_R.detach(), entropy_R, batch, anchors, GrpoConfig())
    return supervised_loss(log_probs_R, batch), statistics


def learn(policy: Policy, examples: dict[Role, list[ScoredGroup]], config: RunConfig, step: int) -> dict[str, float]:
    """One optimizer step on the mean token loss of each role, the two roles weighing the same."""
    rows: list[MicroBatch] = []
    for groups in examples.values():
        responses, tokens = count_responses_and_tokens(groups)
        weighting = LossWeighting("token_mean", responses, tokens, config.rollout.max_response_length)
        rows += policy.pack(groups, weighting, config.training.micro_batch_tokens)
    learning_rate = rate(step, config.cold_start)
    result = policy.update(rows, loss, learning_rate)
    metrics = {"train/lr": learning_rate, "train/grad_norm": result.grad_norm}
    for role, figures in result.statistics.by_role().items():
        metrics[f"{role}/negative_log_likelihood"] = -figures.log_prob
    metrics["train/loss"] = math.fsum(metrics[f"{role}/negative_log_likelihood"] for role in examples)
    return metrics


def cold_start(config: RunConfig) -> None:
    """Train and write ``<save>/hf``. Collective over all ranks of the launcher."""
    config = dataclasses.replace(
        config, optimizer=dataclasses.replace(config.optimizer, lr=config.cold_start.cold_start_lr, min_lr=0.0)
    )
    topology = Topology.start(config.parallel, config.cold_start.cold_start_seed)
    folder = claim_run_folder(config.training.save, "")
    save = Path(config.training.save)
    maker = ExampleMaker(config, open_tokenizer(config), open_passages(config))
    policy = Policy(config, topology)
    logger = RunLogger(save, config.cold_start.cold_start_iters, rank=topology.rank)
    for step in range(config.cold_start.cold_start_iters):
        started = time.perf_counter()
        metrics = learn(policy, maker.step(), config, step)
        logger.log(step + 1, metrics | {"time/iteration": time.perf_counter() - started})
    logger.close()
    if topology.rank == 0:
        write_config(config, save / "config.yaml")
    save_hf(policy.weights(), policy.architecture, config.model.hf_model, save / "hf")
    folder.release()
    topology.close()


@exits_with_one_line
def main() -> None:
    """Run the cold start that the flags ask for."""
    cold_start(parse_run_config(sys.argv[1:], "megatron_pz.cold_start"))


if __name__ == "__main__":
    main()
