"""What Transformer Engine's layers bring into a checkpoint: states of their own beside the weights, and FP8 weights."""

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
"""Ends the names of what modules keep beside their weights: Transformer Engine's all do, its norms included, which
Megatron-Core's local ones do not have. A checkpoint of a GPU is converted on a CPU, and the other way round."""
_TRUSTED = "NVTE_ALLOW_UNSAFE_PICKLE_EXTRA_STATE"


def without_extra_states(names: Iterable[str]) -> list[str]:
    """The names of tensors, without those that only one of the two kinds of layers has."""
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
    """Let Transformer Engine load the history of delayed scaling, which it keeps as a pickle.

    Its later versions do so only where this variable says that the file is trusted. Ours is: torch's reader of the
    checkpoint has unpickled the entry around it before.
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
    """Weights that are kept in FP8 are written as the bfloat16 that they stand for, one at a time.

    Megatron-Core asks for them so when it loads, and quantising those numbers again gives the same FP8. Else the file
    would hold pickled objects of Transformer Engine, of its version.
    """

    def transform_object(self, write_item: WriteItem, object: Any) -> Any:
        content = super().transform_object(write_item, object)
        return plain_tensor(content) if isinstance(content, torch.Tensor) else content
