"""Manage the directory beside the outputs that holds a run's unfinished work."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import shutil
from collections.abc import Iterator
from pathlib import Path

from megatron_pz.runtime.errors import BadInput
from megatron_pz.wikipedia.pipeline.options import Part

_LOCK = "lock"


def folder_of(output_prefix: str) -> Path:
    return Path(f"{output_prefix}.working")


@contextlib.contextmanager
def working_folder(output_prefix: str, fresh: bool, part: Part | None = None) -> Iterator[Path]:
    """Create the directory if it is missing, and lock it. Its content stays until :func:`clear`.

    Args:
        output_prefix: Prefix of the outputs.
        fresh: Empty the directory first.
        part: Share the directory with the other parts of the work, each of which has a separate lock.

    Raises:
        BadInput: Another run uses the directory, or the disk is full or cannot be written.
    """
    work = folder_of(output_prefix)
    try:
        work.mkdir(parents=True, exist_ok=True)
        with (work / _LOCK).open("w") as lock, (work / f"{_LOCK}-{part or 'whole'}").open("w") as own:
            try:
                fcntl.flock(lock, (fcntl.LOCK_SH if part else fcntl.LOCK_EX) | fcntl.LOCK_NB)
                fcntl.flock(own, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise BadInput(
                    f"{work}: another run writes there; wait for it or give another --output-prefix"
                ) from None
            if fresh:
                _empty(work)
            yield work
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            free = shutil.disk_usage(work.parent).free
            raise BadInput(
                f"{work.parent}: the disk is full ({free >> 20} MiB free, {error.strerror}); make room and give the "
                "same command again, which continues from the finished work"
            ) from None
        raise BadInput(f"{error.filename or work}: cannot be written ({error.strerror or error})") from None


def clear(work: Path, last: Path) -> None:
    """Remove the directory. ``last`` is the file that must be deleted after all others."""
    _empty(work, last)
    last.unlink(missing_ok=True)
    shutil.rmtree(work, ignore_errors=True)


def _empty(work: Path, but: Path | None = None) -> None:
    for path in work.iterdir():
        if not path.name.startswith(_LOCK) and path != but:
            path.unlink()
