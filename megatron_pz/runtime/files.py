"""Write files atomically, and prevent a second process from using a directory."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from megatron_pz.runtime.errors import BadInput

LOCK_FILE = ".lock"


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """Yield a hidden path beside ``path``; its file is flushed to disk and renamed to ``path`` when the block ends.

    The hidden file has the suffix of ``path``, by which libraries choose a format. An error in the block removes it and
    leaves an existing file unchanged.
    """
    partial = path.with_name(f".{path.stem}.incomplete{path.suffix}")
    try:
        yield partial
        flush(partial)
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a hidden file beside ``path``, and rename it to ``path`` once it is on the disk."""
    with _replacing(path) as partial:
        write(partial)


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[BinaryIO]:
    """Open a binary file that is renamed to ``path`` when the block ends without an error."""
    with _replacing(path) as partial, partial.open("wb") as file:
        yield file


def write_text_whole(path: Path, text: str) -> None:
    """Write a UTF-8 text as :func:`write_whole` does."""
    write_whole(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def flush(path: Path) -> None:
    """Flush a file, or the names in a directory, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def claimed_directory(directory: Path, flag: str) -> Iterator[None]:
    """Create a directory and lock it against other processes that claim it until the block ends.

    Args:
        directory: gets a file :data:`LOCK_FILE`, which stays. A file system without locks gives no protection.
        flag: names the directory in a message.

    Raises:
        BadInput: another process has claimed the directory, or it cannot be written.
    """
    with contextlib.ExitStack() as opened:
        try:
            directory.mkdir(parents=True, exist_ok=True)
            lock = opened.enter_context((directory / LOCK_FILE).open("a"))
        except OSError as error:
            raise BadInput(f"{flag} {directory}: cannot be written ({error.strerror})") from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BadInput(
                f"{flag} {directory} is in use by a call that is still alive: wait, or choose another"
            ) from None
        except OSError:  # a file system without locks
            pass
        yield
