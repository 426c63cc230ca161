"""Prevent two runs from using one output directory, and a new run from using the directory of another."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import sys
from pathlib import Path

from megatron_pz.runtime.errors import BadInput
from megatron_pz.runtime.first_rank import on_first_rank

_NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)
"""Errors of a file system without locks: Lustre without its mount option ``flock``, NFS without its daemon."""


class RunDirectory:
    """A claimed output directory. The claim lasts until :meth:`release` or the end of the process."""

    def __init__(self, path: Path, lock: int | None) -> None:
        self.path = path
        self._lock = lock

    def release(self) -> None:
        """Release the claim, so that another run can use the directory."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def claim_run_directory(save: str | Path, load: str | Path) -> RunDirectory:
    """Claim ``save`` for this run: create it if necessary and lock it. Collective over all ranks.

    A directory that is new, or empty apart from hidden names, can be claimed; any other only if ``load`` is the same
    directory. Rank 0 holds an exclusive lock on ``<save>/.lock``.

    Raises:
        BadInput: on every rank, if the directory has another run's files, is in use by a run, or cannot be created.
    """
    path = Path(save)
    locks: list[int] = []
    on_first_rank(lambda: locks.append(_claim(path, Path(load) if str(load) else None)))
    return RunDirectory(path, locks[0] if locks else None)


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
            f"or continue the run in it by --load {path}"
        )
