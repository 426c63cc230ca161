"""Run the toy recipe as a Slurm job of two nodes, for the tests of the cluster's scripts."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.support.slurm_cluster import Job, SlurmCluster
from tests.support.torchrun import ROOT, shell_environment

SCRIPT = ROOT / "slurm/pz_qwen3_4b.sh"

# The interpreter, except for the module that the launcher starts.
PYTHON = """#!/usr/bin/env bash
words=()
for word; do
  if [[ $word == megatron_pz.train ]]; then words+=(tests.system.workers.{module}); else words+=("$word"); fi
done
exec {python} "${{words[@]}}"
"""


class Toy:
    """The toy recipe as a job of two nodes with one process each."""

    def __init__(self, slurm: SlurmCluster, folder: Path, model: Path, corpus: str) -> None:
        self.slurm, self.folder = slurm, folder
        self.save = folder / "run"
        self.env = {
            "CONFIG": "examples/toy/config.yaml",
            "MODEL": str(model),
            "DATA_PATH": corpus,
            "SAVE": str(self.save),
            "LOGS": str(folder / "logs"),
            "ACTIVATE": "none",
            "PYTHON": self.python("counting_run"),
            "PYTHONPATH": str(ROOT),
            "NPROC_PER_NODE": "1",
            "SIGNAL_LEAD": "60",
            "GLOO_SOCKET_IFNAME": "lo",
            "OMP_NUM_THREADS": "1",
        }

    def python(self, module: str) -> str:
        """Return the path of an interpreter that runs a module of ``workers/`` for ``megatron_pz.train``."""
        path = self.folder / module
        path.write_text(PYTHON.format(module=module, python=sys.executable))
        path.chmod(0o755)
        return str(path)

    def submit(self, *flags: str, sbatch: tuple[str, ...] = (), **variables: str) -> Job:
        given = ("--nodes=2", "--gpus-per-node=1", "--time=60", "--signal=B:USR1@60", *sbatch)
        return self.slurm.submit(SCRIPT, *flags, sbatch=given, env=self.env | variables)

    def preempt(self) -> Job:
        """Submit a job of a higher tier that needs both nodes for one second."""
        script = self.folder / "urgent.sh"
        script.write_text("#!/bin/sh\nsleep 1\n")
        script.chmod(0o755)
        flags = ("--partition=urgent", "--nodes=2", "--exclusive", "--output=/dev/null")
        return Job(self.slurm, int(self.slurm.ask("sbatch", "--parsable", *flags, str(script))))

    def alone(self, *flags: str, **variables: str) -> None:
        """Run the same recipe on this machine with two processes, without Slurm."""
        done = subprocess.run(
            ["bash", str(SCRIPT), *flags],
            cwd=ROOT,
            env={**shell_environment(), **self.env, "NPROC_PER_NODE": "2"} | variables,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def iteration(self) -> int:
        """Return the newest step of the run; 0 before the first."""
        steps = metrics(self.save)
        return max(steps, default=0)

    def checkpoint(self) -> int:
        """Return the iteration of the newest checkpoint; 0 before the first."""
        tracker = self.save / "latest_checkpointed_iteration.txt"
        return int(tracker.read_text()) if tracker.exists() else 0

    def process(self, rank: int) -> int:
        """Return the process id of a rank of the last attempt."""
        return int((self.save / f"rank-{rank}").read_text().split()[0])

    def assert_nothing_runs(self) -> None:
        """Require that no process of this run is left on the machine."""
        time_left = time.monotonic() + 20
        while left := [path for path in Path("/proc").glob("[0-9]*/environ") if self._is_ours(path)]:
            assert time.monotonic() < time_left, [(path.parent / "cmdline").read_text() for path in left]
            time.sleep(0.2)

    def _is_ours(self, path: Path) -> bool:
        try:
            return f"SAVE={self.save}\0".encode() in path.read_bytes()
        except OSError:
            return False


def metrics(save: Path) -> Mapping[int, Mapping[str, Any]]:
    """Return the run's metrics by step, without times and memory; of a repeated step, the last line."""
    try:
        lines = (save / "metrics.jsonl").read_text().splitlines()
    except FileNotFoundError:
        return {}
    steps = [json.loads(line) for line in lines]
    machine = ("time/", "memory/")
    return {
        step["iteration"]: {name: value for name, value in step.items() if not name.startswith(machine)}
        for step in steps
    }
