"""Tell the launcher which workers may be restarted alone when they die, without ending the run."""

from __future__ import annotations

import os
from pathlib import Path

START_AGAIN = 75
"""Exit code of a worker that asks its launcher for a new process in its place (EX_TEMPFAIL of ``sysexits.h``)."""
_ERROR_FILE = "TORCHELASTIC_ERROR_FILE"


def declare_replaceable() -> None:
    """Allow the launcher to restart this worker if a signal kills it or if it ends with :data:`START_AGAIN`.

    Call this after the start: a worker that dies during its start would die again. Other launchers ignore this.
    """
    if path := os.environ.get(_ERROR_FILE):
        _mark(path).touch()


def take_declaration(error_file: str) -> bool:
    """Return whether the worker with this error file was replaceable, and clear the declaration for its successor."""
    mark = _mark(error_file)
    found = mark.exists()
    mark.unlink(missing_ok=True)
    return found


def _mark(error_file: str) -> Path:
    return Path(f"{error_file}.replaceable")
