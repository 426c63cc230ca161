"""Evaluate one or more Hugging Face models on held-out passages, in both roles.

    python tools/evaluate.py --config FILE --hf-model DIR [DIR …] --valid-data-path PREFIX [--output FILE.json …]

The models share an architecture; the engine is started with the first and is given the weights of the others in turn.
Under torchrun the passages are shared out over the processes. The table marks what differs from the model to the left.
"""

from __future__ import annotations

import argparse
import datetime
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist
from transformers import AutoTokenizer

from megatron_pz.config.command_line import Parser
from megatron_pz.config.parse import load_yaml
from megatron_pz.config.schema import RunConfig
from megatron_pz.corpus.passages import open_blend
from megatron_pz.corpus.plain_text import read_plain_text
from megatron_pz.evaluation.held_out_masks import evaluate
from megatron_pz.evaluation.passages import candidates, choose, share_of_rank
from megatron_pz.evaluation.results import Evaluation, EvaluationSettings, merge
from megatron_pz.evaluation.summary import rows
from megatron_pz.hf.checkpoint import HFTensorSource
from megatron_pz.reports.tables import table
from megatron_pz.rollout.engine import VllmEngine
from megatron_pz.rollout.weight_sync import load_weights
from megatron_pz.run.precision import settle_precision
from megatron_pz.runtime.errors import BadInput, exits_with_one_line

RENDEZVOUS_TIMEOUT = datetime.timedelta(minutes=30)


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The flags, checked as far as that needs no model."""
    parser = Parser("Evaluate Hugging Face models on held-out passages, in both roles.")
    parser.add_argument("--config", type=Path, required=True, help="the run's configuration: its rules and limits hold")
    parser.add_argument("--hf-model", type=Path, nargs="+", required=True, help="model directories, one architecture")
    parser.add_argument("--name", nargs="+", help="the models' names in the table; their folders' names when left out")
    parser.add_argument("--valid-data-path", nargs="+", required=True, help="prefix of a passage dataset, or a blend")
    parser.add_argument("--passages", type=int, default=200, help="how many held-out passages are asked")
    parser.add_argument("--masks-per-passage", type=int, default=2, help="masks that the model proposes for a passage")
    parser.add_argument(
        "--samples-per-repeated-word",
        type=int,
        default=4,
        help="predictions of a fixed word that stands elsewhere, too; 0: not asked",
    )
    parser.add_argument(
        "--samples-per-once-word",
        type=int,
        default=4,
        help="predictions of a fixed word that stands nowhere else; 0: not asked",
    )
    parser.add_argument(
        "--predictions-per-mask",
        type=int,
        help="predictions of each of the model's own masks, G of equation 9; left out: grpo_group_size",
    )
    parser.add_argument("--output", type=Path, nargs="+", help="a JSON file for each model")
    parser.add_argument("--precision", choices=["auto", "bf16", "fp32"], help="in place of the configuration's")
    flags = parser.parse_args(argv)
    flags.name = flags.name or [directory.resolve().name for directory in flags.hf_model]
    flags.output = flags.output or []
    for count, flag in ((len(flags.name), "--name"), (len(flags.output), "--output")):
        if count not in (0, len(flags.hf_model)):
            raise BadInput(f"{flag} has {count} values, --hf-model {len(flags.hf_model)}; give one for each")
    least = {
        "--passages": 1,
        "--masks-per-passage": 1,
        "--predictions-per-mask": 1,
        "--samples-per-repeated-word": 0,
        "--samples-per-once-word": 0,
    }
    for flag, bound in least.items():
        value = getattr(flags, flag[2:].replace("-", "_"))
        if value is not None and value < bound:
            raise BadInput(f"{flag} {value}: must be at least {bound}")
    if len(set(flags.name)) < len(flags.name):
        raise BadInput(f"the names {', '.join(flags.name)} are not all different; tell the models apart with --name")
    for directory in flags.hf_model:
        if not (directory / "config.json").is_file():
            raise BadInput(f"--hf-model {directory}: no config.json there; give a Hugging Face directory")
    if len(set(flags.output)) < len(flags.output):
        raise BadInput(f"--output {' '.join(map(str, flags.output))}: give every model a file of its own")
    for path in flags.output:
        require_writable(path)
    return flags


def require_writable(path: Path) -> None:
    """Raise :class:`BadInput` now, and not after an evaluation of minutes, where ``path`` cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"--output {path}: the folder cannot be made ({error.strerror})") from None
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise BadInput(f"--output {path}: {'is a folder' if path.is_dir() else 'the folder cannot be written to'}")


@exits_with_one_line
def main(argv: list[str] | None = None) -> None:
    """Command line entry point. Raises :class:`BadInput` for flags, models or data that cannot be used."""
    flags = parse(argv)
    config = load_yaml(flags.config)
    if flags.precision:
        config = replace(config, model=replace(config.model, precision=flags.precision))
    rank, world_size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    of_tokenizer = config.model.tokenizer_model or str(flags.hf_model[0])
    blend = open_blend(flags.valid_data_path, of_tokenizer)
    tokenizer = read_plain_text(AutoTokenizer.from_pretrained(of_tokenizer))
    limit = config.rollout.max_prompt_length
    chosen = choose(candidates(blend), flags.passages, tokenizer, config.game, config.data, limit)
    if rank == 0 and len(chosen) < flags.passages:
        print(f"only {len(chosen)} of the {flags.passages} passages asked for are there", flush=True)
    mine = [passage.text for passage in share_of_rank(chosen, rank, world_size)]
    if world_size > 1:
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, timeout=RENDEZVOUS_TIMEOUT)
    config = settle_precision(config)
    with VllmEngine(flags.hf_model[0], config.rollout, seed=0, colocated=world_size > 1) as engine:
        evaluations = list(evaluate_models(engine, tokenizer, flags, mine, config))
    if rank == 0:
        for evaluation, path in zip(evaluations, flags.output, strict=False):
            evaluation.save(path)
        title = f"{len(chosen)} held-out passages, mean ± 95 % half-width"
        print(table(title, ["", *flags.name], rows(evaluations)), flush=True)
    if world_size > 1:
        dist.destroy_process_group()


def evaluate_models(
    engine: VllmEngine, tokenizer: AutoTokenizer, flags: argparse.Namespace, passages: Sequence[str], config: RunConfig
) -> Iterator[Evaluation]:
    """Each model's evaluation in turn: whole on rank 0, this rank's part elsewhere."""
    settings = EvaluationSettings(
        max_prompt_length=config.rollout.max_prompt_length,
        max_response_length=config.rollout.max_response_length,
        generator_max_response_length=config.rollout.generator_max_response_length,
        masks_per_passage=flags.masks_per_passage,
        predictions_per_mask=flags.predictions_per_mask or config.game.grpo_group_size,
        samples_per_repeated_word=flags.samples_per_repeated_word,
        samples_per_once_word=flags.samples_per_once_word,
    )
    for number, (name, directory) in enumerate(zip(flags.name, flags.hf_model, strict=True)):
        if number > 0:
            load_weights(engine, checkpoint_stream(directory, tied_head=engine.tied_head))
        yield gathered(evaluate(name, engine, tokenizer, passages, config.game, settings))


def checkpoint_stream(directory: Path, *, tied_head: bool) -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor of a checkpoint; a tied head, which some checkpoints hold as a second copy, is left out."""
    source = HFTensorSource(directory)
    for name in source.names():
        if not (tied_head and name == "lm_head.weight"):
            yield name, source.slices(name)[:]


def gathered(part: Evaluation) -> Evaluation:
    """All ranks' parts as one on rank 0; elsewhere the part itself."""
    if not dist.is_initialized():
        return part
    parts: list[Evaluation | None] | None = [None] * dist.get_world_size() if dist.get_rank() == 0 else None
    dist.gather_object(part, parts)
    return part if parts is None else merge([found for found in parts if found is not None])


if __name__ == "__main__":
    main()
