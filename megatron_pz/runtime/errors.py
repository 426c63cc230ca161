"""Report expected failures in one line and with a non-zero exit code, without a traceback."""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import os
import select
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

Returned = TypeVar("Returned")

LAUNCHER_VARIABLE = "MEGATRON_PZ_LAUNCHER"
"""Environment variable with the process number of ``megatron_pz.cluster.launcher``; set in its workers only."""

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_NO_ACCESS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG)
_INTERRUPTED = 128 + 2
_NO_READER = 128 + 13
"""Exit codes that a shell gives a program ended by SIGINT or SIGPIPE."""


class ExpectedFailure(Exception):
    """A failure that needs no traceback. Its one-line message states the problem, the value, and what to do."""

    exit_code = 1


class BadInput(ExpectedFailure):
    """User input cannot be used."""

    exit_code = 2


def one_line(error: BaseException) -> str:
    """Return the error's message without line breaks, or the name of its type if the message is empty."""
    return " ".join(str(error).split()) or type(error).__name__


def brief(error: BaseException, length: int = 300) -> str:
    """Return :func:`one_line`, truncated to ``length`` characters, for use in a longer line."""
    text = one_line(error)
    return text if len(text) <= length else f"{text[:length]}…"


def exits_with_one_line(main: Callable[..., Returned]) -> Callable[..., Returned]:
    """Decorate a command's ``main``: an :class:`ExpectedFailure` becomes ``error: …`` on stderr and its exit code.

    A full disk, a file without read or write permission, and Ctrl-C are reported in the same way; a closed pipe
    (``| head``) ends the command silently. Under torchrun most failures affect all ranks alike, so only the first rank
    of each node prints.
    """

    @functools.wraps(main)
    def guarded(*args: object, **kwargs: object) -> Returned:
        try:
            try:
                return main(*args, **kwargs)
            finally:
                sys.stdout.flush()
        except ExpectedFailure as error:
            _say(str(error))
            raise SystemExit(error.exit_code) from None
        except OSError as error:
            if isinstance(error, BrokenPipeError) and _reader_is_gone():
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # buffered output is flushed at exit
                raise SystemExit(_NO_READER) from None
            if error.errno in _NO_ACCESS and error.filename:
                _say(f"{error.filename}: {error.strerror}")
                raise SystemExit(BadInput.exit_code) from None
            if error.errno not in _NO_ROOM:
                raise
            where = f" for {error.filename}" if error.filename else ""
            _say(f"no room{where}: {error.strerror}; make room and give the same command again")
            raise SystemExit(ExpectedFailure.exit_code) from None
        except KeyboardInterrupt:
            _say("interrupted")
            raise SystemExit(_INTERRUPTED) from None

    return guarded


def _reader_is_gone() -> bool:
    """Return whether standard output is a closed pipe. Any other broken pipe is a bug in this program."""
    try:
        poll = select.poll()
        poll.register(sys.stdout.fileno(), select.POLLOUT)
    except (OSError, ValueError):  # standard output has no file descriptor
        return False
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _say(message: str) -> None:
    line = f"error: {' '.join(message.split())}"
    # Our launcher prints the first failure of all nodes; under torchrun the first rank of each node prints its own.
    if os.environ.get("LOCAL_RANK", "0") == "0" and LAUNCHER_VARIABLE not in os.environ:
        print(line, file=sys.stderr, flush=True)
    # Launchers report the failure from this file (torch.distributed.elastic's format).
    if path := os.environ.get("TORCHELASTIC_ERROR_FILE"):
        with contextlib.suppress(OSError):
            Path(path).write_text(json.dumps({"message": line, "timestamp": int(time.time())}), encoding="utf-8")
