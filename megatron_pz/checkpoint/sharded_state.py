"""Store weights and optimizer in Megatron-Core's torch_dist format, which any parallel layout can read.

Tensors are written by the training process itself, in its own thread or in a background thread. Megatron-Core's writer
forks a process for every file and spawns a manager that imports the main module again, which is unsafe in a process
with a vLLM engine and its threads.

Ranks that hold the same tensors share the work, as with Megatron-LM's ``--ckpt-fully-parallel-save`` and ``-load``:
each rank writes and reads a part, and the ranks exchange the parts that they have read. Every byte of a checkpoint is
read once from the file system, regardless of the number of ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import dist_checkpointing, parallel_state
from megatron.core.dist_checkpointing.exchange_utils import determine_main_replica_uniform_distribution
from megatron.core.dist_checkpointing.mapping import ShardedObject
from megatron.core.dist_checkpointing.serialization import get_default_load_sharded_strategy
from megatron.core.dist_checkpointing.strategies.async_utils import AsyncRequest
from megatron.core.dist_checkpointing.strategies.common import COMMON_STATE_FNAME
from megatron.core.dist_checkpointing.strategies.fully_parallel import (
    FullyParallelLoadStrategyWrapper,
    distribute_main_replicas_with_precomputed_distribution,
)
from megatron.core.dist_checkpointing.strategies.torch import (
    MCoreSavePlanner,
    TorchDistSaveShardedStrategy,
    _replace_state_dict_keys_with_sharded_keys,
    mcore_to_pyt_state_dict,
)
from megatron.core.dist_checkpointing.utils import add_prefix_for_sharding
from megatron.core.dist_checkpointing.validation import StrictHandling
from megatron.core.optimizer import MegatronOptimizer
from megatron.core.transformer.module import MegatronModule
from megatron.core.utils import unwrap_model
from torch.distributed import checkpoint as torch_checkpoint
from torch.distributed.checkpoint import CheckpointException as TorchCheckpointException
from torch.distributed.checkpoint.planner import SavePlan, WriteItem
from torch.distributed.checkpoint.storage import WriteResult
from torch.distributed.checkpoint.utils import _DistWrapper

from megatron_pz.checkpoint.agreement import AgreedProblem, agree, run_on_all_ranks_or_raise
from megatron_pz.checkpoint.optimizer_state import allocate_state, fitted
from megatron_pz.checkpoint.transformer_engine_state import PlainTensors, fill, without_extra_states
from megatron_pz.runtime.errors import BadInput, brief
from megatron_pz.trainer.optimizer import gather_weights, use_own_settings

# Moments and master weights are stored under the model's names and shapes, so that a run can resume in another layout,
# including one in which experts gain or lose an optimizer of their own.
_SHARDING = {
    "distrib_optim_sharding_type": "fully_reshardable",
    "distrib_optim_fully_reshardable_mem_efficient": False,
    "chained_optim_avoid_prefix": True,
}
_NUMBERED = "chained_"
"""Prefix of the optimizers' tensors in earlier checkpoints of ranks that shared experts."""
_COMMON_STATE = "common_state"
"""Key under which megatron-core 0.19 and later store everything that is not a tensor."""
_NO_WEIGHTS = ("optimizer.", _COMMON_STATE, _NUMBERED)
"""Prefixes of tensors that are not weights of a model."""


@dataclass(frozen=True)
class ModelState:
    """A model with its optimizer. A checkpoint holds one, or several by name."""

    chunks: Sequence[MegatronModule]
    """Chunks of the model, plain or wrapped by DDP."""
    optimizer: MegatronOptimizer | None
    """None: the weights only."""


ModelStates = Mapping[str, ModelState]
"""The parts by name, which is the prefix of their tensors; a run's only part has an empty name."""


@dataclass
class SaveAgreement:
    """The plan that the ranks agreed on at the first save of a state, reused at every later save of the same state.

    Otherwise each save would gather the description of every shard from all ranks twice more: to check that the shards
    form whole tensors, and to choose the writer of each replicated tensor.
    """

    settled: bool = False
    distribution: Any = None
    """The writer of each replicated tensor; None if no tensor is replicated."""


class StagedTensors:
    """This rank's part of a planned checkpoint: the ranks agree on each file's content, and nothing is written yet.

    :meth:`write` is local work and may run in a thread beside the training; :meth:`seal` ends it on all ranks together.
    """

    def __init__(self, strategy: _StagedSave, finalize: Callable[[], None]) -> None:
        self._strategy, self._finalize = strategy, finalize
        self._results: list[WriteResult] = []

    def write(self) -> None:
        """Write and flush this rank's file. I/O errors propagate."""
        self._results = self._strategy.write()

    def seal(self) -> None:
        """Write the index of all files after every rank has written. Collective; raises AgreedProblem on failure."""
        problem = None
        try:
            self._strategy.write_index(self._results)
            self._finalize()
        except (OSError, RuntimeError) as error:  # rank 0 alone, in _finalize: the others wait in its barrier
            problem = brief(error)
            dist.barrier()
        agree(problem)


def stage_tensors(
    parts: ModelStates, folder: Path, *, copy: bool, agreement: SaveAgreement | None = None
) -> StagedTensors:
    """Plan how to save the models, and their optimizers if any, in an existing directory. Collective.

    Args:
        copy: copy all tensors to host memory, so that training can continue before they are written; otherwise they
            are read when they are written and must not change until then.
        agreement: that of an earlier save of the same parts, with optimizers or without; a new one is filled in.

    Raises AgreedProblem on all ranks if one failed.

    In Megatron-Core, rank 0 alone writes two small files, before and after the tensors. If it fails to write the first
    one, it joins the collective in which the other ranks are already waiting.
    """
    for part in parts.values():
        gather_weights(part.chunks)
    return stage_state(_sharded_states(parts), folder, copy=copy, metadata=_SHARDING, agreement=agreement)


def stage_state(
    state: dict[str, Any],
    folder: Path,
    *,
    copy: bool,
    metadata: Mapping[str, Any],
    agreement: SaveAgreement | None = None,
) -> StagedTensors:
    """Plan the save of a given sharded state dict as :func:`stage_tensors` does; store ``metadata`` with it."""
    agreement = agreement or SaveAgreement()
    strategy = _StagedSave(copy, agreement)
    try:
        request = dist_checkpointing.save(
            state,
            str(folder),
            strategy,
            validate_access_integrity=not agreement.settled,
            async_sharded_save=True,
            content_metadata=dict(metadata),
        )
    except (OSError, RuntimeError) as error:
        if not strategy.entered:
            agree(brief(error))
        raise
    return StagedTensors(strategy, request.finalize_fns[-1])


def load_tensors(folder: Path, parts: ModelStates) -> None:
    """Load these parts of a checkpoint in place, with their optimizers if they have any. Collective.

    Optimizers keep their own settings (weight decay, betas, epsilon), not those that the checkpoint was written with.
    Raises BadInput if the checkpoint is of another model. Errors of the readers for unreadable files propagate.
    """
    states = _sharded_states(parts, is_loading=True)
    strategy = FullyParallelLoadStrategyWrapper(get_default_load_sharded_strategy(str(folder)), _ranks_with_the_same())
    everything, unasked, absent = dist_checkpointing.load(
        states, str(folder), strategy, strict=StrictHandling.RETURN_ALL
    )
    prefixes = [_prefix(name) for name in parts]
    names = {key: key.removeprefix(prefix) for key in unasked for prefix in prefixes if key.startswith(prefix)}
    if absent and any(name.startswith(_NUMBERED) for name in names.values()):
        raise BadInput(
            f"{folder} was written by an earlier version of this program, which named the optimizer's state of shared "
            "experts otherwise: resume it with that one"
        )
    unasked = {key for key, name in names.items() if not name.startswith(_NO_WEIGHTS)}
    unasked, absent = set(without_extra_states(unasked)), set(without_extra_states(absent))
    if unasked or absent:
        raise BadInput(
            f"the checkpoint {folder} is of another model: {min(unasked or absent)} is only in "
            f"{'the checkpoint' if unasked else 'this model'} ({len(unasked)} and {len(absent)} such tensors)"
        )
    for name, part in parts.items():
        loaded = everything[name] if name else everything
        for key, chunk in zip(_names(part.chunks), part.chunks, strict=True):
            fill(unwrap_model(chunk), loaded[key])
        if part.optimizer is not None:
            part.optimizer.load_state_dict(fitted(part.optimizer, loaded["optimizer"]))
            use_own_settings(part.optimizer)


def _ranks_with_the_same() -> dist.ProcessGroup:
    """Return the group in which tensors are replicated: fully for dense layers, partly for experts."""
    return parallel_state.get_data_parallel_group(with_context_parallel=True)


def _share_out(state: dict[str, Any], agreement: SaveAgreement) -> None:
    """Choose the rank that writes each replicated tensor, so that all ranks write about the same amount."""
    ranks = _ranks_with_the_same()
    if not agreement.settled:
        agreement.distribution = determine_main_replica_uniform_distribution(state, ranks)
        agreement.settled = True
    distribute_main_replicas_with_precomputed_distribution(state, ranks, agreement.distribution)


class _StagedSave(TorchDistSaveShardedStrategy):
    """Save in the torch_dist format in the three phases of torch's own writer: plan, write, index.

    Planning and indexing are collectives and stay in the training thread; writing is local.
    """

    def __init__(self, copy: bool, agreement: SaveAgreement) -> None:
        super().__init__("torch_dist", 1)
        self.copy, self.agreement = copy, agreement
        self.entered = False

    def async_save(
        self, sharded_state_dict: dict[str, Any], checkpoint_dir: str | Path, async_strategy: str | None = None
    ) -> AsyncRequest:
        """Plan the save for ``dist_checkpointing.save``, which adds its own last step to the returned request.

        ``async_strategy``, which Megatron-Core passes since 0.17, chooses among its own writers and is not used here.
        """
        self.entered = True
        # This also matches the collective in stage_state that rank 0 joins if it fails before this point.
        run_on_all_ranks_or_raise(lambda: _write_common_state(sharded_state_dict, Path(checkpoint_dir)), only_rank=0)
        _share_out(sharded_state_dict, self.agreement)
        flat, _, _ = _replace_state_dict_keys_with_sharded_keys(sharded_state_dict, self.keep_only_main_replica)
        self._writer = torch_checkpoint.FileSystemWriter(checkpoint_dir)
        self._ranks = _DistWrapper(None, True, 0)
        planner = PlainTensors(dedup_replicated_tensors=False, flatten_state_dict=False)

        def local_plan() -> SavePlan:
            planner.set_up_planner(mcore_to_pyt_state_dict(flat, False), None, self._ranks.is_coordinator)
            return self._writer.prepare_local_plan(planner.create_local_plan())

        def global_plan(plans: list[SavePlan]) -> list[SavePlan]:
            plans, self._metadata = planner.create_global_plan(plans)
            return self._writer.prepare_global_plan(plans)

        with _agreed():
            self._plan = planner.finish_plan(self._ranks.reduce_scatter("plan", local_plan, global_plan))
        self._contents: Any = _Copies(self._plan, planner) if self.copy else planner
        return AsyncRequest(None, (), [])

    def write(self) -> list[WriteResult]:
        done = self._writer.write_data(self._plan, self._contents)
        return done.wait()

    def write_index(self, results: list[WriteResult]) -> None:
        def write(of_all_ranks: list[list[WriteResult]]) -> None:
            self._writer.finish(self._metadata, of_all_ranks)

        with _agreed():
            self._ranks.all_reduce("index", lambda: results, write)


def _write_common_state(sharded_state: dict[str, Any], folder: Path) -> None:
    """Write ``common.pt``, which Megatron-Core up to 0.18 reads; 0.19 stores its content among the tensors."""
    stored = sharded_state.get(_COMMON_STATE)
    if isinstance(stored, ShardedObject):
        torch.save(stored.data, folder / COMMON_STATE_FNAME)


class _Copies:
    """Stands in for the planner and gives torch's writer copies of the tensors, made at construction."""

    def __init__(self, plan: SavePlan, planner: MCoreSavePlanner) -> None:
        self._copies = {}
        for item in plan.items:
            content = planner.resolve_data(item)
            if isinstance(content, torch.Tensor):  # all other values are already pickled into bytes
                content = content.detach().to("cpu", copy=True)
            self._copies[item.index] = content

    def resolve_data(self, item: WriteItem) -> torch.Tensor | BytesIO:
        return self._copies[item.index]


@contextmanager
def _agreed() -> Iterator[None]:
    """Convert an exception that torch raises on all ranks together into an AgreedProblem."""
    try:
        yield
    except TorchCheckpointException as failed:
        rank, (error, _) = next(iter(failed.failures.items()))
        raise AgreedProblem(f"rank {rank}: {brief(error)}") from None


def _names(chunks: Sequence[MegatronModule]) -> list[str]:
    """Return the keys that ``megatron.training`` gives to model chunks."""
    return ["model"] if len(chunks) == 1 else [f"model{index}" for index in range(len(chunks))]


def _prefix(name: str) -> str:
    """Return the prefix of a part's tensors."""
    return f"{name}." if name else ""


def _sharded_states(parts: ModelStates, is_loading: bool = False) -> dict[str, Any]:
    """Return the states of all parts: an unnamed part at the top level, as in megatron.training, others by name."""
    states: dict[str, Any] = {}
    for name, part in parts.items():
        state = _sharded_state(part, is_loading)
        add_prefix_for_sharding(state, _prefix(name))
        states |= {name: state} if name else state
    return states


def _sharded_state(part: ModelState, is_loading: bool) -> dict[str, Any]:
    state = {
        name: unwrap_model(chunk).sharded_state_dict(metadata=dict(_SHARDING))
        for name, chunk in zip(_names(part.chunks), part.chunks, strict=True)
    }
    if part.optimizer is not None:
        if is_loading:
            allocate_state(part.optimizer)
        state["optimizer"] = part.optimizer.sharded_state_dict(
            dict(state), is_loading=is_loading, metadata=dict(_SHARDING)
        )
    return state
