"""Compare answers that quote their prompt with and without vLLM's n-gram drafts: acceptance and CPU-seconds by batch.

    python -m benchmarks.rollout.drafts --hf-model DIR [--batches 1 8 32] [--tokens 48] [--drafts 4] [--repeats 3]
        [--precision fp32]

A prompt is a passage of random words twice, the second time truncated, so that the model continues the quotation as
long as its samples allow. Both engines sample with the same seeds; in float32 their tokens are compared. The measure is
CPU-seconds on one thread. Drafts save passes and cost computation, so they help if a pass is bound by reading weights.
"""

from __future__ import annotations

import argparse
import random
import sys
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from transformers import AutoTokenizer

from benchmarks.common.cpu import compared, require_positive, write_result
from megatron_pz.config.command_line import Parser
from megatron_pz.config.schema import ParallelConfig, RolloutConfig
from megatron_pz.rollout.engine import VllmEngine
from megatron_pz.runtime.errors import exits_with_one_line
from megatron_pz.trainer.topology import Topology

WORDS, QUOTED_WORDS = 24, 6


def quoting_prompt(draw: random.Random) -> str:
    """Make a prompt of a passage and its truncated repetition."""
    words = ["".join(draw.choice("bdfgklmnprst") + draw.choice("aeiou") for _ in range(3)) for _ in range(WORDS)]
    return f"Passage: {' '.join(words)}.\nThe same passage again: {' '.join(words[:QUOTED_WORDS])}"


def one_batch(engines: dict[str, VllmEngine], prompts: list[list[int]], given: argparse.Namespace) -> dict[str, float]:
    """Answer the prompts with both engines in turn; return acceptance and rates."""
    sampled: dict[str, list[tuple[int, ...]]] = {}

    def answer(name: str) -> None:
        groups = engines[name].generate(prompts, 1, seeds=range(len(prompts)), max_tokens=given.tokens, stop=[])
        sampled[name] = [group[0].token_ids for group in groups]

    engines["drafts"].take_draft_counts()
    seconds = compared({name: partial(answer, name) for name in engines}, repeats=given.repeats)
    counts = engines["drafts"].take_draft_counts()
    if given.precision == "fp32":
        assert sampled["plain"] == sampled["drafts"]
    return {
        "acceptance": counts.accepted / max(1, counts.drafted),
        "tokens a pass": 1 + counts.accepted / counts.passes,
        **{f"{name}, tokens a CPU-second": sum(map(len, sampled[name])) / taken for name, taken in seconds.items()},
        "drafts, times as fast": seconds["plain"] / seconds["drafts"],
    }


@exits_with_one_line
def main() -> None:
    flags = Parser(__doc__.split("\n")[0])
    flags.add_argument("--hf-model", required=True)
    flags.add_argument("--precision", choices=["bf16", "fp32"], default="fp32")
    flags.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32])
    for name, default in (("tokens", 48), ("drafts", 4), ("repeats", 3)):
        flags.add_argument(f"--{name}", type=int, default=default)
    given = flags.parse_args(sys.argv[1:])
    require_positive(given, "tokens", "drafts", "repeats")
    torch.set_num_threads(1)
    plain = RolloutConfig(
        max_prompt_length=320,
        max_response_length=given.tokens,
        rollout_dtype="float32" if given.precision == "fp32" else "bfloat16",
        rollout_memory_gib=0.5,
    )
    drafting = replace(plain, rollout_speculative_tokens=given.drafts)
    tokenizer = AutoTokenizer.from_pretrained(given.hf_model)
    draw = random.Random(0)
    prompts = [tokenizer.encode(quoting_prompt(draw)) for _ in range(max(given.batches))]
    topology = Topology.start(ParallelConfig(), seed=1)
    figures: dict[str, Any] = {}
    with (
        VllmEngine(given.hf_model, plain, seed=0, colocated=True) as without,
        VllmEngine(given.hf_model, drafting, seed=0, colocated=True) as with_drafts,
    ):
        engines = {"plain": without, "drafts": with_drafts}
        for batch in given.batches:
            found = one_batch(engines, prompts[:batch], given)
            figures |= {f"batch {batch}: {name}": value for name, value in found.items()}
    topology.close()
    write_result(f"drafts_{given.precision}", vars(given), figures)


if __name__ == "__main__":
    main()
