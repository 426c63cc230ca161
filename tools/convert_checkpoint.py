"""Convert weights between a Hugging Face checkpoint and a Megatron-Core one (torch_dist), without rounding.

    python tools/convert_checkpoint.py hf-to-megatron --hf-model DIR --save DIR
    python tools/convert_checkpoint.py megatron-to-hf --load DIR --hf-model DIR --save DIR [--iteration N] [--role ROLE]

A run with ``--policy-sharing separate`` has two models: one call with ``--role`` for each writes two directories.
``--hf-model`` gives the architecture and, for an export, the tokenizer files. A torch_dist checkpoint does not depend
on the parallel layout, so one process is enough for a model that fits into its memory. More of them share a larger one:
``torchrun --nproc-per-node 8 tools/convert_checkpoint.py … --tensor-model-parallel-size 8``.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

import torch
from torch.distributed.checkpoint import FileSystemReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from megatron_pz.command_line import Parser
from megatron_pz.config import ModelConfig, ParallelConfig
from megatron_pz.errors import BadInput, exits_with_one_line
from megatron_pz.model.architecture import Architecture, transformer_config
from megatron_pz.model.gpt import build_chunks
from megatron_pz.model.hf_checkpoint import HFTensorSource, refuse_existing, save_hf
from megatron_pz.model.hf_mapping import load_hf_weights
from megatron_pz.model.hf_stream import stream_hf_weights
from megatron_pz.trainer.checkpoint import latest_iteration, load_model_weights, save_checkpoint
from megatron_pz.trainer.checkpoint_files import folder_of, iterations
from megatron_pz.trainer.topology import Topology


@exits_with_one_line
def main() -> None:
    """The command line."""
    arguments = _parse()
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")  # of Megatron-Core's calls
    arch = Architecture.from_hf(arguments.hf_model)
    tensor_ranks = arguments.tensor_model_parallel_size
    parallel = ParallelConfig(
        tensor_ranks,
        arguments.pipeline_model_parallel_size,
        sequence_parallel=arch.experts is not None and tensor_ranks > 1,  # experts ask for it; weights lie the same
        expert_model_parallel_size=arguments.expert_model_parallel_size,
    )
    if arguments.direction == "hf-to-megatron":
        hf_to_megatron(arch, parallel, arguments.hf_model, arguments.save)
    else:
        role, iteration = arguments.role, arguments.iteration
        megatron_to_hf(arch, parallel, arguments.load, iteration, role, arguments.hf_model, arguments.save)


def hf_to_megatron(arch: Architecture, parallel: ParallelConfig, hf_model: Path, save: Path) -> None:
    """Write ``save/iter_0000000`` with the weights of a Hugging Face checkpoint, in the dtype that they have there."""
    tensors = HFTensorSource(hf_model)
    if latest_iteration(save) is not None:
        raise BadInput(f"{save} holds checkpoints already; give --save a new directory")
    try:
        save.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"--save {save}: the folder cannot be made ({error.strerror})") from None
    config = transformer_config(arch, ModelConfig(bf16=tensors.dtype == torch.bfloat16), parallel)
    topology = Topology.start(parallel, seed=0)
    (model,) = build_chunks(arch, config)
    load_hf_weights(model, arch, tensors)
    folder = save_checkpoint(save, 0, [model], None, common={}, per_rank={})
    _close(topology, folder)


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

    ``role`` names one of a checkpoint's two policies; empty: the only one.
    """
    refuse_existing(save)
    iteration = latest_iteration(load) if iteration is None else iteration
    if iteration is None:
        raise BadInput(f"there is no checkpoint in {load}")
    if not folder_of(load, iteration).is_dir():
        have = ", ".join(map(str, sorted(iterations(load)))) or "none"
        raise BadInput(f"--iteration {iteration}: {load} has no such checkpoint (it has {have})")
    bf16 = _dtype_of_checkpoint(folder_of(load, iteration)) == torch.bfloat16
    config = transformer_config(arch, ModelConfig(bf16=bf16), parallel)
    topology = Topology.start(parallel, seed=0)
    (model,) = build_chunks(arch, config)
    load_model_weights(load, [model], iteration, role)
    save_hf(stream_hf_weights([model], arch), arch, hf_model, save)
    _close(topology, save)


def _parse() -> argparse.Namespace:
    parser = Parser("Convert weights between a Hugging Face checkpoint and a Megatron-Core one.")
    parser.add_argument("direction", choices=("hf-to-megatron", "megatron-to-hf"), help="what is made of what")
    parser.add_argument(
        "--hf-model",
        type=Path,
        required=True,
        help="the Hugging Face checkpoint; for an export the one that the run started from",
    )
    parser.add_argument("--load", type=Path, help="the folder of Megatron-Core checkpoints that is exported")
    parser.add_argument("--iteration", type=int, help="which of them; the latest if absent")
    parser.add_argument("--role", choices=("generator", "predictor"), default="", help="whose, with a policy for each")
    parser.add_argument("--save", type=Path, required=True, help="the folder that is written")
    for kind in ("tensor", "pipeline", "expert"):
        shared = "processes that share the model, under torchrun; the checkpoint does not depend on it"
        parser.add_argument(f"--{kind}-model-parallel-size", type=int, default=1, metavar="N", help=shared)
    arguments = parser.parse_args()
    exports = arguments.direction == "megatron-to-hf"
    if exports != (arguments.load is not None):
        raise BadInput("megatron-to-hf needs --load" if exports else "--load belongs to megatron-to-hf; use --hf-model")
    return arguments


def _dtype_of_checkpoint(folder: Path) -> torch.dtype:
    """The dtype of the model's weights: the tensors of a torch_dist checkpoint that do not belong to the optimizer."""
    try:
        entries = FileSystemReader(folder).read_metadata().state_dict_metadata
    except OSError as error:
        raise BadInput(f"the checkpoint {folder} cannot be read: {error}") from None
    weights = (
        entry for key, entry in entries.items() if isinstance(entry, TensorStorageMetadata) and "optimizer." not in key
    )
    return next(weights).properties.dtype


def _close(topology: Topology, written: Path) -> None:
    if topology.rank == 0:
        print(f"wrote {written}")
    topology.close()


if __name__ == "__main__":
    main()
