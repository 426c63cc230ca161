"""Ranks forked from one warm server, which takes one second instead of ten with torchrun and the imports.

For tests that need many short runs of one or two ranks, or that kill and stop ranks: no process ends the others. As
under torchrun, the rendezvous is at a store that outlives every rank.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path

import torch.distributed as dist

PRELOADED = "tests.distributed.workers.checkpoint_worker"
"""What the server imports before it forks: torch, Megatron-Core and the trainer."""


class ForkedRanks:
    """Runs ``target(*args)`` on ``nproc`` ranks with torchrun's variables; as a context manager it leaves none alive.

    ``target`` is a function of an importable module, which the server then need not import again.
    """

    def __init__(self, nproc: int, target: Callable[..., object], *args: object) -> None:
        self._store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        self._logs = tempfile.TemporaryDirectory(prefix="forked_ranks_")
        context = _server()
        self.processes: list[ForkServerProcess] = []
        for rank in range(nproc):
            variables = {
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(nproc),
                "LOCAL_WORLD_SIZE": str(nproc),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(self._store.port),
                "TORCHELASTIC_USE_AGENT_STORE": "True",
                "GLOO_SOCKET_IFNAME": "lo",
                "OMP_NUM_THREADS": "1",
            }
            process = context.Process(target=_run, args=(variables, str(self._log(rank)), target, args))
            process.start()
            self.processes.append(process)

    def __enter__(self) -> ForkedRanks:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            process.kill()
            process.join()
        self._logs.cleanup()

    def codes(self, timeout: float = 60.0) -> list[int]:
        """Return the exit codes of all ranks."""
        return [self.code(rank, timeout) for rank in range(len(self.processes))]

    def code(self, rank: int, timeout: float = 60.0) -> int:
        """Return a rank's exit code, minus the signal's number if one killed it; AssertionError if it is alive."""
        process = self.processes[rank]
        process.join(timeout)
        assert process.exitcode is not None, f"rank {rank} is still there after {timeout:g} s\n{self.output()}"
        return process.exitcode

    def signal(self, rank: int, number: signal.Signals) -> None:
        """Send a signal to one rank."""
        pid = self.processes[rank].pid
        assert pid is not None
        os.kill(pid, number)

    def output(self, rank: int | None = None) -> str:
        """Return the output so far of one rank, or of all in order."""
        ranks = range(len(self.processes)) if rank is None else [rank]
        return "".join(self._log(each).read_text() for each in ranks if self._log(each).exists())

    def _log(self, rank: int) -> Path:
        return Path(self._logs.name) / f"rank_{rank}.log"


def _server() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([PRELOADED])
    root = str(Path(__file__).resolve().parents[2])
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if root not in paths:  # the server starts with the first rank, and takes its search path from here
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [root, *paths]))
    return context


def _run(variables: dict[str, str], log: str, target: Callable[..., object], args: tuple[object, ...]) -> None:
    os.environ.update(variables)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for standard in (1, 2):
        os.dup2(descriptor, standard)
    sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
    target(*args)
