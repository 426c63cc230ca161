"""Write and load checkpoints that resume bit for bit and survive a crash or a full disk.

A run's directory holds::

    iter_0000100/                     one complete checkpoint
        .metadata, *.distcp, ...      weights and optimizer, Megatron-Core's torch_dist format
        run_state.json                the run's own state, the layout, and the size of every file
        rank_00000.pt                 what only that rank has: its random number generators
    latest_checkpointed_iteration.txt "100": the newest complete checkpoint, as Megatron-LM names it

A checkpoint is written under a hidden name, flushed to disk and renamed by rank 0; then the text file is replaced. If
any rank fails before that, the partial directory is removed, the last good checkpoint stays untouched, and all ranks
raise the same :class:`CheckpointWriteFailed`. The directory must be on a file system that all ranks share.

For an asynchronous checkpoint, the tensors are copied to host memory, and a thread of each rank writes them while
training continues. Planning, sealing and renaming stay in the training thread: collectives never overlap, and no
process is forked or spawned beside a rollout engine.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.optimizer import MegatronOptimizer
from megatron.core.transformer.module import MegatronModule
from torch.distributed.checkpoint import CheckpointException as TorchCheckpointException

from megatron_pz.checkpoint import checkpoint_files as files
from megatron_pz.checkpoint.agreement import AgreedProblem, run_on_all_ranks_or_raise
from megatron_pz.checkpoint.checkpoint_files import Retention, latest_iteration
from megatron_pz.checkpoint.rng_state import collect_rng_state, restore_rng_state
from megatron_pz.checkpoint.sharded_state import (
    ModelState,
    ModelStates,
    SaveAgreement,
    StagedTensors,
    has_stepped,
    load_tensors,
    optimizer_kind,
    restart,
    stage_tensors,
)
from megatron_pz.checkpoint.stored_architecture import architecture_of, require_same_architecture
from megatron_pz.config.schema import ParallelConfig, TrainingConfig
from megatron_pz.runtime.errors import BadInput, ExpectedFailure, brief
from megatron_pz.runtime.watchdog import Watchdog

__all__ = [
    "CheckpointWriteFailed",
    "CheckpointWriter",
    "LoadedState",
    "ModelState",
    "Retention",
    "collect_rng_state",
    "latest_iteration",
    "load_checkpoint",
    "load_model_weights",
    "restore_rng_state",
    "save_checkpoint",
]


class CheckpointWriteFailed(ExpectedFailure):
    """A checkpoint could not be written. The one before it is untouched."""


@dataclass(frozen=True)
class LoadedState:
    """State of a checkpoint beside weights and optimizer, which are loaded in place."""

    folder: Path
    iteration: int
    common: dict[str, Any]
    per_rank: dict[str, Any] | None
    """None when the checkpoint was written in another layout: there is no such rank then, so reseed."""

    def require(self, *names: str) -> None:
        """Raise BadInput unless ``common`` has these entries: another command may have written the checkpoint."""
        missing = [name for name in names if name not in self.common]
        if missing:
            raise BadInput(
                f"{self.folder} is not of a run of this kind (it has no {missing[0]}): resume with the command that "
                "wrote it, or start from its weights (tools/convert_checkpoint.py megatron-to-hf, then --hf-model)"
            )


@dataclass(frozen=True)
class _Pending:
    """A checkpoint that has been started and does not have its final name yet."""

    iteration: int
    header: dict[str, Any]
    tensors: StagedTensors
    written: Future[None]


class CheckpointWriter:
    """Write a run's checkpoints into one directory, one after the other. Every method is a collective of all ranks.

    With ``asynchronous``, :meth:`save` returns when the state has been copied, and a thread writes it. The first
    :meth:`poll`, :meth:`wait` or :meth:`save` after all ranks have written gives the checkpoint its name. One write is
    in progress at a time: the next :meth:`save` waits for the previous one. Call :meth:`wait` at the end of a run.

    The method that learns of a failed write raises CheckpointWriteFailed on all ranks.
    """

    def __init__(
        self,
        directory: str | Path,
        parts: ModelStates,
        *,
        asynchronous: bool = False,
        retention: Retention = Retention(),  # noqa: B008 -- frozen
        on_disk: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        """Prepare to write; nothing is created yet.

        Args:
            parts: the run's model under the empty name, or several models by name.
            on_disk: makes a context manager for every wait on the disk, such as a deadline.
        """
        self.root = Path(directory)
        self.parts = dict(parts)
        self.asynchronous, self.retention, self.on_disk = asynchronous, retention, on_disk
        self._thread = _thread_on_this_device() if asynchronous else None
        self._pending: _Pending | None = None
        self._agreements: dict[str, SaveAgreement] = {}

    @classmethod
    def of_run(
        cls, training: TrainingConfig, parallel: ParallelConfig, parts: ModelStates, watchdog: Watchdog
    ) -> CheckpointWriter:
        """Make a writer from a run's settings; a disk may hang as long as other ranks wait in a collective."""
        minutes = parallel.distributed_timeout_minutes
        setting = f"--distributed-timeout-minutes {minutes:g}"
        return cls(
            training.save,
            parts,
            asynchronous=training.async_save,
            retention=Retention(training.keep_last, training.keep_every),
            on_disk=lambda: watchdog.phase("writing a checkpoint", 60 * minutes, setting),
        )

    def save(self, iteration: int, *, common: dict[str, Any], per_rank: dict[str, Any]) -> Path:
        """Write ``<directory>/iter_<iteration>`` and make it the latest, now or while training continues.

        The state of an optimizer that has not stepped yet is not stored.

        Args:
            common: the run's state, the same on all ranks, as JSON stores it (string keys, lists for tuples).
            per_rank: this rank's own state, of numbers, strings, tensors and containers of them
                (:func:`collect_rng_state`).

        Returns:
            the checkpoint's directory, which an asynchronous save creates later.
        """
        self.wait()
        stored = {name: _with_stepped_optimizer(part) for name, part in self.parts.items()}
        header = {
            "iteration": iteration,
            "layout": _layout(),
            "architecture": architecture_of(next(iter(self.parts.values())).chunks),
            "parts": {
                name: optimizer_kind(part.optimizer) if part.optimizer else None for name, part in stored.items()
            },
            "common": common,
        }
        header = json.loads(json.dumps(header))  # a copy, which also raises early for what JSON cannot hold
        with self._failing_together(iteration):
            self._pending = self._start(iteration, header, stored, per_rank)
        if not self.asynchronous:
            self.wait()
        return files.folder_of(self.root, iteration)

    def poll(self) -> None:
        """Complete the pending checkpoint if all ranks have written it; do not wait for the disk."""
        if self._pending is not None and self._all_written(self._pending):
            self._finish(self._pending)

    def wait(self) -> None:
        """Wait until all ranks have written the pending checkpoint, and complete it."""
        if self._pending is not None:
            self._finish(self._pending)

    def _start(self, iteration: int, header: dict[str, Any], parts: ModelStates, per_rank: dict[str, Any]) -> _Pending:
        partial = files.partial_folder(self.root, iteration)
        own_state = io.BytesIO()
        run_on_all_ranks_or_raise(lambda: self._waiting(lambda: files.make_partial(partial)), only_rank=0)
        run_on_all_ranks_or_raise(lambda: _require_shared(partial))
        run_on_all_ranks_or_raise(lambda: torch.save(per_rank, own_state))
        # An optimizer joins the state after its first step; apart from that every save is of the same state.
        agreement = self._agreements.setdefault(json.dumps(header["parts"]), SaveAgreement())
        tensors = stage_tensors(parts, partial, copy=self.asynchronous, agreement=agreement)

        def write() -> None:
            tensors.write()
            path = partial / files.rank_file(dist.get_rank())
            path.write_bytes(own_state.getbuffer())
            files.flush(path)  # rank 0 of another node cannot do it for this one

        written = _done(lambda: self._waiting(write)) if self._thread is None else self._thread.submit(write)
        return _Pending(iteration, header, tensors, written)

    def _all_written(self, pending: _Pending) -> bool:
        answers: list[bool] = [False] * dist.get_world_size()
        dist.all_gather_object(answers, pending.written.done())
        return all(answers)

    def _finish(self, pending: _Pending) -> None:
        final = files.folder_of(self.root, pending.iteration)
        partial = files.partial_folder(self.root, pending.iteration)
        self._pending = None
        with self._failing_together(pending.iteration):
            run_on_all_ranks_or_raise(lambda: self._waiting(pending.written.result))
            pending.tensors.seal()
            run_on_all_ranks_or_raise(
                lambda: self._waiting(lambda: files.complete(partial, final, pending.header)), only_rank=0
            )
        if dist.get_rank() == 0:
            files.prune(self.root, self.retention)

    def _waiting(self, work: Callable[[], object]) -> None:
        with self.on_disk():
            work()

    @contextmanager
    def _failing_together(self, iteration: int) -> Iterator[None]:
        try:
            yield
        except AgreedProblem as problem:
            if dist.get_rank() == 0:
                files.clean_up(files.partial_folder(self.root, iteration))
            dist.barrier()  # the first rank to exit takes the others with it, so not before the folder is gone
            last_good = latest_iteration(self.root)
            kept = "no earlier one exists" if last_good is None else f"the one of iteration {last_good} is untouched"
            raise CheckpointWriteFailed(
                f"the checkpoint of iteration {iteration} could not be written to {self.root} ({problem}; "
                f"{files.free_space(self.root)}); {kept}; make room or mend the disk, then resume"
            ) from None


def save_checkpoint(
    directory: str | Path,
    iteration: int,
    chunks: Sequence[MegatronModule],
    optimizer: MegatronOptimizer | None,
    *,
    common: dict[str, Any],
    per_rank: dict[str, Any],
) -> Path:
    """Write one checkpoint of one model synchronously, without a writer of one's own."""
    parts = {"": ModelState(chunks, optimizer)}
    return CheckpointWriter(directory, parts).save(iteration, common=common, per_rank=per_rank)


def load_checkpoint(directory: str | Path, parts: ModelStates, iteration: int | None = None) -> LoadedState:
    """Load weights and optimizers in place from the latest checkpoint, or from that of ``iteration``. A collective.

    The number of ranks and the parallel sizes may differ from those that wrote it; ``use_distributed_optimizer`` and
    the precision may not. Raises BadInput if there is no checkpoint, or it is damaged or of another model.
    """
    folder, header = _opened(Path(directory), iteration)
    saved_kinds = _kinds(header, folder)
    if saved_kinds.keys() != parts.keys():
        raise BadInput(
            f"{folder} holds {_names_of(saved_kinds)}, this run has {_names_of(parts)}: resume with the same "
            "--policy-sharing"
        )
    for name, part in parts.items():
        require_same_architecture(header, part.chunks, folder)
        if part.optimizer is not None:
            _require_same_kind(saved_kinds[name], optimizer_kind(part.optimizer), folder)
    with reading(folder):
        load_tensors(
            folder,
            {name: part if saved_kinds[name] else ModelState(part.chunks, None) for name, part in parts.items()},
        )
    for name, part in parts.items():
        if part.optimizer is not None and not saved_kinds[name]:
            restart(part.optimizer)
    per_rank = None
    if header["layout"] == _layout():
        with reading(folder):
            per_rank = torch.load(folder / files.rank_file(dist.get_rank()), map_location="cpu", weights_only=True)
    return LoadedState(folder, header["iteration"], header["common"], per_rank)


def load_model_weights(
    directory: str | Path, chunks: Sequence[MegatronModule], iteration: int | None = None, name: str = ""
) -> dict[str, Any]:
    """Load the weights of one part only, in any parallel layout, from the latest checkpoint or that of ``iteration``.

    Call it before :func:`megatron_pz.trainer.optimizer.wrap`: master weights that exist already are not touched.

    Returns:
        the checkpoint's ``common`` state. Raises BadInput as :func:`load_checkpoint` does.
    """
    folder, header = _opened(Path(directory), iteration)
    saved_kinds = _kinds(header, folder)
    if name not in saved_kinds:
        raise BadInput(f"{folder} holds {_names_of(saved_kinds)}, not {_names_of([name])}: name one that it has")
    require_same_architecture(header, chunks, folder)
    with reading(folder):
        load_tensors(folder, {name: ModelState(chunks, None)})
    return header["common"]


def _with_stepped_optimizer(part: ModelState) -> ModelState:
    return part if part.optimizer is not None and has_stepped(part.optimizer) else ModelState(part.chunks, None)


def _kinds(header: dict[str, Any], folder: Path) -> dict[str, str | None]:
    """Return each part's kind of optimizer, None where it had none or the optimizer had not stepped."""
    if "parts" not in header:
        raise BadInput(f"{folder} was written by an earlier version of this program: resume it with that one")
    return header["parts"]


def _require_same_kind(saved: str | None, own: str, folder: Path) -> None:
    """Refuse another kind of optimizer. Experts that ranks share have one of their own, of the same class (``A+A``)."""
    if saved is not None and set(saved.split("+")) != set(own.split("+")):
        raise BadInput(
            f"{folder} was written with the optimizer {saved}, this run has {own}: resume with the same "
            "--use-distributed-optimizer and precision"
        )


def _names_of(parts: Iterable[str]) -> str:
    return " and ".join(f"a policy of the {name}" if name else "one policy for both roles" for name in parts)


def _layout() -> dict[str, int]:
    return {
        "world_size": dist.get_world_size(),
        "tensor_model_parallel_size": parallel_state.get_tensor_model_parallel_world_size(),
        "pipeline_model_parallel_size": parallel_state.get_pipeline_model_parallel_world_size(),
        "context_parallel_size": parallel_state.get_context_parallel_world_size(),
        "expert_model_parallel_size": parallel_state.get_expert_model_parallel_world_size(),
    }


def _opened(root: Path, iteration: int | None) -> tuple[Path, dict[str, Any]]:
    """Return the directory and the header of an iteration, or of the latest. A collective.

    Rank 0 looks for all ranks: the check asks the file system for the size of every file, at least one for each rank
    that wrote, and the nodes of a network file system may disagree on the latest for a while.
    """
    answer: list[Any] = [None]
    if dist.get_rank() == 0:
        try:
            folder = _find(root, iteration)
            answer = [(folder, files.read_header(folder))]
        except BadInput as refusal:
            answer = [str(refusal)]
    dist.broadcast_object_list(answer, src=0)
    if isinstance(answer[0], str):
        raise BadInput(answer[0])
    return answer[0]


def _find(root: Path, iteration: int | None) -> Path:
    """Return the directory of an iteration, or of the latest, and finish an interrupted replacement of it."""
    if iteration is None:
        iteration = latest_iteration(root)
        if iteration is None:
            raise BadInput(f"there is no checkpoint in {root}: it has no {files.LATEST}")
    folder = files.folder_of(root, iteration)
    if not folder.is_dir():
        with suppress(OSError):
            files.put_back_replaced(root)
    if not folder.is_dir():
        have = ", ".join(map(str, sorted(files.iterations(root)))) or "none"
        raise BadInput(f"{root} has no checkpoint of iteration {iteration} (complete ones: {have})")
    return folder


def _require_shared(partial: Path) -> None:
    if not partial.is_dir():
        raise OSError("the directory that rank 0 made is not visible here; it must be on a shared file system")


def _thread_on_this_device() -> ThreadPoolExecutor:
    """Make a thread that uses this process's GPU: torch's writer would otherwise open a context on the first GPU."""
    device = torch.cuda.current_device() if torch.cuda.is_available() else None
    use_device = None if device is None else lambda: torch.cuda.set_device(device)
    return ThreadPoolExecutor(1, thread_name_prefix="checkpoint", initializer=use_device)


def _done(write: Callable[[], None]) -> Future[None]:
    """Run the work now and return its outcome as a future."""
    outcome: Future[None] = Future()
    try:
        write()
        outcome.set_result(None)
    except Exception as error:
        outcome.set_exception(error)
    return outcome


@contextmanager
def reading(folder: Path) -> Iterator[None]:
    """Turn any error while files are read into a BadInput of one line; a damaged pickle can raise any exception."""
    try:
        yield
    except BadInput:
        raise
    except TorchCheckpointException as failed:  # not an Exception
        rank, (error, _) = next(iter(failed.failures.items()))
        raise BadInput(f"the checkpoint {folder} cannot be loaded (rank {rank}: {brief(error)})") from error
    except Exception as error:
        raise BadInput(f"the checkpoint {folder} cannot be loaded ({brief(error)})") from error
