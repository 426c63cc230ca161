"""How what went wrong reaches the person at the terminal: one line and a non-zero exit, no traceback."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from typing import TypeVar

Returned = TypeVar("Returned")


class ExpectedFailure(Exception):
    """A failure that needs no traceback. Its message is one line: what, its value, what to do."""

    exit_code = 1


class BadInput(ExpectedFailure):
    """Something the user gave cannot be used."""

    exit_code = 2


def exits_with_one_line(main: Callable[..., Returned]) -> Callable[..., Returned]:
    """Decorate a command's ``main``: an :class:`ExpectedFailure` becomes ``error: …`` on stderr and its exit code.

    Under torchrun most failures strike all ranks alike; the first rank of each node speaks for it.
    """

    @functools.wraps(main)
    def guarded(*args: object, **kwargs: object) -> Returned:
        try:
            return main(*args, **kwargs)
        except ExpectedFailure as error:
            if os.environ.get("LOCAL_RANK", "0") == "0":
                print(f"error: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
            raise SystemExit(error.exit_code) from None

    return guarded
