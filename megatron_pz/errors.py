"""How a wrong input reaches the person who gave it: one line and a non-zero exit."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import TypeVar

Returned = TypeVar("Returned")

EXIT_BAD_INPUT = 2


class BadInput(Exception):
    """Something the user gave cannot be used. The message is one line: what, its value, what to do."""


def exits_with_one_line(main: Callable[..., Returned]) -> Callable[..., Returned]:
    """Decorate a command's ``main``: a :class:`BadInput` becomes ``error: …`` on stderr and exit code 2."""

    @functools.wraps(main)
    def guarded(*args: object, **kwargs: object) -> Returned:
        try:
            return main(*args, **kwargs)
        except BadInput as error:
            print(f"error: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
            raise SystemExit(EXIT_BAD_INPUT) from None

    return guarded
