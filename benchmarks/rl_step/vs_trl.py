"""Compare a whole step of reinforcement learning by this project and by TRL's GRPOTrainer, on one CPU thread.

    python -m benchmarks.rl_step.vs_trl --hf-model DIR --data-path PREFIX [--flags]

Both get the same model, prompts (half of them of a mask generator, half of a mask predictor, on real passages), number
of samples, temperature 1, reward, loss (GRPO, clip-higher) and one AdamW step per step. Unless ``--stopping`` is given,
all responses have the same length without stop strings, so that both sides do the same work for any random numbers;
with it, responses end by the prompt family's stop strings. Each side runs in a separate process and is timed in
CPU-seconds of all its threads, because wall time depends on the machine's other load. The first step, which warms up,
is not counted.

TRL runs with one thread, sdpa attention, bf16, a key-value cache, no gradient checkpointing, no logs, no checkpoints,
and, under vLLM, without the second forward pass for its importance weights (this project has such weights).
``trl vllm`` is unmodified TRL. If vLLM packs its weights, as on this CPU, TRL's weight transfer fails;
``trl vllm-patched`` uses this project's transfer instead, to measure TRL with vLLM (``vllm-mended`` in older results).

The difference has these causes: TRL's rows repeat the prompt for every sample, and without Triton, as on a CPU, TRL
also multiplies prompt tokens by the vocabulary (nearly half of its update here). Under vLLM it requests every sample
separately, so that a prompt shorter than vLLM's block is prefilled once for each sample.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from benchmarks.common.hardware import cpu_name
from benchmarks.common.peers import peer_python
from benchmarks.gpu.results import ROOT, environment
from benchmarks.rl_step.work import PHASES, Outcome, Work
from megatron_pz.config.command_line import Parser
from megatron_pz.config.schema import GameConfig
from megatron_pz.corpus.passages import open_blend
from megatron_pz.corpus.sampler import PassageSampler
from megatron_pz.reports.tables import table
from megatron_pz.roles.examples import teaching_span
from megatron_pz.roles.prompts import PromptFamily
from megatron_pz.roles.spans import SpanRules
from megatron_pz.runtime.errors import BadInput, exits_with_one_line

PEER = (
    "trl==1.16.0",
    "datasets==5.2.0",
    "multiprocess==0.70.19",
    "dill==0.4.1",
    "xxhash==4.1.0",
    "pandas==3.1.1",
    "python-dateutil==4.0.0",
    "six==1.17.0",
    "accelerate==1.15.0",
)
"""TRL and those of its dependencies that this project's environment may lack."""

GOAL = 2.0
"""Target of the ratio of TRL's CPU-seconds to ours, at least."""

SIDES: dict[str, tuple[str, ...]] = {
    "ours": (),
    "trl float32": ("float32", "generate"),
    "trl bfloat16": ("bfloat16", "generate"),
    "trl vllm": ("bfloat16", "vllm"),
    "trl vllm-patched": ("bfloat16", "vllm-patched"),
}
"""Name of a side, and the settings of :mod:`benchmarks.rl_step.trl_side`."""

AS_IT_IS = ("trl float32", "trl bfloat16", "trl vllm")

ENVIRONMENT = {
    "CUDA_VISIBLE_DEVICES": "",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": str(ROOT),
    "PYTHONWARNINGS": "ignore",
    # vLLM in the process, on one thread, with a cache of 1 GiB instead of all memory. Compilation is off because it has
    # little effect here (7.0 CPU-seconds per rollout with, 7.2 without) and takes minutes to start.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "TORCH_COMPILE_DISABLE": "1",
}


@dataclass(frozen=True)
class Result:
    """The result of a side: an outcome, or the reason why there is none."""

    outcome: Outcome | None
    failure: str = ""

    def seconds(self, phase: str | None = None) -> float:
        """Return the CPU-seconds of a phase, or of the whole, as the median over the counted steps."""
        assert self.outcome is not None
        counted = self.outcome.steps[1:]
        return statistics.median(step.phases[phase] if phase else step.cpu_seconds for step in counted)


def draw_prompts(flags: argparse.Namespace) -> tuple[list[str], int, tuple[str, ...]]:
    """Return the prompts of all steps, the tokens of the longest, and the strings that end a response."""
    family, spans, draw = PromptFamily.load("quote"), SpanRules.from_config(RULES), random.Random(flags.seed)
    passages = open_blend(flags.data_path, str(flags.hf_model), max_words=flags.max_passage_words)
    needed = (flags.steps + 1) * flags.passages
    if len(passages) < needed:
        raise BadInput(f"--data-path has {len(passages)} passages, {needed} are needed: lower --passages or --steps")
    sampler = PassageSampler(passages.sizes, flags.seed, passages.weights)
    prompts: list[str] = []
    while len(prompts) < 2 * needed:
        text = passages[sampler.draw(1)[0]].text
        span = teaching_span(text, spans, draw, repeated_share=0.5) if spans.is_maskable(text) else None
        if span is not None:
            prompts.append(family.generator_prompt(text))
            prompts.append(family.predictor_prompt(spans.apply(span, text, draw).text))
        elif sampler.epoch > 1:
            raise BadInput("--data-path has too few passages with a word to mask: name another one")
    tokenizer = AutoTokenizer.from_pretrained(flags.hf_model)
    longest = max(len(tokenizer.encode(prompt, add_special_tokens=False)) for prompt in prompts)
    return prompts, longest, family.stop


RULES = GameConfig(span_policy="one_mask", whole_words=True, max_span_words=6)


def make_work(flags: argparse.Namespace) -> Work:
    """Make the work from the flags."""
    prompts, longest, stop = draw_prompts(flags)
    return Work(
        hf_model=str(flags.hf_model.resolve()),
        prompts=tuple(prompts),
        prompts_per_step=2 * flags.passages,
        samples=flags.samples,
        max_prompt_tokens=longest,
        response_tokens=flags.response_tokens,
        stop=stop if flags.stopping else (),
        learning_rate=flags.lr,
        seed=flags.seed,
        tokens_in_micro_batch=flags.micro_batch_tokens,
        sequences_in_micro_batch=flags.trl_micro_batch_size,
    )


def run_side(side: str, work: Work, peer: Path, time_limit: float) -> Result:
    """Run a side in a separate process. If it fails, the reason is the last line of its error output."""
    with tempfile.TemporaryDirectory() as folder:
        given, outcome = Path(folder) / "work.json", Path(folder) / "outcome.json"
        work.write(given)
        python, module = (sys.executable, "ours") if side == "ours" else (str(peer), "trl_side")
        command = [python, "-m", f"benchmarks.rl_step.{module}", str(given), str(outcome), *SIDES[side]]
        try:
            done = subprocess.run(
                command, env=os.environ | ENVIRONMENT, capture_output=True, text=True, check=False, timeout=time_limit
            )
        except subprocess.TimeoutExpired:
            return Result(None, f"took more than {time_limit:g} s")
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if line.strip()] or [f"exit code {done.returncode}"]
            return Result(
                None, next((line for line in reversed(lines) if "Error: " in line), lines[-1]).split("]: ")[-1]
            )
        return Result(Outcome.read(outcome))


def require_equal_work(results: Mapping[str, Result], work: Work) -> None:
    """Raise RuntimeError if a side had other prompts, or a different number of tokens when that is fixed."""
    prompt_tokens = {
        tuple(step.prompt_tokens for step in each.outcome.steps) for each in results.values() if each.outcome
    }
    if len(prompt_tokens) > 1:
        raise RuntimeError(f"the sides had prompts of different lengths: {prompt_tokens}")
    wanted = work.prompts_per_step * work.samples * work.response_tokens
    for side, result in results.items():
        tokens = [step.response_tokens for step in result.outcome.steps] if result.outcome else []
        if not work.stop and set(tokens) - {wanted}:
            raise RuntimeError(f"{side} sampled {tokens} tokens in its steps, not {wanted} in each")


def as_table(results: Mapping[str, Result], work: Work, place: Mapping[str, Any]) -> str:
    """Format the conditions, the seconds by phase, the ratios and the hardware."""
    ours, rows = results["ours"], []
    for side, result in results.items():
        if result.outcome is None:
            rows.append([side, *["–"] * 9])
            continue
        whole, parts = result.seconds(), [result.seconds(phase) for phase in PHASES]
        counted, difference = result.outcome.steps[1:], result.outcome.log_prob_difference
        rows.append(
            [
                side,
                *(f"{part:.2f}" for part in (*parts, max(0.0, whole - sum(parts)), whole)),
                f"{whole / ours.seconds():.2f}",
                f"{result.outcome.peak_memory_gib:.1f}",
                f"{statistics.mean(step.response_tokens for step in counted):.0f}",
                "" if difference is None else f"{difference:.3f}",
            ]
        )
    header = ["CPU-seconds a step", *PHASES, "rest", "step", "/ ours", "peak GiB", "new tokens", "|Δ log p|"]
    prompt_tokens = statistics.mean(step.prompt_tokens for step in ours.outcome.steps[1:]) if ours.outcome else 0
    title = (
        f"{work.prompts_per_step} prompts of {prompt_tokens:.0f} tokens in all, {work.samples} samples each of "
        f"{'at most' if work.stop else 'exactly'} {work.response_tokens} tokens; median of {work.steps - 1} steps"
    )
    versions = ", ".join(f"{name} {version}" for name, version in place["versions"].items())
    state = " with uncommitted changes" if place["uncommitted_changes"] else ""
    where = (
        f"{place['cpu']}, one thread, load average {place['load_average']:.1f}; Python {place['python']}, {versions}; "
        f"commit {place['commit'][:7]}{state}, {place['date']}"
    )
    failures = [f"{side} did not run: {each.failure}" for side, each in results.items() if each.outcome is None]
    return "\n".join([table(title, header, rows), "", *verdicts(results), *failures, where])


def verdicts(results: Mapping[str, Result]) -> list[str]:
    """Return the ratio that has a goal, and the one against TRL with its weight sync patched."""
    lines = []
    for name, sides in (("TRL as it is", AS_IT_IS), ("TRL with a patched vLLM", ("trl vllm-patched",))):
        ran = {side: results[side].seconds() for side in sides if side in results and results[side].outcome}
        if ran:
            fastest = min(ran, key=lambda side: ran[side])
            ratio = ran[fastest] / results["ours"].seconds()
            lines.append(
                f"{name}, at its fastest ({fastest}), takes {ratio:.2f} times our CPU-seconds "
                f"(at least {GOAL:g}: {'met' if ratio >= GOAL else 'missed'})"
            )
    return lines


def keep(results: Mapping[str, Result], work: Work, place: Mapping[str, Any], path: Path) -> None:
    """Write the results so far, as JSON and as a table."""
    settings = {name: value for name, value in dataclasses.asdict(work).items() if name != "prompts"}
    settings["hf_model"] = Path(work.hf_model).name
    sides = {side: dataclasses.asdict(result) for side, result in results.items()}
    content = {"environment": place, "work": settings, "sides": sides}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    path.with_suffix(".txt").write_text(as_table(results, work, place) + "\n", encoding="utf-8")


def where_measured() -> dict[str, Any]:
    """Return hardware, versions, commit, and the load of the machine."""
    import torch

    place = environment(torch.device("cpu"))
    place["versions"] |= dict(package.split("==") for package in PEER[:2])
    cpu = f"{cpu_name()}, {os.cpu_count()} cores"
    return place | {"cpu": cpu, "load_average": os.getloadavg()[0]}


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the flags. Raise BadInput for incompatible combinations."""
    parser = Parser((__doc__ or "").split("\n\n")[0])
    parser.add_argument("--hf-model", type=Path, required=True, help="Hugging Face directory of the model")
    parser.add_argument("--data-path", nargs="+", required=True, help="prefix of a passage dataset, or a blend")
    parser.add_argument(
        "--side", nargs="+", choices=list(SIDES), default=list(SIDES), help="sides to run; ours always runs"
    )
    parser.add_argument("--passages", type=int, default=8, help="passages a step, each with a prompt of either role")
    parser.add_argument("--samples", type=int, default=8, help="responses to a prompt")
    parser.add_argument("--response-tokens", type=int, default=48, help="length of a response")
    parser.add_argument("--stopping", action="store_true", help="responses end where the quote family's do, if earlier")
    parser.add_argument("--max-passage-words", type=int, default=0, help="maximum words of a passage; 0: any")
    parser.add_argument("--steps", type=int, default=2, help="counted steps, after one that warms up")
    parser.add_argument("--lr", type=float, default=1e-6, help="learning rate of both sides")
    parser.add_argument("--seed", type=int, default=1234)
    parser.add_argument("--micro-batch-tokens", type=int, default=1536, help="maximum tokens of our packed rows")
    parser.add_argument(
        "--trl-micro-batch-size", type=int, default=8, help="sequences of TRL's batches; a divisor of the samples"
    )
    parser.add_argument("--time-limit", type=float, default=900.0, help="time limit of one side in seconds")
    parser.add_argument("--output", type=Path, help="path of the JSON and the text without a suffix [results/DATE_…]")
    flags = parser.parse_args(argv)
    for name in ("passages", "samples", "response_tokens", "steps", "trl_micro_batch_size"):
        if getattr(flags, name) < 1:
            raise BadInput(f"--{name.replace('_', '-')} {getattr(flags, name)}: must be at least 1")
    sequences = 2 * flags.passages * flags.samples
    if sequences % flags.trl_micro_batch_size:
        raise BadInput(
            f"--trl-micro-batch-size {flags.trl_micro_batch_size} does not divide the {sequences} samples of a step "
            "(2 x --passages x --samples)"
        )
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    flags.output = flags.output or ROOT / "benchmarks" / "results" / f"{today}_rl_step_vs_trl"
    return flags


@exits_with_one_line
def main(argv: Sequence[str] | None = None) -> None:
    """Measure and write. Raise BadInput for flags, a model or data that cannot be used."""
    flags = parse(argv)
    work, place = make_work(flags), where_measured()
    peer = peer_python("trl", PEER)
    results: dict[str, Result] = {}
    for side in ("ours", *(side for side in flags.side if side != "ours")):
        print(f"{side} …", file=sys.stderr, flush=True)
        results[side] = run_side(side, work, peer, flags.time_limit)
        if results["ours"].outcome is None:
            raise BadInput(f"our own side failed: {results['ours'].failure}")
        require_equal_work(results, work)
        keep(results, work, place, flags.output)  # after every side: they take minutes each
    print(as_table(results, work, place))


if __name__ == "__main__":
    main()
