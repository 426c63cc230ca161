"""Describe model, layout and optimizers in a checkpoint's header, and refuse checkpoints that do not match the run."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.utils import unwrap_model

from megatron_pz.hf.architecture import first_difference, plain_architecture
from megatron_pz.runtime.errors import BadInput


def architecture_of(chunks: Sequence[torch.nn.Module]) -> dict[str, Any] | None:
    """Return the architecture of a model as JSON values, or None for a model that does not record one."""
    config = getattr(unwrap_model(chunks[0]), "config", None)
    arch = getattr(config, "architecture", None)
    return None if arch is None else plain_architecture(arch)


def require_same_architecture(header: Mapping[str, Any], chunks: Sequence[torch.nn.Module], folder: Path) -> None:
    """Raise BadInput if a checkpoint's architecture differs from that of the model to be loaded.

    Weight shapes cannot show this: RoPE's theta and the norms' epsilon have none, and the vocabulary is padded.
    """
    own, stored = architecture_of(chunks), header.get("architecture")
    if own is None:
        return
    if stored is None:
        if not dist.is_initialized() or dist.get_rank() == 0:
            print(
                f"note: {folder} was written before checkpoints stored their architecture: it is not compared with "
                "that of --hf-model",
                file=sys.stderr,
                flush=True,
            )
        return
    difference = first_difference(stored, own)
    if difference is not None:
        key, there, here = difference
        raise BadInput(
            f"{folder} holds a model with {key} {there}, and the config.json of --hf-model has {here}: give the "
            "--hf-model that the checkpoint was made from"
        )


def optimizer_kinds(header: dict[str, Any], folder: Path) -> dict[str, str | None]:
    """Return the optimizer kind of each part, or None for a part whose optimizer is missing or has not stepped."""
    if "parts" not in header:
        raise BadInput(f"{folder} was written by an earlier version of this program: resume it with that one")
    return header["parts"]


def require_same_optimizer(saved: str | None, own: str, folder: Path) -> None:
    """Refuse another kind of optimizer. With expert parallelism, experts have their own of the same class (``A+A``)."""
    if saved is not None and set(saved.split("+")) != set(own.split("+")):
        raise BadInput(
            f"{folder} was written with the optimizer {saved}, this run has {own}: resume with the same "
            "--use-distributed-optimizer and precision"
        )


def parallel_layout() -> dict[str, int]:
    """Return the parallel sizes of this run; per-rank state is restored only under the same ones."""
    return {
        "world_size": dist.get_world_size(),
        "tensor_model_parallel_size": parallel_state.get_tensor_model_parallel_world_size(),
        "pipeline_model_parallel_size": parallel_state.get_pipeline_model_parallel_world_size(),
        "context_parallel_size": parallel_state.get_context_parallel_world_size(),
        "expert_model_parallel_size": parallel_state.get_expert_model_parallel_world_size(),
    }
