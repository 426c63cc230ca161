"""Write checkpoints that resume bit for bit and survive a crash or a full disk.

A run's directory holds::

    iter_0000100/                     one complete checkpoint
        .metadata, *.distcp, ...      weights and optimizer, Megatron-Core's torch_dist format
        run_state.json                the run's own state, the layout, and the size of every file
        rank_00000.pt                 state of that rank alone: its random number generators
        binary_00000.pt               state unsuited to JSON, by name, as uint8 tensors; only some ranks write it
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
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
import torch.distributed as dist
from megatron.core.optimizer import MegatronOptimizer
from megatron.core.transformer.module import MegatronModule

from megatron_pz.checkpoint import checkpoint_files as files
from megatron_pz.checkpoint.agreement import AgreedProblem, run_on_all_ranks_or_raise
from megatron_pz.checkpoint.checkpoint_files import Retention
from megatron_pz.checkpoint.header import architecture_of, parallel_layout
from megatron_pz.checkpoint.optimizer_state import has_stepped, optimizer_kind
from megatron_pz.checkpoint.sharded_state import (
    ModelState,
    ModelStates,
    SaveAgreement,
    StagedTensors,
    stage_tensors,
)
from megatron_pz.config.schema import ParallelConfig, TrainingConfig
from megatron_pz.runtime.errors import ExpectedFailure
from megatron_pz.runtime.watchdog import Watchdog


class CheckpointWriteFailed(ExpectedFailure):
    """A checkpoint could not be written. The previous one is intact."""


@dataclass(frozen=True)
class _Pending:
    """A checkpoint that has been started and does not have its final name yet."""

    iteration: int
    header: dict[str, Any]
    tensors: StagedTensors
    written: Future[None]


class CheckpointWriter:
    """Writes a run's checkpoints into one directory, one at a time. Every method is a collective of all ranks.

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
        """Make a writer from a run's settings. The deadline of disk I/O is the timeout of collectives."""
        minutes = parallel.distributed_timeout_minutes
        setting = f"--distributed-timeout-minutes {minutes:g}"
        return cls(
            training.save,
            parts,
            asynchronous=training.async_save,
            retention=Retention(training.keep_last, training.keep_every),
            on_disk=lambda: watchdog.phase("writing a checkpoint", 60 * minutes, setting),
        )

    def save(
        self,
        iteration: int,
        *,
        common: dict[str, Any],
        per_rank: dict[str, Any],
        binary: Mapping[str, bytes] = MappingProxyType({}),
    ) -> Path:
        """Write ``<directory>/iter_<iteration>`` and make it the latest, now or while training continues.

        The state of an optimizer that has not stepped yet is not stored.

        Args:
            common: the run's state, the same on all ranks, as JSON stores it (string keys, lists for tuples).
            per_rank: this rank's own state, of numbers, strings, tensors and containers of them
                (:func:`collect_rng_state`).
            binary: this rank's part of state that any rank may read; no other rank uses the same names.

        Returns:
            the checkpoint's directory, which an asynchronous save creates later.
        """
        self.wait()
        stored = {name: _with_stepped_optimizer(part) for name, part in self.parts.items()}
        header = {
            "iteration": iteration,
            "layout": parallel_layout(),
            "architecture": architecture_of(next(iter(self.parts.values())).chunks),
            "parts": {
                name: optimizer_kind(part.optimizer) if part.optimizer else None for name, part in stored.items()
            },
            "common": common,
        }
        header = json.loads(json.dumps(header))  # a copy; values that JSON cannot represent raise here
        with self._failing_together(iteration):
            self._pending = self._start(iteration, header, stored, per_rank, binary)
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

    def _start(
        self,
        iteration: int,
        header: dict[str, Any],
        parts: ModelStates,
        per_rank: dict[str, Any],
        binary: Mapping[str, bytes],
    ) -> _Pending:
        partial = files.partial_folder(self.root, iteration)
        own_state = io.BytesIO()
        run_on_all_ranks_or_raise(lambda: self._waiting(lambda: files.make_partial(partial)), only_rank=0)
        run_on_all_ranks_or_raise(lambda: _require_shared(partial))
        run_on_all_ranks_or_raise(lambda: torch.save(per_rank, own_state))
        # An optimizer is part of the state after its first step; otherwise every save has the same state.
        agreement = self._agreements.setdefault(json.dumps(header["parts"]), SaveAgreement())
        tensors = stage_tensors(parts, partial, copy=self.asynchronous, agreement=agreement)

        def write() -> None:
            tensors.write()
            path = partial / files.rank_file(dist.get_rank())
            path.write_bytes(own_state.getbuffer())
            files.flush(path)  # rank 0 cannot flush another node's files
            if binary:
                path = partial / files.binary_file(dist.get_rank())
                torch.save(
                    {name: torch.frombuffer(bytearray(each), dtype=torch.uint8) for name, each in binary.items()}, path
                )
                files.flush(path)

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
            dist.barrier()  # the first rank to exit ends the others, so wait until the directory is deleted
            last_good = files.latest_iteration(self.root)
            kept = "no earlier one exists" if last_good is None else f"the one of iteration {last_good} is untouched"
            raise CheckpointWriteFailed(
                f"the checkpoint of iteration {iteration} could not be written to {self.root} ({problem}; "
                f"{files.free_space(self.root)}); {kept}; free space or repair the disk, then resume"
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
    """Write one checkpoint of one model synchronously."""
    parts = {"": ModelState(chunks, optimizer)}
    return CheckpointWriter(directory, parts).save(iteration, common=common, per_rank=per_rank)


def _with_stepped_optimizer(part: ModelState) -> ModelState:
    return part if part.optimizer is not None and has_stepped(part.optimizer) else ModelState(part.chunks, None)


def _require_shared(partial: Path) -> None:
    if not partial.is_dir():
        raise OSError("the directory that rank 0 made is not visible here; it must be on a shared file system")


def _thread_on_this_device() -> ThreadPoolExecutor:
    """Make a thread that uses this process's GPU; torch's writer would otherwise open a context on GPU 0."""
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
