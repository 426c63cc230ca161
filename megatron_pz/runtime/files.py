"""Write files that are either whole or not there, and keep a second process out of a folder."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from megatron_pz.runtime.errors import BadInput

LOCK_FILE = ".lock"


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a hidden file beside ``path``, and give it that name once it is on the disk.

    The hidden file has the suffix of ``path``, by which libraries choose a format. An earlier file stays as it is until
    the new one replaces it.
    """
    partial = path.with_name(f".{path.stem}.incomplete{path.suffix}")
    try:
        write(partial)
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_text_whole(path: Path, text: str) -> None:
    """Write a UTF-8 text as :func:`write_whole` does."""
    write_whole(path, lambda partial: partial.write_text(text, encoding="utf-8"))


@contextlib.contextmanager
def claimed_folder(folder: Path, flag: str) -> Iterator[None]:
    """Create a folder and keep another process that claims it out until the block ends.

    Args:
        folder: gets a file :data:`LOCK_FILE`, which stays. On a file system without locks nothing keeps others out.
        flag: names the folder in a message.

    Raises:
        BadInput: another process has claimed the folder, or it cannot be written.
    """
    with contextlib.ExitStack() as opened:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = opened.enter_context((folder / LOCK_FILE).open("a"))
        except OSError as error:
            raise BadInput(f"{flag} {folder}: cannot be written ({error.strerror})") from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BadInput(
                f"{flag} {folder} is in use by a call that is still alive: wait, or choose another"
            ) from None
        except OSError:  # a file system without locks
            pass
        yield
