"""Compare rollouts of a step in two calls of the engines, in one queue, and with the generator one step ahead.

    torchrun --nproc-per-node 2 -m benchmarks.rollout.one_queue --hf-model DIR [--passages 4] [--masks 8]
        [--predictions 8] [--mean 64] [--cap 384] [--steps 3] [--precision fp32]

Every rank has an engine. The lengths of responses follow a lognormal distribution (sigma 1, cut at the cap), drawn by
the seed of each sample, so that all sides sample the same tokens but for those that rounding flips; in float32 this is
checked. Masks are words of the passage, read from the response, and one in five is invalid. The sides alternate within
each step. The measure is wall time from the first request to the last response on all ranks: a tail leaves processors
idle, which CPU-seconds would not show. The machine should have a core for each rank and no other load.
"""

from __future__ import annotations

import math
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoTokenizer

from benchmarks.common.cpu import require_positive, write_result
from megatron_pz.algorithm.rollouts import Draw, Mask, Predictions, Proposals, RolloutWorker
from megatron_pz.algorithm.work_shares import MeanLengths
from megatron_pz.config.command_line import Parser
from megatron_pz.config.schema import GameConfig, ParallelConfig, RolloutConfig
from megatron_pz.corpus.passages import Passage
from megatron_pz.rl.statistics import GAME_ROLES
from megatron_pz.roles.mask_generator import MaskGenerator, MaskProposal
from megatron_pz.roles.spans import InvalidMaskReason
from megatron_pz.rollout.engine import VllmEngine
from megatron_pz.runtime.errors import BadInput, exits_with_one_line
from megatron_pz.trainer.topology import Topology

if TYPE_CHECKING:
    from vllm import RequestOutput, SamplingParams

SIGMA, WORDS = 1.0, 60
READ = 16
"""Characters that determine a mask. With the whole response, a late token that rounding flips would change the mask."""
GOALS = {"one queue": 1.05, "generator ahead": 1.3}
LEAST_EQUAL = 0.9
"""Share of a step's responses; the others follow from tokens that rounding flips."""
Sampled = tuple[list[Proposals], list[Predictions]]


class DrawnLengths(VllmEngine):
    """An engine whose responses end at lengths determined by their seeds."""

    mean, cap = 64, 384

    def run(
        self, prompts: Sequence[Sequence[int]], sampling: Sequence[SamplingParams], then: Any = lambda *_: ()
    ) -> list[RequestOutput]:
        """Request every sample separately, and pass on the output of a request when its last sample has ended."""
        places: list[tuple[int, int]] = []
        parts: list[dict[int, RequestOutput]] = []

        def singly(requests: Sequence[tuple[Sequence[int], SamplingParams]]) -> list[tuple[Sequence[int], Any]]:
            samples = []
            for prompt, parameters in requests:
                for number in range(parameters.n):
                    single = parameters.clone()
                    single.n, single.seed = 1, parameters.seed + number
                    single.stop, single.ignore_eos, single.max_tokens = [], True, self.length(single.seed)
                    places.append((len(parts), number))
                    samples.append((prompt, single))
                parts.append(dict.fromkeys(range(parameters.n)))  # type: ignore[arg-type]
            return samples

        def ended(place: int, output: RequestOutput) -> Sequence[tuple[Sequence[int], SamplingParams]]:
            request, number = places[place]
            parts[request][number] = output
            if None in parts[request].values():
                return ()
            whole = parts[request][0]
            whole.outputs = [part.outputs[0] for part in parts[request].values()]
            return singly(then(request, whole))

        first = singly(list(zip(prompts, sampling, strict=True)))
        return super().run([prompt for prompt, _ in first], [parameters for _, parameters in first], ended)

    def length(self, seed: int) -> int:
        """Draw the tokens of a sample."""
        drawn = random.Random(seed).lognormvariate(math.log(self.mean) - SIGMA**2 / 2, SIGMA)
        return min(max(round(drawn), 1), self.cap)


def draws(count: int, passages: int) -> list[Draw]:
    """Make passages of different words, so that each of them is a mask."""
    draw = random.Random(0)

    def word() -> str:
        return "".join(draw.choice("bdfgklmnprst") + draw.choice("aeiou") for _ in range(3))

    texts = [" ".join(word() for _ in range(WORDS)) for _ in range(count * passages)]
    made = [Passage(text, (), number, "", "", "", number) for number, text in enumerate(texts)]
    return [Draw(made[step * passages :][:passages], f"{step}") for step in range(count)]


class AnyWord(MaskGenerator):
    """Selects a word of the passage depending on the response, or none."""

    def read(self, response_text: str, truncated: bool, passage: str) -> MaskProposal:
        """Draw the mask by the beginning of the response, also of a truncated response."""
        draw = random.Random(response_text[:READ])
        if draw.random() < 0.2:
            return MaskProposal(None, InvalidMaskReason.ABSENT)
        return MaskProposal(draw.choice(passage.split()), InvalidMaskReason.OK)


class Sides:
    """The three ways to sample the same draws; wall seconds and idle shares of each by step."""

    def __init__(self, worker: RolloutWorker, draws: list[Draw]) -> None:
        self.worker, self.draws = worker, draws
        self.pending: list[Proposals] = []
        self.seconds: dict[str, list[float]] = {}
        self.idle: dict[str, list[float]] = {}

    def masks(self, proposals: list[Proposals], draw: Draw) -> list[Mask]:
        """Collect the masks of all ranks."""
        return self.worker.masks_of(proposals, draw.rng_key)

    def two_calls(self, step: int) -> Sampled:
        """Sample all proposals, then all predictions."""
        draw = self.draws[step]
        proposals = self.worker.propose(draw)
        return proposals, self.worker.predict(self.masks(proposals, draw), draw.rng_key)[0]

    def one_queue(self, step: int) -> Sampled:
        """Sample the predictions of each mask as soon as it has been read."""
        return self.worker.play(self.draws[step])

    def generator_ahead(self, step: int) -> Sampled:
        """Sample this step's predictions and the next step's proposals."""
        draw, proposals = self.draws[step], self.pending
        masks = self.masks(proposals, draw)
        predictions, self.pending = self.worker.predict(masks, draw.rng_key, self.draws[step + 1])
        return proposals, predictions

    def take(self, name: str, side: Callable[[int], Sampled], step: int) -> Sampled:
        """Run a side's step, all ranks together."""
        self.worker.topology.barrier()
        self.worker.calls.parts.clear()
        start = time.perf_counter()
        sampled = side(step)
        self.seconds.setdefault(name, []).append(max(self.worker.from_all_ranks([time.perf_counter() - start])))
        parts = self.worker.calls.parts
        busy = sum(part.seconds for call in parts for part in call)
        self.idle.setdefault(name, []).append(
            1 - busy / sum(len(call) * max(part.seconds for part in call) for call in parts)
        )
        groups = self.worker.from_all_ranks([*sampled[0], *sampled[1]])
        return (
            sorted((each for each in groups if isinstance(each, Proposals)), key=lambda each: each.passage_index),
            sorted((each for each in groups if isinstance(each, Predictions)), key=lambda each: each.mask.key),
        )


def tokens_of(sampled: Sampled) -> dict[tuple[object, int], tuple[int, ...]]:
    """Return the tokens of all responses by passage or mask and number."""
    proposals, predictions = sampled
    groups: dict[object, Any] = {f"passage {group.passage_index}": group for group in proposals}
    groups |= {group.mask.key: group for group in predictions}
    return {
        (key, number): response.token_ids
        for key, group in groups.items()
        for number, response in enumerate(group.responses)
    }


def share_of_equal(sampled: Sampled, expected: Sampled) -> float:
    """Return the share of expected responses that were sampled alike.

    A token that rounding flips in a proposal may choose another mask, whose predictions are then others.
    """
    found, wanted = tokens_of(sampled), tokens_of(expected)
    return sum(found.get(place) == tokens for place, tokens in wanted.items()) / len(wanted)


@exits_with_one_line
def main() -> None:
    flags = Parser(__doc__.split("\n")[0])
    flags.add_argument("--hf-model", required=True)
    flags.add_argument("--precision", choices=["bf16", "fp32"], default="fp32")
    for name, default in (
        ("passages", 4), ("masks", 8), ("predictions", 8), ("mean", 64), ("cap", 384), ("steps", 3)
    ):  # fmt: skip
        flags.add_argument(f"--{name}", type=int, default=default)
    given = flags.parse_args(sys.argv[1:])
    require_positive(given, "passages", "masks", "predictions", "mean", "cap", "steps")
    torch.set_num_threads(1)
    topology = Topology.start(ParallelConfig(), seed=1)
    game = GameConfig(
        prompt_family="quote",
        passages_per_step=given.passages,
        masks_per_passage=given.masks,
        grpo_group_size=given.predictions,
    )
    rollout = RolloutConfig(
        max_prompt_length=640,
        max_response_length=given.cap,
        rollout_dtype="float32" if given.precision == "fp32" else "bfloat16",
        rollout_max_num_seqs=256,
    )
    DrawnLengths.mean, DrawnLengths.cap = given.mean, given.cap
    tokenizer = AutoTokenizer.from_pretrained(given.hf_model)
    with DrawnLengths(given.hf_model, rollout, seed=0, colocated=True) as engine:
        engines: Any = dict.fromkeys(GAME_ROLES, engine)
        worker = RolloutWorker(game, rollout, 1, tokenizer, engines, topology, MeanLengths())
        worker.sampler.generator = AnyWord(worker.sampler.spans, worker.sampler.family)
        sides = Sides(worker, draws(given.steps + 1, given.passages))
        sides.pending = worker.propose(sides.draws[0])  # this call also warms up
        work = {
            "two calls": sides.two_calls,
            "one queue": sides.one_queue,
            "generator ahead": sides.generator_ahead,
        }
        responses, equal = 0, dict.fromkeys(GOALS, 1.0)
        for step in range(given.steps):
            sampled = {name: sides.take(name, side, step) for name, side in work.items()}
            for name in GOALS:
                equal[name] = min(equal[name], share_of_equal(sampled[name], sampled["two calls"]))
                if given.precision == "fp32" and equal[name] < LEAST_EQUAL:
                    raise BadInput(f"{name}: only {equal[name]:.1%} of a step's responses are those of two calls")
            responses += len(tokens_of(sampled["two calls"]))
        figures: dict[str, Any] = {"responses of a step": responses / given.steps}
        for name, seconds in sides.seconds.items():
            figures[f"{name}: wall seconds of a step"] = statistics.mean(seconds)
            figures[f"{name}: share of engine time idle"] = statistics.mean(sides.idle[name])
        for name, goal in GOALS.items():
            figures[f"{name}: least share of a step's responses that are those of two calls"] = equal[name]
            ratios = [two / one for two, one in zip(sides.seconds["two calls"], sides.seconds[name], strict=True)]
            figures[f"{name}: times as fast, median of steps (goal {goal})"] = statistics.median(ratios)
        if topology.rank == 0:
            write_result(f"one_queue_{given.precision}", vars(given) | {"ranks": topology.world_size}, figures)
    topology.close()


if __name__ == "__main__":
    main()
