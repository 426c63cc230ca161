"""Prepare a process that the launcher started, then run its module (``-m megatron_pz.cluster.worker MODULE …``)."""

from __future__ import annotations

import ctypes
import os
import resource
import runpy
import signal
import sys
import tempfile
from pathlib import Path

from megatron_pz.runtime.errors import LAUNCHER_VARIABLE

_PR_SET_PDEATHSIG = 1
CACHES = {
    "TRITON_CACHE_DIR": "triton",
    "TORCHINDUCTOR_CACHE_DIR": "inductor",
    "VLLM_CACHE_ROOT": "vllm",
    "FLASHINFER_WORKSPACE_BASE": "flashinfer",
}
"""Variables that name the directories of compiled kernels, which are in the home directory by default."""


def die_with_the_launcher(launcher: int) -> None:
    """Ask the kernel to kill this process when its parent dies, and exit if the parent is gone already.

    Args:
        launcher: the parent's process id. A worker whose launcher died before this call has another parent.
    """
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != launcher:
        raise SystemExit(1)


def raise_open_files() -> None:
    """Raise the limit on open files to the hard limit: a rank keeps a connection to hundreds of others."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def use_job_caches() -> None:
    """Keep compiled kernels in a directory of the job on the node's own disk, if Slurm started the job.

    A home directory on a network file system has a quota, and thousands of ranks would lock and read its files at once.
    Variables that are already set keep their values.
    """
    job = os.environ.get("SLURM_JOB_ID")
    if job is None:
        return
    directory = Path(tempfile.gettempdir(), f"megatron_pz-{os.getuid()}-{job}")
    for variable, name in CACHES.items():
        os.environ.setdefault(variable, str(directory / name))


def catches(process: int, number: signal.Signals) -> bool:
    """Return whether a worker has a handler for the signal (``SigCgt`` of ``/proc/PROCESS/status``)."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:  # the worker has ended
        return True
    caught = next(line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:"))
    return bool(int(caught, 16) >> (number - 1) & 1)


def main() -> None:
    """Run the module named by the first argument as ``__main__``, with the arguments that follow as its own.

    SIGUSR1 stays blocked, so that a stop request which arrives during the imports stays pending; ``StopRequest``
    unblocks it. A run without checkpoints never unblocks it and ignores the request.
    """
    die_with_the_launcher(int(os.environ[LAUNCHER_VARIABLE]))
    raise_open_files()
    use_job_caches()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, {signal.SIGUSR1})
    module = sys.argv[1]
    del sys.argv[1]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
