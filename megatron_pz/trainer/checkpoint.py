"""Checkpoints that resume bit for bit, and that a crash or a full disk cannot spoil.

A run's folder holds::

    iter_0000100/                     one complete checkpoint
        .metadata, *.distcp, ...      weights and optimizer, Megatron-Core's torch_dist format
        run_state.json                the run's own state, the layout, and the size of every file
        rank_00000.pt                 what only that rank has: its random number generators
    latest_checkpointed_iteration.txt "100": the newest complete checkpoint, as Megatron-LM names it

A checkpoint is written under a hidden name, flushed to the disk, and renamed by rank 0; then the text file is replaced.
Whatever fails, on whichever rank, before that: the partial folder goes, the last good checkpoint is as it was, and all
ranks raise the same :class:`CheckpointWriteFailed`. The folder must be on a file system that all ranks share.

Tensors are written by the training process itself. Megatron-Core's own writer forks one process a file and spawns a
manager that imports the main module again: nothing to do in a process that has a living vLLM engine and its threads.
"""

from __future__ import annotations

import json
import logging
import os
import pickle
import random
import shutil
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from megatron.core import dist_checkpointing, parallel_state
from megatron.core.dist_checkpointing.core import CheckpointingException
from megatron.core.dist_checkpointing.strategies.torch import (
    MCoreSavePlanner,
    TorchDistSaveShardedStrategy,
    _replace_state_dict_keys_with_sharded_keys,
    mcore_to_pyt_state_dict,
)
from megatron.core.dist_checkpointing.validation import StrictHandling
from megatron.core.optimizer import MegatronOptimizer
from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer
from megatron.core.tensor_parallel import get_cuda_rng_tracker
from megatron.core.transformer.module import MegatronModule
from megatron.core.utils import unwrap_model
from torch.distributed import checkpoint as torch_checkpoint
from torch.distributed.checkpoint import CheckpointException as TorchCheckpointException

from megatron_pz.errors import BadInput

logger = logging.getLogger(__name__)

LATEST = "latest_checkpointed_iteration.txt"
RUN_STATE = "run_state.json"

# Weights and moments are stored as whole tensors of the model, so that a run can resume in another layout.
_SHARDING = {"distrib_optim_sharding_type": "fully_reshardable", "distrib_optim_fully_reshardable_mem_efficient": False}

_UNREADABLE = (
    OSError,
    RuntimeError,
    ValueError,
    KeyError,
    EOFError,
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    CheckpointingException,
    TorchCheckpointException,
)
"""What Megatron-Core and torch raise, at several depths, for files that are damaged or belong to another model."""


class CheckpointWriteFailed(BadInput):
    """A checkpoint could not be written. The one before it is untouched."""


@dataclass(frozen=True)
class LoadedState:
    """What a checkpoint holds beside weights and optimizer, which are loaded in place."""

    iteration: int
    common: dict[str, Any]
    per_rank: dict[str, Any] | None
    """None when the checkpoint was written in another layout: there is no such rank then, so reseed."""


def save_checkpoint(
    directory: str | Path,
    iteration: int,
    chunks: Sequence[MegatronModule],
    optimizer: MegatronOptimizer | None,
    *,
    common: dict[str, Any],
    per_rank: dict[str, Any],
) -> Path:
    """Write ``<directory>/iter_<iteration>`` and make it the latest. A collective of all ranks.

    Args:
        chunks: the model as built or as wrapped.
        optimizer: None stores weights only. An optimizer that has not stepped yet has no state to store.
        common: the run's state, the same on all ranks; what JSON keeps (string keys, lists for tuples).
        per_rank: this rank's own state: numbers, strings, tensors and containers of them (:func:`collect_rng_state`).

    Returns:
        the checkpoint's folder.

    Raises:
        CheckpointWriteFailed: on all ranks, when any rank could not write.
    """
    root = Path(directory)
    final = _folder(root, iteration)
    partial = root / f".{final.name}.tmp"
    stepped = optimizer is not None and _has_stepped(optimizer)
    header = {"iteration": iteration, "layout": _layout(), "optimizer": _kind(optimizer) if stepped else None}
    header["common"] = common
    json.dumps(header)  # a state that JSON cannot hold is a mistake of the caller: say so before anything is written
    try:
        _together(lambda: _make_partial(root, partial), only_rank=0)
        _together(lambda: torch.save(per_rank, partial / _rank_file(dist.get_rank())))
        _write_tensors(_sharded_state(chunks, optimizer if stepped else None), partial)
        _together(lambda: _complete(partial, final, header), only_rank=0)
    except _WriteProblem as problem:
        if dist.get_rank() == 0:
            shutil.rmtree(partial, ignore_errors=True)
        last_good = latest_iteration(root)
        kept = "no earlier one exists" if last_good is None else f"the one of iteration {last_good} is untouched"
        raise CheckpointWriteFailed(
            f"the checkpoint of iteration {iteration} could not be written to {root} ({problem}); {kept}; "
            "make room or mend the disk, then resume"
        ) from None
    return final


def load_checkpoint(
    directory: str | Path,
    chunks: Sequence[MegatronModule],
    optimizer: MegatronOptimizer,
    iteration: int | None = None,
) -> LoadedState:
    """Load weights and optimizer in place from the latest checkpoint, or from that of ``iteration``. A collective.

    The number of ranks and the parallel sizes may differ from those that wrote it; ``use_distributed_optimizer`` and
    the precision may not. Raises BadInput if there is no checkpoint, or it is damaged or of another model.
    """
    folder = _resolve(Path(directory), iteration)
    header = _read_header(folder)
    saved_kind = header["optimizer"]
    if saved_kind not in (None, _kind(optimizer)):
        raise BadInput(
            f"{folder} was written with the optimizer {saved_kind}, this run has {_kind(optimizer)}: "
            "resume with the same --use-distributed-optimizer and precision"
        )
    _load_tensors(folder, chunks, optimizer if saved_kind else None)
    if not saved_kind:
        _restart_optimizer(optimizer)
    per_rank = None
    if header["layout"] == _layout():
        with _reading(folder):
            per_rank = torch.load(folder / _rank_file(dist.get_rank()), map_location="cpu", weights_only=True)
    return LoadedState(header["iteration"], header["common"], per_rank)


def load_model_weights(
    directory: str | Path, chunks: Sequence[MegatronModule], iteration: int | None = None
) -> dict[str, Any]:
    """Load the weights only, in any parallel layout, from the latest checkpoint or that of ``iteration``.

    Call it before :func:`megatron_pz.trainer.optimizer.wrap`: master weights that exist already are not touched.

    Returns:
        the checkpoint's ``common`` state. Raises BadInput as :func:`load_checkpoint` does.
    """
    folder = _resolve(Path(directory), iteration)
    header = _read_header(folder)
    _load_tensors(folder, chunks, None)
    return header["common"]


def latest_iteration(directory: str | Path) -> int | None:
    """Iteration of the newest complete checkpoint, None where there is none. BadInput if the record is broken."""
    record = Path(directory) / LATEST
    try:
        text = record.read_text().strip()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{record} cannot be read: {error}") from None
    if not text.isdecimal():
        raise BadInput(f"{record} holds {text[:40]!r} where the number of an iteration should stand")
    return int(text)


def prune(directory: str | Path, keep_last: int) -> None:
    """Delete all but the newest ``keep_last`` checkpoints (0 keeps all) and never the latest. Only rank 0 acts."""
    if dist.get_rank() != 0 or keep_last == 0:
        return
    root = Path(directory)
    latest = latest_iteration(root)
    for iteration in sorted(_iterations(root))[:-keep_last]:
        if iteration == latest:
            continue
        folder = _folder(root, iteration)
        doomed = root / f".{folder.name}.old"  # hidden first: a checkpoint that is half deleted must not look whole
        try:
            os.replace(folder, doomed)
            shutil.rmtree(doomed)
        except OSError as error:
            logger.warning("the old checkpoint %s could not be deleted: %s", folder, error)


def collect_rng_state() -> dict[str, Any]:
    """The state of every random number generator of this process, as plain values and tensors."""
    algorithm, keys, *rest = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": (algorithm, torch.from_numpy(keys.astype(np.int64)), *rest),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
        "megatron": get_cuda_rng_tracker().get_states(),
    }


def restore_rng_state(state: dict[str, Any]) -> None:
    """Set every generator to what :func:`collect_rng_state` saw."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    algorithm, keys, *rest = state["numpy"]
    np.random.set_state((algorithm, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
    get_cuda_rng_tracker().set_states(state["megatron"])


# ---- names and records -----------------------------------------------------------------------------------------------


def _folder(root: Path, iteration: int) -> Path:
    return root / f"iter_{iteration:07d}"


def _rank_file(rank: int) -> str:
    return f"rank_{rank:05d}.pt"


def _iterations(root: Path) -> Iterator[int]:
    for path in root.glob("iter_*"):
        number = path.name.removeprefix("iter_")
        if number.isdecimal() and (path / RUN_STATE).is_file():
            yield int(number)


def _layout() -> dict[str, int]:
    return {
        "world_size": dist.get_world_size(),
        "tensor_model_parallel_size": parallel_state.get_tensor_model_parallel_world_size(),
        "pipeline_model_parallel_size": parallel_state.get_pipeline_model_parallel_world_size(),
    }


def _parts(optimizer: MegatronOptimizer) -> list[MegatronOptimizer]:
    """The optimizers that Megatron-Core chained, one a kind of parameter, without those that own no parameter here."""
    chained = getattr(optimizer, "chained_optimizers", [optimizer])
    return [part for part in chained if not part.is_stub_optimizer]


def _kind(optimizer: MegatronOptimizer) -> str:
    return "+".join(type(part).__name__ for part in _parts(optimizer))


def _has_stepped(optimizer: MegatronOptimizer) -> bool:
    return any(len(part.optimizer.state) > 0 for part in _parts(optimizer))


def _resolve(root: Path, iteration: int | None) -> Path:
    if iteration is None:
        iteration = latest_iteration(root)
        if iteration is None:
            raise BadInput(f"there is no checkpoint in {root}: it has no {LATEST}")
    folder = _folder(root, iteration)
    if not folder.is_dir():
        have = ", ".join(map(str, sorted(_iterations(root)))) or "none"
        raise BadInput(f"{root} has no checkpoint of iteration {iteration} (complete ones: {have})")
    return folder


def _read_header(folder: Path) -> dict[str, Any]:
    """The content of run_state.json, once every file that it lists is there in its full size."""
    record = folder / RUN_STATE
    try:
        header = json.loads(record.read_text())
        sizes = header["files"]
        damaged = [name for name, size in sizes.items() if _size(folder / name) != size]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInput(f"the checkpoint {folder} has no usable {RUN_STATE} ({_one_line(error)})") from None
    if damaged:
        name = damaged[0]
        raise BadInput(
            f"the checkpoint {folder} is damaged: {name} has {_size(folder / name)} bytes instead of {sizes[name]}; "
            "resume from an older one"
        )
    return header


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _one_line(error: BaseException, length: int = 300) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= length else f"{text[:length]}…"


# ---- writing ---------------------------------------------------------------------------------------------------------


class _WriteProblem(Exception):
    """Some rank could not write; raised on all of them."""


def _agree(problem: str | None) -> None:
    """Raise _WriteProblem on every rank if any rank brings a problem. A collective."""
    problems: list[str | None] = [None] * dist.get_world_size()
    dist.all_gather_object(problems, problem)
    for rank, found in enumerate(problems):
        if found is not None:
            raise _WriteProblem(f"rank {rank}: {found}")


def _together(action: Callable[[], object], only_rank: int | None = None) -> None:
    """Do local work on all ranks, or on one, and let all ranks fail if one did. torch.save reports OSErrors as
    RuntimeErrors."""
    problem = None
    if only_rank in (None, dist.get_rank()):
        try:
            action()
        except (OSError, RuntimeError) as error:
            problem = _one_line(error)
    _agree(problem)


def _make_partial(root: Path, partial: Path) -> None:
    root.mkdir(parents=True, exist_ok=True)
    for leftover in root.glob(".iter_*"):  # of a run that was killed while it wrote or deleted
        shutil.rmtree(leftover)
    partial.mkdir()


class _InProcessSave(TorchDistSaveShardedStrategy):
    """Megatron-Core's torch_dist format, written by torch's own FileSystemWriter in this process."""

    def __init__(self) -> None:
        super().__init__("torch_dist", 1)
        self.entered = False

    def save(self, sharded_state_dict: dict[str, Any], checkpoint_dir: str | Path) -> None:
        self.entered = True
        _agree(None)  # Megatron-Core lets rank 0 write the unsharded part just before; see _write_tensors
        flat, _, _ = _replace_state_dict_keys_with_sharded_keys(sharded_state_dict, self.keep_only_main_replica)
        try:
            torch_checkpoint.save(
                mcore_to_pyt_state_dict(flat, False),
                storage_writer=torch_checkpoint.FileSystemWriter(checkpoint_dir),
                planner=MCoreSavePlanner(dedup_replicated_tensors=False, flatten_state_dict=False),
            )
        except TorchCheckpointException as failed:  # raised on all ranks together
            rank, (error, _) = next(iter(failed.failures.items()))
            raise _WriteProblem(f"rank {rank}: {_one_line(error)}") from None


def _write_tensors(state: dict[str, Any], partial: Path) -> None:
    """Write the sharded state. Megatron-Core lets rank 0 alone write two small files, before and after the strategy's
    ``save``; when one of them fails, rank 0 catches up with the collective in which the others wait for it."""
    strategy = _InProcessSave()
    problem = None
    try:
        dist_checkpointing.save(state, str(partial), strategy, content_metadata=dict(_SHARDING))
    except (OSError, RuntimeError) as error:
        problem = _one_line(error)
        if strategy.entered:
            dist.barrier()
    _agree(problem)


def _complete(partial: Path, final: Path, header: dict[str, Any]) -> None:
    """Rank 0: seal the partial folder, give it its name, and only then call it the latest."""
    sizes = {path.name: path.stat().st_size for path in sorted(partial.iterdir())}
    (partial / RUN_STATE).write_text(json.dumps({**header, "files": sizes}, indent=1) + "\n")
    for path in partial.iterdir():
        _flush(path)
    _flush(partial)
    if final.exists():  # the same iteration, done again after resuming from an earlier one
        os.replace(final, final.with_name(f".{final.name}.old"))
    os.replace(partial, final)
    _flush(final.parent)
    record = final.parent / f".{LATEST}.tmp"
    record.write_text(f"{header['iteration']}\n")
    _flush(record)
    os.replace(record, final.parent / LATEST)
    _flush(final.parent)


def _flush(path: Path) -> None:
    """Make sure that the file, or the names in the folder, have reached the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# ---- tensors ---------------------------------------------------------------------------------------------------------


def _sharded_state(
    chunks: Sequence[MegatronModule], optimizer: MegatronOptimizer | None, is_loading: bool = False
) -> dict[str, Any]:
    """Megatron-Core's sharded state of model and optimizer, under the keys of ``megatron.training``."""
    names = ["model"] if len(chunks) == 1 else [f"model{index}" for index in range(len(chunks))]
    state = {
        name: unwrap_model(chunk).sharded_state_dict(metadata=dict(_SHARDING))
        for name, chunk in zip(names, chunks, strict=True)
    }
    if optimizer is not None:
        if is_loading:
            _allocate_state(optimizer)
        # A copy of the dictionaries: the optimizer's view must not gain the optimizer itself.
        state["optimizer"] = optimizer.sharded_state_dict(dict(state), is_loading=is_loading, metadata=dict(_SHARDING))
    return state


def _allocate_state(optimizer: MegatronOptimizer) -> None:
    """The distributed optimizer's loader expects that torch's Adam has a state already."""
    for part in _parts(optimizer):
        if isinstance(part, DistributedOptimizer) and not part.optimizer.state:
            part._init_optimizer_states_with_dummy_values()


def _restart_optimizer(optimizer: MegatronOptimizer) -> None:
    """As at the start of a run: no moments, master weights equal to the model's."""
    for part in _parts(optimizer):
        part.optimizer.state.clear()
    optimizer.reload_model_params()


def _load_tensors(folder: Path, chunks: Sequence[MegatronModule], optimizer: MegatronOptimizer | None) -> None:
    state = _sharded_state(chunks, optimizer, is_loading=True)
    names = [name for name in state if name != "optimizer"]
    with _reading(folder):
        loaded, surplus, lacking = dist_checkpointing.load(state, str(folder), strict=StrictHandling.RETURN_ALL)
        surplus = {key for key in surplus if not key.startswith(("optimizer.", "common_state"))}
        if surplus or lacking:
            one = min(surplus or lacking)
            raise BadInput(
                f"the checkpoint {folder} is of another model: {one} is only in "
                f"{'the checkpoint' if surplus else 'this model'} ({len(surplus)} and {len(lacking)} such tensors)"
            )
        for name, chunk in zip(names, chunks, strict=True):
            unwrap_model(chunk).load_state_dict(loaded[name], strict=True)
        if optimizer is not None:
            optimizer.load_state_dict(loaded["optimizer"])


@contextmanager
def _reading(folder: Path) -> Iterator[None]:
    try:
        yield
    except TorchCheckpointException as failed:
        rank, (error, _) = next(iter(failed.failures.items()))
        raise BadInput(f"the checkpoint {folder} cannot be loaded (rank {rank}: {_one_line(error)})") from None
    except _UNREADABLE as error:
        raise BadInput(f"the checkpoint {folder} cannot be loaded ({_one_line(error)})") from None
