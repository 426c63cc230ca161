"""Show how much of a work of hours is done, and the time left: a bar on a terminal, else a line now and then."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TextIO

from tqdm import tqdm

SECONDS_A_LINE = 30.0


class WorkProgress:
    """Progress of one work, on stderr.

    Args:
        label: what is done.
        unit: what is counted, in the plural.
        total: how much there is to do in all.
        done: how much an earlier run has done; it does not count as this run's speed.
        shown: False shows nothing, on ranks other than 0.
        stream: where to write; stderr by default.
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
        """Show that ``done`` of the total are done, those of earlier runs included."""
        now = time.monotonic()
        if self._bar is not None:
            self._bar.n = done
            self._bar.refresh()
        elif self._shown and (now - self._last_line >= SECONDS_A_LINE or done == self._total):
            self._last_line = now
            print(self.line(done, now - self._began), file=self._stream, flush=True)

    def line(self, done: int, seconds: float) -> str:
        """Write one line: share done and time left, ``seconds`` after the beginning."""
        fresh = done - self._already
        left = tqdm.format_interval((self._total - done) * seconds / fresh) if fresh else "unknown"
        return f"{self._label}: {done:,} of {self._total:,} {self._unit} ({done / self._total:.0%}), left: {left}"
