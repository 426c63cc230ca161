"""Weights and optimizer on disk: Megatron-Core's torch_dist format, which any parallel layout can read.

Tensors are written by the training process itself. Megatron-Core's own writer forks a process for every file and spawns
a manager that imports the main module again: not to be done in a process with a living vLLM engine and its threads.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch.distributed as dist
from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing.strategies.torch import (
    MCoreSavePlanner,
    TorchDistSaveShardedStrategy,
    _replace_state_dict_keys_with_sharded_keys,
    mcore_to_pyt_state_dict,
)
from megatron.core.dist_checkpointing.validation import StrictHandling
from megatron.core.optimizer import MegatronOptimizer
from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer
from megatron.core.transformer.module import MegatronModule
from megatron.core.utils import unwrap_model
from torch.distributed import checkpoint as torch_checkpoint
from torch.distributed.checkpoint import CheckpointException as TorchCheckpointException

from megatron_pz.errors import BadInput
from megatron_pz.trainer.agreement import AgreedProblem, agree, one_line

# Moments and master weights are stored as tensors of the model's shapes, so that a run can resume in another layout.
_SHARDING = {"distrib_optim_sharding_type": "fully_reshardable", "distrib_optim_fully_reshardable_mem_efficient": False}


def write_tensors(chunks: Sequence[MegatronModule], optimizer: MegatronOptimizer | None, folder: Path) -> None:
    """Write the model, and the optimizer's state if there is one, into an existing folder. A collective.

    Raises AgreedProblem on all ranks if one could not write.

    Megatron-Core lets rank 0 alone write two small files, before and after the strategy's ``save``. When one of them
    fails, rank 0 first joins the collective in which the others already wait for it.
    """
    state = _sharded_state(chunks, optimizer)
    strategy = _InProcessSave()
    problem = None
    try:
        dist_checkpointing.save(state, str(folder), strategy, content_metadata=dict(_SHARDING))
    except (OSError, RuntimeError) as error:
        problem = one_line(error)
        if strategy.entered:
            dist.barrier()
    agree(problem)


def load_tensors(folder: Path, chunks: Sequence[MegatronModule], optimizer: MegatronOptimizer | None) -> None:
    """Load the model, and the optimizer if one is given, in place. A collective.

    Raises BadInput if the checkpoint is of another model; for files that cannot be read, whatever the readers raise.
    """
    state = _sharded_state(chunks, optimizer, is_loading=True)
    loaded, unasked, absent = dist_checkpointing.load(state, str(folder), strict=StrictHandling.RETURN_ALL)
    unasked = {key for key in unasked if not key.startswith(("optimizer.", "common_state"))}
    if unasked or absent:
        raise BadInput(
            f"the checkpoint {folder} is of another model: {min(unasked or absent)} is only in "
            f"{'the checkpoint' if unasked else 'this model'} ({len(unasked)} and {len(absent)} such tensors)"
        )
    for name, chunk in zip(_names(chunks), chunks, strict=True):
        unwrap_model(chunk).load_state_dict(loaded[name], strict=True)
    if optimizer is not None:
        optimizer.load_state_dict(loaded["optimizer"])


def optimizer_kind(optimizer: MegatronOptimizer) -> str:
    """Megatron-Core's classes at work: what a checkpoint's optimizer state can be loaded into."""
    return "+".join(type(part).__name__ for part in _parts(optimizer))


def has_stepped(optimizer: MegatronOptimizer) -> bool:
    """Whether there are moments yet."""
    return any(part.optimizer.state for part in _parts(optimizer))


def restart(optimizer: MegatronOptimizer) -> None:
    """As at the start of a run: no moments, master weights equal to the model's."""
    for part in _parts(optimizer):
        part.optimizer.state.clear()
    optimizer.reload_model_params()


class _InProcessSave(TorchDistSaveShardedStrategy):
    """Megatron-Core's torch_dist format, written by torch's own FileSystemWriter in this process."""

    def __init__(self) -> None:
        super().__init__("torch_dist", 1)
        self.entered = False

    def save(self, sharded_state_dict: dict[str, Any], checkpoint_dir: str | Path) -> None:
        self.entered = True
        agree(None)  # the counterpart of write_tensors' agree, should rank 0 have failed on its way here
        flat, _, _ = _replace_state_dict_keys_with_sharded_keys(sharded_state_dict, self.keep_only_main_replica)
        try:
            torch_checkpoint.save(
                mcore_to_pyt_state_dict(flat, False),
                storage_writer=torch_checkpoint.FileSystemWriter(checkpoint_dir),
                planner=MCoreSavePlanner(dedup_replicated_tensors=False, flatten_state_dict=False),
            )
        except TorchCheckpointException as failed:  # raised on all ranks together
            rank, (error, _) = next(iter(failed.failures.items()))
            raise AgreedProblem(f"rank {rank}: {one_line(error)}") from None


def _names(chunks: Sequence[MegatronModule]) -> list[str]:
    """The keys of ``megatron.training``."""
    return ["model"] if len(chunks) == 1 else [f"model{index}" for index in range(len(chunks))]


def _sharded_state(
    chunks: Sequence[MegatronModule], optimizer: MegatronOptimizer | None, is_loading: bool = False
) -> dict[str, Any]:
    state = {
        name: unwrap_model(chunk).sharded_state_dict(metadata=dict(_SHARDING))
        for name, chunk in zip(_names(chunks), chunks, strict=True)
    }
    if optimizer is not None:
        if is_loading:
            _allocate_state(optimizer)
        state["optimizer"] = optimizer.sharded_state_dict(dict(state), is_loading=is_loading, metadata=dict(_SHARDING))
    return state


def _allocate_state(optimizer: MegatronOptimizer) -> None:
    """The distributed optimizer's loader expects that torch's Adam has a state already."""
    for part in _parts(optimizer):
        if isinstance(part, DistributedOptimizer) and not part.optimizer.state:
            part._init_optimizer_states_with_dummy_values()


def _parts(optimizer: MegatronOptimizer) -> list[MegatronOptimizer]:
    """The optimizers that Megatron-Core chained, one a kind of parameter, without those that own no parameter here."""
    chained = getattr(optimizer, "chained_optimizers", [optimizer])
    return [part for part in chained if not part.is_stub_optimizer]
