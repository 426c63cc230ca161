"""``megatron_pz.baselines`` whose rank 1 is killed once: dying_baseline.py ITERATION [flags of megatron_pz.baselines]

It dies at the beginning of ITERATION, in the first attempt of a launcher; with ITERATION 0, never.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys

from megatron_pz.runtime.watchdog import Watchdog


def die_at(iteration: int) -> None:
    """Make this process kill itself when the loop starts this iteration."""
    plain = Watchdog.step

    def step(watchdog: Watchdog, name: str) -> None:
        if name == f"iteration {iteration}":
            os.kill(os.getpid(), signal.SIGKILL)
        plain(watchdog, name)

    Watchdog.step = step  # type: ignore[method-assign]


if __name__ == "__main__":
    iteration = int(sys.argv.pop(1))
    if (os.environ["RANK"], os.environ["TORCHELASTIC_RESTART_COUNT"]) == ("1", "0"):
        die_at(iteration)
    runpy.run_module("megatron_pz.baselines", run_name="__main__")
