"""Say how many processes and threads this node runs: ``python -m megatron_pz.cluster.local_node`` prints both."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping

from megatron_pz.runtime.errors import BadInput, exits_with_one_line


def count_processes(environment: Mapping[str, str]) -> int:
    """Return NPROC_PER_NODE if it is set, else the number of GPUs that a process may use, at least 1.

    The smallest count applies: GPUs that Slurm allocated (SLURM_GPUS_ON_NODE), devices in CUDA_VISIBLE_DEVICES up to
    the first negative one, and without both what nvidia-smi lists.
    """
    if given := environment.get("NPROC_PER_NODE"):
        return positive("NPROC_PER_NODE", given)
    counts = []
    if (allocated := environment.get("SLURM_GPUS_ON_NODE", "")).isdecimal():
        counts.append(int(allocated))
    if "CUDA_VISIBLE_DEVICES" in environment:
        counts.append(_visible(environment["CUDA_VISIBLE_DEVICES"]))
    if not counts:
        counts.append(_listed())
    return max(1, min(counts))


def _visible(devices: str) -> int:
    """Count the devices that CUDA takes from its variable: it stops at the first that is not one."""
    names = [name.strip() for name in devices.split(",")]
    return next((number for number, name in enumerate(names) if not name or name.startswith("-")), len(names))


def _listed() -> int:
    try:
        done = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return 0
    return sum(line.startswith("GPU") for line in done.stdout.splitlines())


def threads_of_a_process(environment: Mapping[str, str], processes: int) -> int:
    """Return OMP_NUM_THREADS if it is set, else the node's cores divided among its processes."""
    if given := environment.get("OMP_NUM_THREADS"):
        return positive("OMP_NUM_THREADS", given)
    cores = int(environment.get("SLURM_CPUS_ON_NODE") or len(os.sched_getaffinity(0)))
    return max(1, cores // processes)


def positive(name: str, value: str) -> int:
    """Return a variable's value as a number; raises BadInput unless it is a whole number of at least 1."""
    if not value.isdecimal() or int(value) < 1:
        raise BadInput(f"{name}={value}: give a whole number of at least 1")
    return int(value)


@exits_with_one_line
def main() -> None:
    """Print processes and threads of a process."""
    processes = count_processes(os.environ)
    print(processes, threads_of_a_process(os.environ, processes))


if __name__ == "__main__":
    main()
