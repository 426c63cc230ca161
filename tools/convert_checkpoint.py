"""Convert weights between a Megatron-Core checkpoint (torch_dist) and Hugging Face's or NeMo 2's form.

    python tools/convert_checkpoint.py hf-to-megatron --hf-model DIR --save DIR
    python tools/convert_checkpoint.py megatron-to-hf --load DIR --hf-model DIR --save DIR [--iteration N] [--role ROLE]
    python tools/convert_checkpoint.py nemo-to-megatron --load NEMO --hf-model DIR --save DIR
    python tools/convert_checkpoint.py megatron-to-nemo --load DIR --hf-model DIR --save NEMO   # the same two flags

A run with ``--policy-sharing separate`` has two models: one call with ``--role`` for each writes two directories.
``--hf-model`` supplies the architecture, which must match the checkpoint, and for an export the tokenizer files.
Weights keep the dtype of most elements of the weight matrices. A torch_dist checkpoint does not depend on the parallel
layout, so one process is enough for a model that fits into its memory. Several processes share a larger one: ``torchrun
--nproc-per-node 8 tools/convert_checkpoint.py … --tensor-model-parallel-size 8``.

NeMo 2 checkpoints (directories with weights/ and context/) are converted for Llama and Qwen3, not for mixtures of
experts. Reading one needs no NeMo; writing one needs nemo-toolkit 2.7.3 and this package in a separate environment.
"""

from __future__ import annotations

import argparse
import warnings
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch.distributed.checkpoint import FileSystemReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from megatron_pz.checkpoint.checkpoint_files import folder_of, iterations, latest_iteration
from megatron_pz.checkpoint.loader import load_model_weights, reading
from megatron_pz.checkpoint.nemo_checkpoint import (
    load_nemo_weights,
    refuse_family,
    require_nemo,
    save_nemo,
    weights_folder,
)
from megatron_pz.checkpoint.writer import save_checkpoint
from megatron_pz.config.command_line import Parser
from megatron_pz.config.schema import ModelConfig, ParallelConfig
from megatron_pz.hf.architecture import Architecture
from megatron_pz.hf.checkpoint import HFTensorSource, refuse_existing, save_hf
from megatron_pz.model.gpt import build_chunks
from megatron_pz.model.hf_mapping import load_hf_weights
from megatron_pz.model.hf_stream import stream_hf_weights
from megatron_pz.model.transformer_config import transformer_config
from megatron_pz.runtime.errors import BadInput, exits_with_one_line
from megatron_pz.trainer.topology import Topology

if TYPE_CHECKING:  # megatron_pz adapts Megatron-Core to this machine before anything imports it
    from megatron.core.models.common.language_module.language_module import LanguageModule

VOCAB_DIVISIBLE_BY = ModelConfig().make_vocab_size_divisible_by
_WEIGHTS = (torch.bfloat16, torch.float16, torch.float32)


@exits_with_one_line
def main() -> None:
    """Run the command line."""
    arguments = _parse()
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")  # for Megatron-Core's calls
    arch = Architecture.from_hf(arguments.hf_model)
    tensor_ranks = arguments.tensor_model_parallel_size
    parallel = ParallelConfig(
        tensor_ranks,
        arguments.pipeline_model_parallel_size,
        sequence_parallel=arch.experts is not None
        and tensor_ranks > 1,  # experts require it; the arrangement of weights is the same
        expert_model_parallel_size=arguments.expert_model_parallel_size,
    )
    hf_model, save = arguments.hf_model, arguments.save
    if arguments.direction == "hf-to-megatron":
        hf_to_megatron(arch, parallel, hf_model, save)
    elif arguments.direction == "nemo-to-megatron":
        nemo_to_megatron(arch, parallel, arguments.load, save)
    else:
        export = megatron_to_hf if arguments.direction == "megatron-to-hf" else megatron_to_nemo
        export(arch, parallel, arguments.load, arguments.iteration, arguments.role, hf_model, save)


def hf_to_megatron(arch: Architecture, parallel: ParallelConfig, hf_model: Path, save: Path) -> None:
    """Write ``save/iter_0000000`` with the weights of a Hugging Face checkpoint, in the dtype of its matrices."""
    tensors = HFTensorSource(hf_model)
    tensors.require(arch)
    _make_run_directory(save)
    topology, model = _build(arch, parallel, tensors.dtype)
    load_hf_weights(model, arch, tensors)
    _close(topology, save_checkpoint(save, 0, [model], None, common={}, per_rank={}))


def nemo_to_megatron(arch: Architecture, parallel: ParallelConfig, load: Path, save: Path) -> None:
    """Write ``save/iter_0000000`` with the weights of a NeMo 2 checkpoint, in the dtype of most of them."""
    refuse_family(arch)
    dtype = _dtype_of_checkpoint(weights_folder(load))
    _make_run_directory(save)
    topology, model = _build(arch, parallel, dtype)
    load_nemo_weights(load, model, arch)
    _close(topology, save_checkpoint(save, 0, [model], None, common={}, per_rank={}))


def megatron_to_hf(
    arch: Architecture,
    parallel: ParallelConfig,
    load: Path,
    iteration: int | None,
    role: str,
    hf_model: Path,
    save: Path,
) -> None:
    """Write the weights of a checkpoint, of training or of this tool, as a Hugging Face checkpoint of their dtype.

    ``role`` names one of a checkpoint's two policies; empty for a single policy.
    """
    refuse_existing(save)
    topology, model = _load(arch, parallel, load, iteration, role)
    save_hf(stream_hf_weights([model], arch), arch, hf_model, save)
    _close(topology, save)


def megatron_to_nemo(
    arch: Architecture,
    parallel: ParallelConfig,
    load: Path,
    iteration: int | None,
    role: str,
    hf_model: Path,
    save: Path,
) -> None:
    """Write the weights of a checkpoint, of training or of this tool, as a NeMo 2 checkpoint of their dtype."""
    refuse_family(arch)
    refuse_existing(save)
    require_nemo()
    topology, model = _load(arch, parallel, load, iteration, role, vocab_divisible_by=1)  # NeMo does not pad it
    save_nemo(save, model, arch, hf_model)
    _close(topology, save)


def _load(
    arch: Architecture,
    parallel: ParallelConfig,
    load: Path,
    iteration: int | None,
    role: str,
    vocab_divisible_by: int = VOCAB_DIVISIBLE_BY,
) -> tuple[Topology, LanguageModule]:
    """Build this rank's part of the model and load a checkpoint's weights, the latest if ``iteration`` is None."""
    iteration = latest_iteration(load) if iteration is None else iteration
    if iteration is None:
        raise BadInput(f"there is no checkpoint in {load}")
    if not folder_of(load, iteration).is_dir():
        have = ", ".join(map(str, sorted(iterations(load)))) or "none"
        raise BadInput(f"--iteration {iteration}: {load} has no such checkpoint (it has {have})")
    dtype = _dtype_of_checkpoint(folder_of(load, iteration))
    topology, model = _build(arch, parallel, dtype, vocab_divisible_by)
    try:
        load_model_weights(load, [model], iteration, role)
    except BadInput:
        topology.close()
        raise
    return topology, model


def _build(
    arch: Architecture, parallel: ParallelConfig, dtype: torch.dtype, vocab_divisible_by: int = VOCAB_DIVISIBLE_BY
) -> tuple[Topology, LanguageModule]:
    """Build this rank's part of the model, with uninitialised weights of this dtype."""
    settings = ModelConfig(bf16=dtype == torch.bfloat16, make_vocab_size_divisible_by=vocab_divisible_by)
    config = transformer_config(arch, settings, parallel)
    config.params_dtype = config.pipeline_dtype = dtype  # also float16, in which this tool computes nothing
    topology = Topology.start(parallel, seed=0)
    (model,) = build_chunks(arch, config)
    return topology, model


def _make_run_directory(save: Path) -> None:
    if latest_iteration(save) is not None:
        raise BadInput(f"{save} holds checkpoints already; give --save a new directory")
    try:
        save.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"--save {save}: the directory cannot be made ({error.strerror})") from None


def _parse() -> argparse.Namespace:
    parser = Parser("Convert weights between a Megatron-Core checkpoint and Hugging Face's or NeMo 2's form.")
    directions = ("hf-to-megatron", "megatron-to-hf", "nemo-to-megatron", "megatron-to-nemo")
    parser.add_argument(
        "direction",
        choices=directions,
        help="conversion to perform; megatron-to-nemo needs nemo-toolkit 2.7.3 in the environment, the others do not",
    )
    parser.add_argument(
        "--hf-model",
        type=Path,
        required=True,
        help="the Hugging Face checkpoint; for an export the one that the run started from",
    )
    parser.add_argument(
        "--load", type=Path, help="the directory of Megatron-Core checkpoints, or the NeMo 2 checkpoint"
    )
    parser.add_argument("--iteration", type=int, help="iteration to convert (default: the latest)")
    parser.add_argument(
        "--role", choices=("generator", "predictor"), default="", help="role of the policy, if there are two"
    )
    parser.add_argument("--save", type=Path, required=True, help="the directory that is written")
    for kind in ("tensor", "pipeline", "expert"):
        shared = "processes that share the model, under torchrun; the checkpoint does not depend on it"
        parser.add_argument(f"--{kind}-model-parallel-size", type=int, default=1, metavar="N", help=shared)
    arguments = parser.parse_args()
    direction = arguments.direction
    if (direction != "hf-to-megatron") != (arguments.load is not None):
        needs = "--load belongs to the other directions; use --hf-model" if arguments.load else "it needs --load"
        raise BadInput(f"{direction}: {needs}")
    return arguments


def _dtype_of_checkpoint(directory: Path) -> torch.dtype:
    """Return the dtype of most elements of the model's weights in a torch_dist checkpoint."""
    with reading(directory):
        entries = FileSystemReader(directory).read_metadata().state_dict_metadata
    elements: Counter[torch.dtype] = Counter()
    for key, entry in entries.items():
        if isinstance(entry, TensorStorageMetadata) and "optimizer." not in key and entry.properties.dtype in _WEIGHTS:
            elements[entry.properties.dtype] += entry.size.numel()
    if not elements:
        raise BadInput(f"the checkpoint {directory} has no weights")
    return max(elements, key=elements.__getitem__)


def _close(topology: Topology, written: Path) -> None:
    if topology.rank == 0:
        print(f"wrote {written}")
    topology.close()


if __name__ == "__main__":
    main()
