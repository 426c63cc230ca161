"""Determine how many processes and threads this node runs: ``python -m megatron_pz.cluster.local_node`` prints both."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping

from megatron_pz.runtime.errors import BadInput, exits_with_one_line

LAST_PORT = 65535
"""The highest number of a TCP port."""
_ALLOCATED = re.compile(r"(?:[^,]*:)?([0-9]{1,4})(?:\([^)]*\))?")
"""Matches a number of GPUs as Slurm writes it: 8, a100:4, gpu:a100:4(S:0-1)."""


def count_processes(environment: Mapping[str, str]) -> int:
    """Return NPROC_PER_NODE if it is set, else the number of GPUs that a process may use, at least 1.

    The smallest count applies: GPUs that Slurm allocated (SLURM_GPUS_ON_NODE), devices that CUDA takes from
    CUDA_VISIBLE_DEVICES, and, if both are unset, the GPUs that nvidia-smi lists.

    Raises:
        BadInput: a variable cannot be read as a number of GPUs.
    """
    if given := environment.get("NPROC_PER_NODE"):
        return positive("NPROC_PER_NODE", given)
    counts = []
    if allocated := environment.get("SLURM_GPUS_ON_NODE"):
        counts.append(count_gpus("SLURM_GPUS_ON_NODE", allocated))
    if "CUDA_VISIBLE_DEVICES" in environment:
        counts.append(_visible(environment["CUDA_VISIBLE_DEVICES"]))
    if not counts:
        counts.append(_listed())
    return max(1, min(counts))


def count_gpus(name: str, value: str) -> int:
    """Return the number of GPUs in a list such as ``a100:4,v100:2``; raise BadInput for any other text."""
    counts = [_ALLOCATED.fullmatch(entry) for entry in re.split(r",(?![^(]*\))", value)]
    if not all(counts):
        raise BadInput(f"{name}={value}: give a number of GPUs, such as 8 or a100:8")
    return sum(int(found[1]) for found in counts if found)


def _visible(devices: str) -> int:
    """Count the devices that CUDA takes from its variable: it stops at the first invalid entry.

    A process can use only one MIG instance.
    """
    kind = re.match(r"\s*(GPU-|MIG-|)", devices)[1]  # type: ignore[index] # every text matches
    names = []
    for name in devices.split(","):
        if not re.fullmatch(rf"{kind}\S+" if kind else "[0-9]+", name.strip()):
            break
        names.append(name.strip())
    if len(set(names)) < len(names):
        raise BadInput(f"CUDA_VISIBLE_DEVICES={devices}: names a device twice, and CUDA then takes none")
    return min(1, len(names)) if kind == "MIG-" else len(names)


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
    allocated = environment.get("SLURM_CPUS_ON_NODE")
    cores = positive("SLURM_CPUS_ON_NODE", allocated) if allocated else len(os.sched_getaffinity(0))
    return max(1, cores // processes)


def positive(name: str, value: str) -> int:
    """Return a variable's value as a number; raise BadInput unless it is a whole number of at least 1."""
    if not re.fullmatch("[0-9]{1,18}", value) or int(value) < 1:
        raise BadInput(f"{name}={value}: give a whole number of at least 1")
    return int(value)


@exits_with_one_line
def main() -> None:
    """Print the number of processes and the number of threads of each."""
    processes = count_processes(os.environ)
    print(processes, threads_of_a_process(os.environ, processes))


if __name__ == "__main__":
    main()
