"""Evaluate one or more Hugging Face models: on held-out passages in both roles, on benchmarks, or on both.

    python tools/evaluate.py --config FILE --hf-model DIR [DIR …] --valid-data-path PREFIX [--output FILE.json …]
    python tools/evaluate.py --hf-model DIR [DIR …] --benchmarks gsm8k,mmlu_pro --data DIR --results DIR

Each model is evaluated with its own configuration, tokenizer and end tokens. A running engine loads the weights of the
next model if both agree in all of these; otherwise the next model gets a new engine. All models are asked the same
passages and questions. Under torchrun these are divided among the processes. The table of held-out passages marks
differences from the model to the left; benchmarks are compared in pairs (docs/evaluation.md). After a kill, the same
command continues a benchmark evaluation.
"""

from __future__ import annotations

import argparse
import datetime
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import get_args

import torch
import torch.distributed as dist

from megatron_pz.config.command_line import Parser
from megatron_pz.config.parse import load_yaml
from megatron_pz.config.schema import ModelConfig, RunConfig
from megatron_pz.corpus.passages import Passage
from megatron_pz.evaluation.benchmarks.prompts import BenchmarkSettings, PromptFormat
from megatron_pz.evaluation.results import EvaluationSettings
from megatron_pz.question_answering.recipes import RECIPES
from megatron_pz.run.evaluation.saved_models_on_benchmarks import (
    COMPARISONS_FILE,
    TEXT_FILE,
    BenchmarkRequest,
    evaluate_benchmarks,
)
from megatron_pz.run.evaluation.saved_models_on_passages import chosen_passages, evaluate_models, held_out_table
from megatron_pz.run.evaluation.served_models import ServedModel
from megatron_pz.run.precision import settle_precision
from megatron_pz.runtime.errors import BadInput, exits_with_one_line

RENDEZVOUS_TIMEOUT = datetime.timedelta(minutes=30)
LEAST = {
    "--passages": 1,
    "--masks-per-passage": 1,
    "--predictions-per-mask": 1,
    "--samples-per-repeated-word": 0,
    "--samples-per-once-word": 0,
    "--questions": 0,
    "--max-tokens": 0,
    "--context": 0,
    "--seed": 0,
    "--responses-per-part": 1,
}
"""Minimum value of each whole number."""


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Parse the flags and run the checks that need no model."""
    parser = Parser("Evaluate Hugging Face models on held-out passages in both roles, on benchmarks, or on both.")
    parser.add_argument(
        "--config", type=Path, help="configuration of the run, whose rules and limits apply; benchmarks need none"
    )
    parser.add_argument("--hf-model", type=Path, nargs="+", required=True, help="model directories")
    parser.add_argument("--name", nargs="+", help="names in the table; the directories' names when left out")
    parser.add_argument("--precision", choices=["auto", "bf16", "fp32"], help="in place of the configuration's")
    _add_held_out_flags(parser.add_argument_group("held-out passages"))
    _add_benchmark_flags(parser.add_argument_group("benchmarks"))
    flags = parser.parse_args(argv)
    flags.name = flags.name or [directory.resolve().name for directory in flags.hf_model]
    flags.output = flags.output or []
    _check(flags)
    return flags


def _add_held_out_flags(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--valid-data-path", nargs="+", help="prefix of a passage dataset, or a blend")
    group.add_argument("--passages", type=int, default=200, help="number of held-out passages")
    group.add_argument("--masks-per-passage", type=int, default=2, help="masks that the model proposes for a passage")
    group.add_argument(
        "--samples-per-repeated-word",
        type=int,
        default=4,
        help="predictions of each fixed word that also occurs elsewhere in the passage; 0: not asked",
    )
    group.add_argument(
        "--samples-per-once-word",
        type=int,
        default=4,
        help="predictions of each fixed word that occurs once in the passage; 0: not asked",
    )
    group.add_argument(
        "--predictions-per-mask",
        type=int,
        help="predictions of each of the model's own masks, G of equation 9; left out: grpo_group_size",
    )
    group.add_argument("--output", type=Path, nargs="+", help="a JSON file for each model")


def _add_benchmark_flags(group: argparse._ArgumentGroup) -> None:
    defaults = BenchmarkSettings("")
    group.add_argument("--benchmarks", default="", help="names of the sets, with commas between them")
    group.add_argument("--data", type=Path, help="directory with a subdirectory for each set, in its public schema")
    group.add_argument("--results", type=Path, help="answers and results, with a subdirectory for each model")
    group.add_argument("--recipe", default="general_reasoner", help=f"prompts and graders: {', '.join(RECIPES)}")
    group.add_argument(
        "--prompt-format",
        choices=get_args(PromptFormat),
        default=defaults.prompt_format,
        help="the recipe's own, the model's chat template, or a plain completion",
    )
    group.add_argument(
        "--questions", type=int, default=0, help="maximum questions of a set, a fixed random slice; 0: all"
    )
    group.add_argument("--max-tokens", type=int, default=0, help="maximum tokens of a response; 0: the recipe's")
    group.add_argument("--context", type=int, default=0, help="maximum tokens of prompt and response; 0: the model's")
    group.add_argument("--seed", type=int, default=defaults.seed, help="decides slice, samples and guesses")
    group.add_argument(
        "--responses-per-part",
        type=int,
        default=defaults.responses_per_part,
        help="responses that an engine samples at once and that are written together",
    )
    group.add_argument(
        "--contamination", nargs="+", default=[], help="prefixes of training corpora to look for the questions in"
    )


def _check(flags: argparse.Namespace) -> None:
    """Raise :class:`BadInput` for flags that contradict each other, or paths that cannot be used."""
    if not flags.valid_data_path and not flags.benchmarks:
        raise BadInput("nothing to evaluate: give --valid-data-path, or --benchmarks with --data and --results")
    if flags.benchmarks and not flags.benchmarks.strip(", "):
        raise BadInput(f"--benchmarks {flags.benchmarks!r}: names no set")
    if flags.valid_data_path and not flags.config:
        raise BadInput("--valid-data-path needs --config: the rules of the game are the run's")
    for flag in ("--data", "--results") if flags.benchmarks else ():
        if getattr(flags, flag[2:]) is None:
            raise BadInput(f"--benchmarks needs {flag}")
    for count, flag in ((len(flags.name), "--name"), (len(flags.output), "--output")):
        if count not in (0, len(flags.hf_model)):
            raise BadInput(f"{flag} has {count} values, --hf-model {len(flags.hf_model)}; give one for each")
    for flag, bound in LEAST.items():
        value = getattr(flags, flag[2:].replace("-", "_"))
        if value is not None and value < bound:
            raise BadInput(f"{flag} {value}: must be at least {bound}")
    if len(set(flags.name)) < len(flags.name):
        raise BadInput(f"the names {', '.join(flags.name)} are not all different; tell the models apart with --name")
    if flags.benchmarks:
        require_directory_names(flags.name)
    for directory in flags.hf_model:
        if not (directory / "config.json").is_file():
            raise BadInput(f"--hf-model {directory}: no config.json there; give a Hugging Face directory")
    if len(set(flags.output)) < len(flags.output):
        raise BadInput(f"--output {' '.join(map(str, flags.output))}: give every model a file of its own")
    for path in flags.output:
        require_writable(path)


def require_directory_names(names: Sequence[str]) -> None:
    """Raise :class:`BadInput` if a model's results cannot have a directory of its name in ``--results``."""
    for name in names:
        if not name or name == ".." or Path(name).name != name:
            raise BadInput(
                f"--name {name or repr(name)}: a model's results get a directory of this name, so it cannot be a path"
            )
        if name in (TEXT_FILE, COMPARISONS_FILE):
            raise BadInput(f"--name {name}: --results holds a file of this name; give the model another")


def require_writable(path: Path) -> None:
    """Raise :class:`BadInput` early, and not after a long evaluation, if ``path`` cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"--output {path}: the directory cannot be made ({error.strerror})") from None
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise BadInput(
            f"--output {path}: {'is a directory' if path.is_dir() else 'the directory cannot be written to'}"
        )


@exits_with_one_line
def main(argv: list[str] | None = None) -> None:
    """Run the command line. Raise :class:`BadInput` for flags, models or data that cannot be used."""
    flags = parse(argv)
    config = load_yaml(flags.config) if flags.config else RunConfig(model=ModelConfig(precision="auto"))
    if flags.precision:
        config = replace(config, model=replace(config.model, precision=flags.precision))
    rank, world_size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    models = [ServedModel.of(directory, config.model.tokenizer_model or directory) for directory in flags.hf_model]
    passages = chosen_passages(models, flags.valid_data_path, flags.passages, config) if flags.valid_data_path else []
    if world_size > 1:
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, timeout=RENDEZVOUS_TIMEOUT)
    config = settle_precision(config)
    if flags.valid_data_path:
        evaluate_passages(models, passages, flags, config, rank, world_size)
    if flags.benchmarks:
        text = evaluate_benchmarks(
            models, flags.name, benchmark_request(flags), config.rollout, rank=rank, world_size=world_size
        )
        if rank == 0:
            print(text, flush=True)
    if world_size > 1:
        dist.destroy_process_group()


def evaluate_passages(
    models: Sequence[ServedModel],
    passages: Sequence[Passage],
    flags: argparse.Namespace,
    config: RunConfig,
    rank: int,
    world_size: int,
) -> None:
    """Evaluate the models on held-out passages, save the results and print the table."""
    if rank == 0 and len(passages) < flags.passages:
        print(f"only {len(passages)} of the {flags.passages} passages asked for are there", flush=True)
    settings = EvaluationSettings(
        max_prompt_length=config.rollout.max_prompt_length,
        max_response_length=config.rollout.max_response_length,
        generator_max_response_length=config.rollout.generator_max_response_length,
        masks_per_passage=flags.masks_per_passage,
        predictions_per_mask=flags.predictions_per_mask or config.game.grpo_group_size,
        samples_per_repeated_word=flags.samples_per_repeated_word,
        samples_per_once_word=flags.samples_per_once_word,
    )
    found = evaluate_models(models, flags.name, passages, config, settings, rank=rank, world_size=world_size)
    if rank == 0:
        for evaluation, path in zip(found, flags.output, strict=False):
            evaluation.save(path)
        print(held_out_table(found), flush=True)


def benchmark_request(flags: argparse.Namespace) -> BenchmarkRequest:
    """Return the benchmark request of the flags."""
    return BenchmarkRequest(
        names=tuple(name.strip() for name in flags.benchmarks.split(",") if name.strip()),
        data=flags.data,
        results=flags.results,
        settings=BenchmarkSettings(
            flags.recipe,
            flags.prompt_format,
            flags.questions,
            flags.max_tokens,
            flags.seed,
            flags.responses_per_part,
        ),
        context=flags.context,
        contamination=tuple(flags.contamination),
    )


if __name__ == "__main__":
    main()
