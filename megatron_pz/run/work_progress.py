"""Show the progress of a long task and the time left: a bar on a terminal, otherwise occasional lines."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TextIO

from tqdm import tqdm

SECONDS_A_LINE = 30.0


class WorkProgress:
    """Shows the progress of one task on stderr.

    Args:
        label: name of the task.
        unit: plural name of the counted items.
        total: total number of items.
        done: number of items done by an earlier run; excluded from the speed.
        shown: False hides the progress, for ranks other than 0.
        stream: output stream, stderr by default.
    """

    def __init__(
        self, label: str, unit: str, total: int, done: int = 0, *, shown: bool = True, stream: TextIO | None = None
    ) -> None:
        self._stream = stream or sys.stderr
        self._label, self._unit, self._total, self._already = label, unit, total, done
        self._shown = shown and done < total
        self._bar: tqdm | None = None
        if self._shown and self._stream.isatty():
            self._bar = tqdm(total=total, initial=done, desc=label, unit=f" {unit}", file=self._stream)
        self._began = time.monotonic()
        self._last_line = self._began - SECONDS_A_LINE

    def __enter__(self) -> WorkProgress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    def at(self, done: int) -> None:
        """Show that ``done`` items of the total are done, including those of earlier runs."""
        now = time.monotonic()
        if self._bar is not None:
            self._bar.n = done
            self._bar.refresh()
        elif self._shown and (now - self._last_line >= SECONDS_A_LINE or done == self._total):
            self._last_line = now
            print(self.line(done, now - self._began), file=self._stream, flush=True)

    def line(self, done: int, seconds: float) -> str:
        """Write one line with the share done and the time left, ``seconds`` after the start."""
        fresh = done - self._already
        left = tqdm.format_interval((self._total - done) * seconds / fresh) if fresh else "unknown"
        return f"{self._label}: {done:,} of {self._total:,} {self._unit} ({done / self._total:.0%}), left: {left}"
