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
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.optimizer import MegatronOptimizer
from megatron.core.transformer.module import MegatronModule
from torch.distributed.checkpoint import CheckpointException as TorchCheckpointException

from megatron_pz.errors import BadInput
from megatron_pz.trainer.agreement import AgreedProblem, one_line, together
from megatron_pz.trainer.rng_state import collect_rng_state, restore_rng_state
from megatron_pz.trainer.sharded_state import has_stepped, load_tensors, optimizer_kind, restart, write_tensors

__all__ = [
    "CheckpointWriteFailed",
    "LoadedState",
    "collect_rng_state",
    "latest_iteration",
    "load_checkpoint",
    "load_model_weights",
    "prune",
    "restore_rng_state",
    "save_checkpoint",
]

logger = logging.getLogger(__name__)

LATEST = "latest_checkpointed_iteration.txt"
RUN_STATE = "run_state.json"


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
    stored = optimizer if optimizer is not None and has_stepped(optimizer) else None
    header = {
        "iteration": iteration,
        "layout": _layout(),
        "optimizer": optimizer_kind(stored) if stored is not None else None,
        "common": common,
    }
    json.dumps(header)  # a state that JSON cannot hold is a mistake of the caller: say so before anything is written
    try:
        together(lambda: _make_partial(root, partial), only_rank=0)
        together(lambda: _require_shared(partial))
        write_tensors(chunks, stored, partial)
        together(lambda: _write_own_state(per_rank, partial / _rank_file(dist.get_rank())))
        together(lambda: _complete(partial, final, header), only_rank=0)
    except AgreedProblem as problem:
        if dist.get_rank() == 0:
            _clean_up(root, partial)
        dist.barrier()  # the first rank to exit takes the others with it, so not before the folder is gone
        last_good = latest_iteration(root)
        kept = "no earlier one exists" if last_good is None else f"the one of iteration {last_good} is untouched"
        raise CheckpointWriteFailed(
            f"the checkpoint of iteration {iteration} could not be written to {root} ({problem}; {_free_space(root)}); "
            f"{kept}; make room or mend the disk, then resume"
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
    folder = _find(Path(directory), iteration)
    header = _read_header(folder)
    saved_kind = header["optimizer"]
    if saved_kind not in (None, optimizer_kind(optimizer)):
        raise BadInput(
            f"{folder} was written with the optimizer {saved_kind}, this run has {optimizer_kind(optimizer)}: "
            "resume with the same --use-distributed-optimizer and precision"
        )
    with _reading(folder):
        load_tensors(folder, chunks, optimizer if saved_kind else None)
    if not saved_kind:
        restart(optimizer)
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
    folder = _find(Path(directory), iteration)
    header = _read_header(folder)
    with _reading(folder):
        load_tensors(folder, chunks, None)
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
        doomed = root / f".{folder.name}.tmp"  # hidden first: a checkpoint that is half deleted must not look whole
        try:
            os.replace(folder, doomed)
            shutil.rmtree(doomed)
        except OSError as error:
            logger.warning("the old checkpoint %s could not be deleted: %s", folder, error)


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


def _find(root: Path, iteration: int | None) -> Path:
    """The folder of an iteration, or of the latest. A collective."""
    if iteration is None:
        iteration = latest_iteration(root)
        if iteration is None:
            raise BadInput(f"there is no checkpoint in {root}: it has no {LATEST}")
    folder = _folder(root, iteration)
    if dist.get_rank() == 0 and not folder.is_dir():
        with suppress(OSError):
            _put_back_replaced(root)
    dist.barrier()
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
        raise BadInput(f"the checkpoint {folder} has no usable {RUN_STATE} ({one_line(error)})") from None
    if damaged:
        name = damaged[0]
        raise BadInput(
            f"the checkpoint {folder} is damaged: {name} has {_size(folder / name)} bytes instead of {sizes[name]}; "
            "resume from an older one"
        )
    return header


def _free_space(root: Path) -> str:
    try:
        return f"{shutil.disk_usage(root).free / 2**30:.1f} GiB are free there"
    except OSError as error:
        return one_line(error)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


# ---- writing ---------------------------------------------------------------------------------------------------------


def _make_partial(root: Path, partial: Path) -> None:
    root.mkdir(parents=True, exist_ok=True)
    _put_back_replaced(root)
    for leftover in root.glob(".iter_*.tmp"):  # of a run that was killed while it wrote or pruned
        shutil.rmtree(leftover)
    partial.mkdir()


def _put_back_replaced(root: Path) -> None:
    """Undo a replacement (see _complete) that was cut in two; or finish one that only left the old folder over."""
    for replaced in root.glob(".iter_*.old"):
        final = root / replaced.name.removeprefix(".").removesuffix(".old")
        if final.exists():
            shutil.rmtree(replaced)
        else:
            os.replace(replaced, final)


def _clean_up(root: Path, partial: Path) -> None:
    """Leave the folder as it was before a failed write, as far as its disk allows."""
    shutil.rmtree(partial, ignore_errors=True)
    with suppress(OSError):
        _record_in_waiting(root).unlink(missing_ok=True)
        _put_back_replaced(root)


def _record_in_waiting(root: Path) -> Path:
    return root / f".{LATEST}.tmp"


def _require_shared(partial: Path) -> None:
    if not partial.is_dir():
        raise OSError("the folder that rank 0 made is not to be seen here; it must be on a shared file system")


def _write_own_state(state: dict[str, Any], path: Path) -> None:
    with path.open("wb") as file:  # through Python's file, whose errors name their cause
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())  # rank 0 of another node cannot do it for this one


def _complete(partial: Path, final: Path, header: dict[str, Any]) -> None:
    """Rank 0: seal the partial folder, give it its name, and only then call it the latest."""
    sizes = {path.name: path.stat().st_size for path in sorted(partial.iterdir())}
    (partial / RUN_STATE).write_text(json.dumps({**header, "files": sizes}, indent=1) + "\n")
    for path in partial.iterdir():
        _flush(path)
    _flush(partial)
    record = _record_in_waiting(final.parent)
    record.write_text(f"{header['iteration']}\n")
    _flush(record)
    # From here on nothing needs space.
    replaced = final.with_name(f".{final.name}.old")
    if final.exists():  # the same iteration, done again after resuming from an earlier one
        os.replace(final, replaced)
    os.replace(partial, final)
    _flush(final.parent)
    os.replace(record, final.parent / LATEST)
    _flush(final.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def _flush(path: Path) -> None:
    """Make sure that the file, or the names in the folder, have reached the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _reading(folder: Path) -> Iterator[None]:
    """One line for whatever goes wrong with the files. A damaged pickle can raise any exception there is."""
    try:
        yield
    except BadInput:
        raise
    except TorchCheckpointException as failed:  # not an Exception
        rank, (error, _) = next(iter(failed.failures.items()))
        raise BadInput(f"the checkpoint {folder} cannot be loaded (rank {rank}: {one_line(error)})") from error
    except Exception as error:
        raise BadInput(f"the checkpoint {folder} cannot be loaded ({one_line(error)})") from error
