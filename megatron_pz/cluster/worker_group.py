"""Start, watch, signal and restart the worker processes of one node with torch's elastic API."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from megatron_pz.cluster.worker import catches
from megatron_pz.runtime.errors import LAUNCHER_VARIABLE
from megatron_pz.runtime.replacement import START_AGAIN, take_declaration

if TYPE_CHECKING:
    from torch.distributed import TCPStore

DONE, FAILED, REFUSED, STOPPED, INTERRUPTED = 0, 1, 2, 3, 130
"""Exit codes; workers use 2 for bad input."""


@dataclass(frozen=True)
class Place:
    """This node among the nodes of the job."""

    nodes: int
    rank: int
    processes: int
    """Workers on each node; all nodes have the same number."""
    address: str
    """Host of the store; with one node, that node itself."""
    port: int
    """Port of the store; 0 takes a free one, which only a single node can do."""

    @property
    def world_size(self) -> int:
        """Return the number of workers on all nodes."""
        return self.nodes * self.processes


class Workers:
    """The processes of this node, started by torch's elastic API."""

    def __init__(self, place: Place, store: TCPStore, module: str, flags: list[str], scratch: Path) -> None:
        """Start the workers. ``scratch`` is a directory for their error files."""
        from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, start_processes

        os.environ["TORCHELASTIC_SIGNALS_TO_HANDLE"] = "SIGQUIT"  # the others are read from sigtimedwait
        ranks = range(place.processes)
        arguments: dict[int, tuple[Any, ...]] = dict.fromkeys(
            ranks, ("-m", "megatron_pz.cluster.worker", module, *flags)
        )
        self._context: Any = start_processes(
            name=module.rpartition(".")[2],
            entrypoint=sys.executable,
            args=arguments,
            envs={rank: _environment(place, store, rank) for rank in ranks},
            logs_specs=DefaultLogsSpecs(log_dir=str(scratch)),
        )
        self._first_rank = place.rank * place.processes
        self._place = place
        self._codes: dict[int, int] = {}
        self._replaced: set[int] = set()

    def poll(self) -> tuple[int, ...]:
        """Return the local ranks that have ended since the last call, failed ones first."""
        handlers = self._context.subprocess_handlers
        found = {rank: handlers[rank].proc.poll() for rank in handlers if rank not in self._codes}
        ended = {rank: code for rank, code in found.items() if code is not None}
        self._codes |= ended
        return tuple(sorted(ended, key=lambda rank: (ended[rank] in (DONE, STOPPED), ended[rank] < 0)))

    @property
    def running(self) -> list[int]:
        """Return the process ids of the workers that have not ended."""
        handlers = self._context.subprocess_handlers
        return [handlers[rank].proc.pid for rank in handlers if rank not in self._codes]

    @property
    def _signalled(self) -> list[int]:
        """Return the running workers that receive signals.

        A restarted worker receives none: it has nothing to save and ends by itself.
        """
        handlers = self._context.subprocess_handlers
        return [handlers[rank].proc.pid for rank in handlers if rank not in self._codes.keys() | self._replaced]

    def code(self, local_rank: int) -> int:
        """Return the exit code to report for a worker that has ended: its own, or 1 if a signal killed it."""
        return self._codes[local_rank] if self._codes[local_rank] >= 0 else FAILED

    @property
    def stopped(self) -> bool:
        """Return whether a worker has exited after the checkpoint that a signal requested."""
        return STOPPED in self._codes.values()

    def replace(self, local_rank: int) -> bool:
        """Restart a worker if it is replaceable; return whether it is."""
        code = self._codes[local_rank]
        if not (take_declaration(self._context.error_files[local_rank]) and (code < 0 or code == START_AGAIN)):
            return False
        handlers, context = self._context.subprocess_handlers, self._context
        handlers[local_rank] = type(handlers[local_rank])(
            entrypoint=context.entrypoint,
            args=context.args[local_rank],
            env=context.envs[local_rank],
            stdout=context.stdouts[local_rank],
            stderr=context.stderrs[local_rank],
            local_rank_id=local_rank,
            numa_options=None,
        )
        del self._codes[local_rank]
        self._replaced.add(local_rank)
        return True

    def describe(self, local_rank: int) -> str:
        """Describe in one line how a worker failed, by its own message if it left one."""
        code = self._codes[local_rank]
        message = ""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            said = json.loads(Path(self._context.error_files[local_rank]).read_text(encoding="utf-8"))["message"]
            message = said if isinstance(said, str) else said["message"]
        if code > 0 and message:
            return message
        number = self._first_rank + local_rank
        who = f"rank {number} ({socket.gethostname()}, process {self._context.pids()[local_rank]})"
        if code < 0:
            hint = "; the kernel does so when memory runs out" if code == -signal.SIGKILL else ""
            return f"error: {who} was killed by {signal.Signals(-code).name}{hint}"
        return f"error: {who} ended with code {code}; its log has the reason"

    def can_stop(self) -> bool:
        """Return whether each worker to be signalled catches SIGUSR1 and therefore will save a checkpoint."""
        return all(catches(process, signal.SIGUSR1) for process in self._signalled)

    def signal(self, number: int) -> None:
        """Send a signal to the running workers except restarted ones, which may not have a handler yet."""
        for process in self._signalled:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, number)

    def kill(self) -> None:
        """Kill every running worker and its child processes."""
        for process in self.running:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process, signal.SIGKILL)


def _environment(place: Place, store: TCPStore, local_rank: int) -> dict[str, str]:
    """Return the environment variables that torchrun sets for a worker, and the launcher's process id."""
    rank = place.rank * place.processes + local_rank
    return {
        LAUNCHER_VARIABLE: str(os.getpid()),
        "RANK": str(rank),
        "LOCAL_RANK": str(local_rank),
        "GROUP_RANK": str(place.rank),
        "WORLD_SIZE": str(place.world_size),
        "LOCAL_WORLD_SIZE": str(place.processes),
        "GROUP_WORLD_SIZE": str(place.nodes),
        "MASTER_ADDR": store.host,
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_RESTART_COUNT": "0",
        "TORCHELASTIC_MAX_RESTARTS": "0",
        "TORCHELASTIC_RUN_ID": os.environ.get("SLURM_JOB_ID", "local"),
    }
