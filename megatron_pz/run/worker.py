"""Prepare a process that the launcher started, then run its module: ``python -m megatron_pz.run.worker MODULE …``."""

from __future__ import annotations

import ctypes
import os
import runpy
import signal
import sys

from megatron_pz.runtime.errors import LAUNCHER_VARIABLE

_PR_SET_PDEATHSIG = 1


def die_with_the_launcher(launcher: int) -> None:
    """Ask the kernel to kill this process when its parent dies, and exit if the parent is gone already.

    Args:
        launcher: the parent's process number. A worker whose launcher died before this call has another parent.
    """
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != launcher:
        raise SystemExit(1)


def main() -> None:
    """Run the module named by the first argument as ``__main__``, with the arguments that follow as its own.

    SIGUSR1 stays blocked, so that a request to stop which arrives during the imports is pending and not lost;
    ``StopRequest`` unblocks it. A run without checkpoints never does and ignores the request.
    """
    die_with_the_launcher(int(os.environ[LAUNCHER_VARIABLE]))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, {signal.SIGUSR1})
    module = sys.argv[1]
    del sys.argv[1]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
