"""Evaluate one or more Hugging Face models on held-out passages, in both roles.

    python tools/evaluate.py --config FILE --hf-model DIR [DIR …] --valid-data-path PREFIX [--output FILE.json …]

Each model is evaluated with its own configuration, tokenizer and end tokens. A running engine takes the weights of the
next model where both agree in all of these; otherwise the next model gets an engine of its own. All models are asked
the same passages. Under torchrun the passages are divided among the processes. The table marks what differs from the
model to the left.
"""

from __future__ import annotations

import argparse
import datetime
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from megatron_pz.config.command_line import Parser
from megatron_pz.config.parse import load_yaml
from megatron_pz.config.schema import RunConfig
from megatron_pz.corpus.manifest import file_sha256, read_manifest, tokenizer_sha256
from megatron_pz.corpus.passages import open_blend, parse_blend
from megatron_pz.corpus.plain_text import read_plain_text
from megatron_pz.evaluation.held_out_masks import evaluate
from megatron_pz.evaluation.passages import candidates, choose, share_of_rank
from megatron_pz.evaluation.results import Evaluation, EvaluationSettings, merge
from megatron_pz.evaluation.summary import rows
from megatron_pz.hf.checkpoint import HFTensorSource
from megatron_pz.hf.config import HFConfigReader, read_json
from megatron_pz.hf.directory import checkpoint_shapes, has_tied_head, read_hf_config
from megatron_pz.reports.tables import table
from megatron_pz.rollout.engine import VllmEngine
from megatron_pz.rollout.weight_sync import load_weights
from megatron_pz.run.inputs import require_tokenizer_fits
from megatron_pz.run.precision import settle_precision
from megatron_pz.runtime.errors import BadInput, exits_with_one_line, one_line

RENDEZVOUS_TIMEOUT = datetime.timedelta(minutes=30)
_WITHOUT_EFFECT = ("_name_or_path", "transformers_version", "dtype", "torch_dtype", "use_cache")
"""Keys of config.json that change nothing in an engine, whose dtype the run's configuration decides."""
_TOKENIZER_SETTINGS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Parse the flags and check what can be checked without a model."""
    parser = Parser("Evaluate Hugging Face models on held-out passages, in both roles.")
    parser.add_argument("--config", type=Path, required=True, help="the run's configuration: its rules and limits hold")
    parser.add_argument("--hf-model", type=Path, nargs="+", required=True, help="model directories")
    parser.add_argument("--name", nargs="+", help="names in the table; the directories' names when left out")
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
    """Run the command line. Raises :class:`BadInput` for flags, models or data that cannot be used."""
    flags = parse(argv)
    config = load_yaml(flags.config)
    if flags.precision:
        config = replace(config, model=replace(config.model, precision=flags.precision))
    rank, world_size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    models = [ServedModel.of(directory, config.model.tokenizer_model or directory) for directory in flags.hf_model]
    tokenizers = [model.open_tokenizer() for model in models]
    blend = open_blend(flags.valid_data_path, corpus_tokenizer_dir(flags.valid_data_path, models))
    limit = config.rollout.max_prompt_length
    chosen = choose(candidates(blend), flags.passages, LongestEncoding(tokenizers), config.game, config.data, limit)
    if rank == 0 and len(chosen) < flags.passages:
        print(f"only {len(chosen)} of the {flags.passages} passages asked for are there", flush=True)
    mine = [passage.text for passage in share_of_rank(chosen, rank, world_size)]
    if world_size > 1:
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, timeout=RENDEZVOUS_TIMEOUT)
    config = settle_precision(config)
    evaluations = evaluate_models(models, flags, mine, config, colocated=world_size > 1)
    if rank == 0:
        for evaluation, path in zip(evaluations, flags.output, strict=False):
            evaluation.save(path)
        title = f"{len(chosen)} held-out passages, mean ± 95 % half-width"
        print(table(title, ["", *flags.name], rows(evaluations)), flush=True)
    if world_size > 1:
        dist.destroy_process_group()


def evaluate_models(
    models: Sequence[ServedModel],
    flags: argparse.Namespace,
    passages: Sequence[str],
    config: RunConfig,
    *,
    colocated: bool,
) -> list[Evaluation]:
    """Evaluate each model in turn: the whole result on rank 0, this rank's part elsewhere."""
    settings = EvaluationSettings(
        max_prompt_length=config.rollout.max_prompt_length,
        max_response_length=config.rollout.max_response_length,
        generator_max_response_length=config.rollout.generator_max_response_length,
        masks_per_passage=flags.masks_per_passage,
        predictions_per_mask=flags.predictions_per_mask or config.game.grpo_group_size,
        samples_per_repeated_word=flags.samples_per_repeated_word,
        samples_per_once_word=flags.samples_per_once_word,
    )
    evaluations = []
    engine: VllmEngine | None = None
    try:
        for name, model, former in zip(flags.name, models, (None, *models), strict=False):
            if engine is not None and former is not None and former.facts == model.facts:
                source = HFTensorSource(model.directory)
                if engine.tied_head:
                    source.require_tied_head()
                load_weights(engine, source.stream(tied_head=engine.tied_head))
            else:
                if engine is not None:
                    engine.close()
                engine = VllmEngine(
                    model.directory, config.rollout, seed=0, colocated=colocated, tokenizer_dir=model.tokenizer_dir
                )
            tokenizer = model.open_tokenizer()
            evaluations.append(gathered(evaluate(name, engine, tokenizer, passages, config.game, settings)))
    finally:
        if engine is not None:
            engine.close()
    return evaluations


@dataclass(frozen=True)
class ServedModel:
    """A model directory and everything that decides what its engine computes, beside the values of its weights."""

    directory: Path
    tokenizer_dir: Path
    facts: dict[str, Any]
    """Models of equal facts can take turns in one engine."""

    @classmethod
    def of(cls, directory: Path, tokenizer_dir: str | Path) -> ServedModel:
        """Read the facts. Raises :class:`BadInput` for a directory without a model or a tokenizer."""
        hf_config, place = read_hf_config(directory), Path(tokenizer_dir)
        generation = directory / "generation_config.json"
        facts = {
            "config": {key: value for key, value in hf_config.items() if key not in _WITHOUT_EFFECT},
            "end tokens": read_json(generation).get("eos_token_id") if generation.is_file() else None,
            "tensors": checkpoint_shapes(directory, tied_head=has_tied_head(directory, hf_config)),
            "tokenizer": tokenizer_sha256(place),
            "tokenizer settings": {
                name: file_sha256(place / name) for name in _TOKENIZER_SETTINGS if (place / name).is_file()
            },
        }
        return cls(directory, place, facts)

    def open_tokenizer(self) -> PreTrainedTokenizerBase:
        """Open the tokenizer. Raises :class:`BadInput` where transformers cannot, or the model lacks its tokens."""
        try:
            tokenizer = AutoTokenizer.from_pretrained(self.tokenizer_dir)
        except (OSError, ValueError) as error:
            raise BadInput(f"no tokenizer in {self.tokenizer_dir}: {one_line(error)}") from None
        vocabulary = HFConfigReader(self.facts["config"], self.directory / "config.json").size("vocab_size")
        require_tokenizer_fits(tokenizer, self.tokenizer_dir, self.directory, vocabulary)
        return read_plain_text(tokenizer)


class LongestEncoding:
    """Several tokenizers as one whose encoding of a text is the longest of theirs: what fits it fits all models."""

    def __init__(self, tokenizers: Sequence[PreTrainedTokenizerBase]) -> None:
        self._tokenizers = tokenizers

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Return the longest encoding of a text."""
        encoded = (each.encode(text, add_special_tokens=add_special_tokens) for each in self._tokenizers)
        return max(encoded, key=len)


def corpus_tokenizer_dir(data_path: Sequence[str], models: Sequence[ServedModel]) -> str:
    """Return the directory of the first model whose tokenizer made the corpus, or of the first model."""
    made_with = {read_manifest(prefix)["tokenizer"]["sha256"] for prefix in parse_blend(data_path)[0]}
    fitting = (model for model in models if {model.facts["tokenizer"]} == made_with)
    return str(next(fitting, models[0]).tokenizer_dir)


def gathered(part: Evaluation) -> Evaluation:
    """Return all ranks' parts as one on rank 0, and elsewhere the part itself."""
    if not dist.is_initialized():
        return part
    parts: list[Evaluation | None] | None = [None] * dist.get_world_size() if dist.get_rank() == 0 else None
    dist.gather_object(part, parts)
    return part if parts is None else merge([found for found in parts if found is not None])


if __name__ == "__main__":
    main()
