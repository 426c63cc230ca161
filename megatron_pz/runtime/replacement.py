"""Tell the launcher which worker may be started again when it dies, without the run."""

from __future__ import annotations

import os
from pathlib import Path

START_AGAIN = 75
"""Exit code of a worker that asks its launcher for a new process in its place (EX_TEMPFAIL of ``sysexits.h``)."""
_ERROR_FILE = "TORCHELASTIC_ERROR_FILE"


def declare_replaceable() -> None:
    """Let the launcher start this worker again if a signal kills it, or if it ends with :data:`START_AGAIN`.

    It is for workers in service: one that dies while it starts would die again. Other launchers ignore it.
    """
    if path := os.environ.get(_ERROR_FILE):
        _mark(path).touch()


def take_declaration(error_file: str) -> bool:
    """Return whether the worker with this error file was replaceable; its successor has to declare it anew."""
    mark = _mark(error_file)
    found = mark.exists()
    mark.unlink(missing_ok=True)
    return found


def _mark(error_file: str) -> Path:
    return Path(f"{error_file}.replaceable")
