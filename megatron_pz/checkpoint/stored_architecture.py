"""Store a model's architecture in its checkpoints, and refuse to fill a model of another one from them."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from megatron.core.utils import unwrap_model

from megatron_pz.hf.architecture import first_difference, plain_architecture
from megatron_pz.runtime.errors import BadInput


def architecture_of(chunks: Sequence[torch.nn.Module]) -> dict[str, Any] | None:
    """Return the architecture that a model was built for, as JSON keeps it; None for a model that has none."""
    config = getattr(unwrap_model(chunks[0]), "config", None)
    arch = getattr(config, "architecture", None)
    return None if arch is None else plain_architecture(arch)


def require_same_architecture(header: Mapping[str, Any], chunks: Sequence[torch.nn.Module], folder: Path) -> None:
    """Raise BadInput where a checkpoint's model is of another architecture than the one that it is to fill.

    The shapes of the weights do not tell: RoPE's theta and the norms' epsilon have none, and a vocabulary is padded.
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
