"""Print the parts of a run's start as they finish, with their seconds, because a start may take minutes."""

from __future__ import annotations

import os
import time
from pathlib import Path


class StartLog:
    """Prints one line on rank 0 for each part of the start. The first part begins with the process."""

    def __init__(self) -> None:
        self._since = _process_started()

    def done(self, rank: int, what: str) -> None:
        """Print ``what`` and the seconds since the end of the previous part."""
        now = time.clock_gettime(time.CLOCK_BOOTTIME)
        if rank == 0:
            print(f"{what} ({now - self._since:.1f} s)", flush=True)
        self._since = now


def _process_started() -> float:
    """Return this process's start time in seconds since boot (field 22 of ``/proc/self/stat``, in clock ticks)."""
    behind_name = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    return int(behind_name[19]) / os.sysconf("SC_CLK_TCK")
