"""Collect the output of a node's workers in one file, and copy that of the first node to the job's output."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from megatron_pz.runtime.errors import BadInput


class NodeLog:
    """Redirects file descriptors 1 and 2 to the node's file while it is open, on the first node also to the console.

    Workers that are started meanwhile inherit the descriptors. Without a file nothing is redirected.
    """

    def __init__(self, file: BinaryIO | None, *, to_console: bool) -> None:
        self._file, self._to_console = file, to_console
        self._console = os.dup(2)
        self._outputs: tuple[int, int] | None = None
        self._copier: threading.Thread | None = None

    @classmethod
    def open(cls, path: Path | None, *, to_console: bool) -> Self:
        """Append to ``path``, making its directory; None keeps everything on the console.

        Raises BadInput if the file cannot be written.
        """
        if path is None:
            return cls(None, to_console=True)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            return cls(path.open("ab", buffering=0), to_console=to_console)
        except OSError as error:
            raise BadInput(f"log {path} cannot be written: {error.strerror}") from None

    def __enter__(self) -> Self:
        if self._file is None:
            return self
        sys.stdout.flush()
        read_end, write_end = os.pipe()
        self._outputs = os.dup(1), os.dup(2)
        os.dup2(write_end, 1)
        os.dup2(write_end, 2)
        os.close(write_end)
        self._copier = threading.Thread(target=self._copy, args=(read_end,), name="node log", daemon=True)
        self._copier.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._outputs is not None and self._copier is not None:
            sys.stdout.flush()
            for target, saved in enumerate(self._outputs, start=1):
                os.dup2(saved, target)
                os.close(saved)
            self._copier.join(5.0)  # a process that a worker left behind may hold the pipe for longer
        os.close(self._console)

    def say(self, line: str) -> None:
        """Write a line from the launcher itself to the console and to the node's file."""
        data = f"{line}\n".encode()
        os.write(self._console, data)
        self._write(data)

    def _copy(self, read_end: int) -> None:
        with os.fdopen(read_end, "rb", buffering=0) as pipe:
            while data := pipe.read(65536):
                self._write(data)
                if self._to_console and self._outputs is not None:
                    with contextlib.suppress(OSError):
                        os.write(self._outputs[0], data)

    def _write(self, data: bytes) -> None:
        """Append to the file. A full disk must not stop the workers, which may still free space."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.write(data)
