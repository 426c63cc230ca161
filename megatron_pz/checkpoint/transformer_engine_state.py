"""Handle Transformer Engine's additions to a checkpoint: extra states beside the weights, and FP8 weights."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from megatron.core.dist_checkpointing.strategies.torch import MCoreSavePlanner
from torch.distributed.checkpoint.planner import WriteItem

from megatron_pz.model.precision import plain_tensor

_EXTRA_STATE = "_extra_state"
"""Suffix of states beside the weights. All of Transformer Engine's modules have one, including its norms;
Megatron-Core's local norms do not. Checkpoints from a GPU must load on a CPU, and vice versa."""
_TRUSTED = "NVTE_ALLOW_UNSAFE_PICKLE_EXTRA_STATE"


def without_extra_states(names: Iterable[str]) -> list[str]:
    """Return the names of tensors without the extra states, which Transformer Engine and local layers do not share."""
    return [name for name in names if not name.endswith(_EXTRA_STATE)]


def fill(model: torch.nn.Module, state: dict[str, Any]) -> None:
    """Load a model's state dict, in which extra states may be absent. Raises RuntimeError for any other difference."""
    with _scales_of_fp8():
        found = model.load_state_dict(state, strict=False)
    wrong = without_extra_states((*found.missing_keys, *found.unexpected_keys))
    if wrong:
        raise RuntimeError(f"{wrong[0]} is only in the checkpoint or only in the model ({len(wrong)} such tensors)")


@contextmanager
def _scales_of_fp8() -> Iterator[None]:
    """Allow Transformer Engine to load the history of delayed scaling, which it stores as a pickle.

    Later versions load it only if an environment variable marks the file as trusted. Trust adds no risk here: torch's
    reader has already unpickled the entry that contains it.
    """
    before = os.environ.get(_TRUSTED)
    os.environ[_TRUSTED] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_TRUSTED]
        else:
            os.environ[_TRUSTED] = before


class PlainTensors(MCoreSavePlanner):
    """Writes FP8 weights as the bfloat16 values that they represent, one tensor at a time.

    Megatron-Core expects bfloat16 when it loads, and quantizing these values again gives the same FP8 values.
    Otherwise the file would hold pickled objects of one version of Transformer Engine.
    """

    def transform_object(self, write_item: WriteItem, object: Any) -> Any:
        content = super().transform_object(write_item, object)
        return plain_tensor(content) if isinstance(content, torch.Tensor) else content
