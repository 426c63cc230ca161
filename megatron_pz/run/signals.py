"""Stop a run on a signal, and keep two runs out of one directory."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import socket
import sys
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

import torch.distributed as dist

from megatron_pz.runtime.errors import BadInput
from megatron_pz.trainer.topology import Topology

_NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)
"""Errors of a file system without locks: Lustre without its mount option ``flock``, NFS without its daemon."""


class StopRequest:
    """Turns the first SIGINT, SIGTERM or SIGUSR1 into a request that the loop reads between two steps.

    A second Ctrl-C ends the process at once: the first SIGINT restores the default handlers of SIGINT and SIGTERM
    (torchrun answers the second Ctrl-C with SIGTERM). After SIGTERM or SIGUSR1, which schedulers may repeat, only
    SIGINT ends the process at once.

    ``megatron_pz.run.launcher`` starts workers with SIGUSR1 blocked, so that a request which arrives during the
    imports waits until this class unblocks it. The launcher passes signals on once every worker can save, and waits
    for the checkpoint.

    torchrun (2.13) passes SIGTERM, SIGINT, SIGHUP and SIGQUIT on and kills its workers 30 seconds later, or after
    ``TORCH_ELASTIC_SHUTDOWN_TIMEOUT`` seconds; SIGUSR1 ends torchrun itself, and its exit code is always 1.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        """The first signal that this process received."""
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        self._previous = {number: signal.signal(number, self._received) for number in self.SIGNALS}
        signal.pthread_sigmask(signal.SIG_UNBLOCK, self.SIGNALS)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def requested(self, topology: Topology) -> bool:
        """Return whether any rank has been asked to stop; all ranks get the same answer. Collective."""
        return topology.any_rank(self.signal is not None)

    def _received(self, number: int, frame: FrameType | None) -> None:
        if self.signal is None:
            self.signal = signal.Signals(number)
            if os.environ.get("RANK", "0") == "0":
                # Not print: the handler may run inside another print, whose lock it would wait for.
                os.write(
                    2,
                    f"\n{self.signal.name}: finishing this step, then saving a checkpoint; "
                    "Ctrl-C ends the run at once\n".encode(),
                )
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        if number == signal.SIGINT:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


class RunFolder:
    """A claimed output directory. The claim lasts until :meth:`release` or the end of the process."""

    def __init__(self, path: Path, lock: int | None) -> None:
        self.path = path
        self._lock = lock

    def release(self) -> None:
        """Release the claim, so that another run can use the directory."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def claim_run_folder(save: str | Path, load: str | Path) -> RunFolder:
    """Claim ``save`` for this run: create it if necessary and lock it. A collective of all ranks.

    A directory that is new or empty, apart from hidden names, can be claimed; any other only if ``load`` is the same
    directory. Rank 0 holds an exclusive lock on ``<save>/.lock``.

    Raises:
        BadInput: on every rank, if the directory holds another run's files, is used by a running run, or cannot be
            created.
    """
    path, lock, refusal = Path(save), None, None
    if dist.get_rank() == 0:
        try:
            lock = _claim(path, Path(load) if str(load) else None)
        except BadInput as error:
            refusal = str(error)
    answer = [refusal]
    dist.broadcast_object_list(answer, src=0)
    if answer[0] is not None:
        raise BadInput(answer[0])
    return RunFolder(path, lock)


def _claim(path: Path, load: Path | None) -> int:
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = os.open(path / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise BadInput(f"--save {path} cannot be used as an output directory: {error.strerror}") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _NO_LOCKS:
            print(
                f"--save {path} is on a file system without locks ({error.strerror}; Lustre needs the mount option "
                "flock): nothing keeps a second run out of this directory",
                file=sys.stderr,
                flush=True,
            )
        else:
            holder = os.pread(lock, 200, 0).decode(errors="replace").strip()
            os.close(lock)
            if error.errno != errno.EWOULDBLOCK:
                raise BadInput(f"--save {path} cannot be locked: {error.strerror}") from None
            raise BadInput(
                f"--save {path} is in use by a run that is still alive ({holder}): choose another, or delete "
                f"{path / '.lock'} if that machine is lost"
            ) from None
    try:
        _refuse_another_run(path, load)
    except BadInput:
        os.close(lock)
        raise
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
    return lock


def _refuse_another_run(path: Path, load: Path | None) -> None:
    if load is not None and load.exists() and load.samefile(path):
        return
    present = sorted(entry.name for entry in path.iterdir() if not entry.name.startswith("."))
    if present:
        raise BadInput(
            f"--save {path} is not empty (it holds {present[0]}): choose a new directory, "
            f"or go on with the run in it by --load {path}"
        )
