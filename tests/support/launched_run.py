"""Run the launcher in the background, for tests that kill or stop its processes."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import psutil

from tests.support.torchrun import ROOT, shell_environment


class LaunchedRun:
    """``megatron_pz.launch`` with a training module on this node."""

    def __init__(self, module: str, nproc: int, save: Path, *flags: object) -> None:
        """Start the run; ``save`` is the directory in its flags or its recipe."""
        command = [sys.executable, "-m", "megatron_pz.launch", "--nproc-per-node", str(nproc), module]
        self.launcher = subprocess.Popen(
            [*command, *map(str, flags)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=shell_environment() | {"OMP_NUM_THREADS": "1"},
        )
        self._metrics = save / "metrics.jsonl"

    def steps(self) -> list[str]:
        """Return the lines of the metrics so far."""
        return self._metrics.read_text().splitlines() if self._metrics.exists() else []

    def wait_for_step(self, iteration: int, seconds: float = 150.0) -> None:
        """Wait until a number of steps are logged."""
        until = time.monotonic() + seconds
        while len(self.steps()) < iteration:
            if self.launcher.poll() is not None or time.monotonic() > until:
                self.launcher.kill()
                raise AssertionError(f"step {iteration} did not come: {self.launcher.communicate()[0]}")
            time.sleep(0.02)

    def process_of(self, rank: int) -> psutil.Process:
        """Return the process id of the worker with this rank."""
        workers = psutil.Process(self.launcher.pid).children()
        (found,) = (worker for worker in workers if worker.environ().get("RANK") == str(rank))
        return found

    def kill(self) -> None:
        """Kill all processes at once."""
        self.launcher.kill()  # its workers die with the launcher
        self.launcher.communicate(timeout=60)

    def end(self, code: int, seconds: float = 150.0) -> str:
        """Wait for the end, which must have this exit code, and return the output."""
        try:
            output = self.launcher.communicate(timeout=seconds)[0]
        except subprocess.TimeoutExpired:
            self.launcher.kill()
            raise AssertionError(f"no end in {seconds:g} s: {self.launcher.communicate()[0]}") from None
        assert self.launcher.returncode == code, output
        return output
