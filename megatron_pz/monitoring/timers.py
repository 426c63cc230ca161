"""Measure the wall time and the peak memory of the parts of a step."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from megatron_pz.monitoring import memory_peaks


class Timers(dict[str, float]):
    """Seconds by part: ``with timers("rollout"): …`` adds to ``timers["rollout"]``. Parts must not be nested."""

    def __init__(self) -> None:
        super().__init__()
        self.peaks: dict[str, float] = {}
        """Peak memory by part, GiB (:func:`~megatron_pz.monitoring.memory_peaks.peak_gib`)."""
        self.device_used: dict[str, float] = {}
        """Device memory in use at the end of each part, GiB; empty on a CPU."""

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        memory_peaks.start()
        start = time.perf_counter()
        try:
            yield
        finally:
            self[part] = self.get(part, 0.0) + time.perf_counter() - start
            self.peaks[part] = max(self.peaks.get(part, 0.0), memory_peaks.peak_gib())
            used = memory_peaks.device_used_gib()
            if used is not None:
                self.device_used[part] = used
