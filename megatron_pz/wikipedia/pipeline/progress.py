"""Display the progress of a run: a bar on a terminal, otherwise occasional lines."""

from __future__ import annotations

import sys
import time
from collections import Counter
from types import TracebackType
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from tqdm import tqdm

_SECONDS_A_LINE = 30.0


class Progress:
    """Shows the progress through the inputs' bytes on stderr.

    Args:
        total: Bytes of all inputs.
        log_interval: Articles between two lines if stderr is not a terminal; 0 prints a line every half minute.
        stream: Output stream, stderr by default.
    """

    def __init__(self, total: int, log_interval: int = 0, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._log_interval = log_interval
        self._total = total
        self._bar: tqdm | None = None
        if self._stream.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=total, unit="B", unit_scale=True, file=self._stream)
        self._began = self._last_line = time.monotonic()
        self._already = self._done = 0
        self._next_article = log_interval

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    def resume(self, done: int) -> None:
        """Add the bytes of an earlier run, which count as done but not towards the speed."""
        self._already = self._done = done
        if self._bar is not None:
            self._bar.initial = self._bar.n = done
            self._bar.refresh()

    def update(self, read: int, counts: Counter[str]) -> None:
        """Add ``read`` bytes of the inputs as done; the counts cover everything done so far."""
        self._done += read
        if self._bar is not None:
            self._bar.set_postfix(articles=f"{counts['articles']:,}", refresh=False)
            self._bar.update(read)
            return
        now = time.monotonic()
        if self._log_interval:
            if counts["articles"] < self._next_article:
                return
            self._next_article = (counts["articles"] // self._log_interval + 1) * self._log_interval
        elif now - self._last_line < _SECONDS_A_LINE:
            return
        self._last_line = now
        print(self.line(now - self._began, counts), file=self._stream, flush=True)

    def line(self, seconds: float, counts: Counter[str]) -> str:
        """Return one line with share done, articles, speed and time left, ``seconds`` after the start."""
        from tqdm import tqdm

        speed = max(self._done - self._already, 1) / max(seconds, 1e-9)
        left = tqdm.format_interval((self._total - self._done) / speed)
        return (
            f"{self._done / max(self._total, 1):6.1%} of {self._total / 1e6:,.1f} MB "
            f"| articles: {counts['articles']:,} | MB/s: {speed / 1e6:.2f} | left: {left}"
        )
