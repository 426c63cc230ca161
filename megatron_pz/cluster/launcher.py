"""Start one node's workers, forward signals to them, and exit with the code of the run.

    python -m megatron_pz.launch --nproc-per-node 8 megatron_pz.train --config FILE

The launcher replaces ``python -m torch.distributed.run`` without restarts. Its workers see the same protocol: torch's
elastic API starts them, and the first node holds the store of their rendezvous. The differences are:

====================================  =================================================================================
event                                 what happens
====================================  =================================================================================
a rollout rank is killed              all rollout ranks are restarted (``megatron_pz.runtime.replacement``)
a worker fails                        the others have ``GRACE`` seconds to report (1 after bad input), then are killed
the launcher dies                     its workers are killed with it (``megatron_pz.cluster.worker``)
SIGUSR1                               every worker gets it; it stays pending in a worker that is still importing
SIGTERM, SIGHUP, SIGINT               workers that can save get it, SIGHUP as SIGTERM; if one cannot yet, all are killed
a second SIGINT                       all workers are killed
====================================  =================================================================================

Exit codes: 0 all done, 3 stopped after a checkpoint, otherwise the code of the first worker that failed on any node
(2 for bad input, 1 for a failure, 4 for a collapsed training); a worker killed by a signal counts as 1, and 130 is
Ctrl-C before the first step or twice. No traceback is printed for these.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import signal
import socket
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from megatron_pz.cluster.local_node import LAST_PORT
from megatron_pz.cluster.node_log import NodeLog
from megatron_pz.cluster.worker import catches
from megatron_pz.config.command_line import Parser
from megatron_pz.runtime.errors import LAUNCHER_VARIABLE, BadInput, exits_with_one_line
from megatron_pz.runtime.replacement import START_AGAIN, take_declaration

if TYPE_CHECKING:
    from torch.distributed import Store, TCPStore

DONE, FAILED, REFUSED, STOPPED, INTERRUPTED = 0, 1, 2, 3, 130
"""Exit codes; workers use 2 for bad input."""
GRACE = 15.0
"""Seconds for the other workers to end after a failure: the watchdog's last line takes up to ten."""
GRACE_OF_BAD_INPUT = 1.0
"""Seconds for the other workers to end after bad input, about which they have nothing to report."""
FAREWELL = 300.0
"""Seconds that a launcher with finished workers waits for other nodes, like torchrun's exit barrier."""
JOIN_TIMEOUT = 600.0
"""Seconds that a node waits for the store of the first node: containers are unpacked at different speeds."""
_SIGNALS = {signal.SIGUSR1, signal.SIGTERM, signal.SIGHUP, signal.SIGINT}


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


class Agreement:
    """The launchers of all nodes agree on the failure that came first, and leave together."""

    def __init__(self, store: Store, place: Place) -> None:
        self._store, self._place = store, place
        self._left = False

    def failed_first(self, code: int) -> tuple[int, bool]:
        """Report this node's failure; return the code of the first failure of all nodes and whether it was this one.

        If the store of the first node's launcher is gone, this failure counts as the first.
        """
        own = f"{self._place.rank} {code}"
        try:
            first = self._store.compare_set("failure", "", own).decode()
        except RuntimeError:  # DistError is one
            return code, True
        return int(first.split()[1]), first == own

    def failure(self) -> int | None:
        """Return the code of the first failure on any node, None while there is none."""
        if self._place.nodes == 1 or not self._store.check(["failure"]):
            return None
        return int(self._store.get("failure").split()[1])

    def everybody_left(self) -> bool:
        """Announce that this node's workers have ended; return whether the launcher may exit.

        The first node holds the store and exits when the other nodes no longer need it.
        """
        if not self._left:
            self._left = True
            self._store.add("left", 1)
        if self._store.add("left", 0) < self._place.nodes:
            return False
        if self._place.rank > 0:
            self._store.add("gone", 1)
            return True
        return self._store.add("gone", 0) >= self._place.nodes - 1


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
            hint = "; the kernel does so where memory runs out" if code == -signal.SIGKILL else ""
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


def _open_store(place: Place) -> TCPStore:
    """Return the rendezvous store, which the first node's launcher serves and the others connect to.

    Raises BadInput if the first node cannot listen on its port, or another node cannot reach it in time.
    """
    from datetime import timedelta

    from torch.distributed import DistError, TCPStore

    try:
        return TCPStore(
            place.address,
            place.port,
            is_master=place.rank == 0,
            wait_for_workers=False,
            timeout=timedelta(seconds=JOIN_TIMEOUT),
        )
    except (DistError, RuntimeError) as error:
        where = f"{place.address}:{place.port}"
        if place.rank == 0:
            raise BadInput(
                f"cannot listen on {where} (in use by another process?): give a free port in MASTER_PORT; {error}"
            ) from None
        raise BadInput(f"the first node did not answer at {where} in {JOIN_TIMEOUT:.0f} s: {error}") from None


class Launcher:
    """One node's part of a run, from the start of its workers to the exit code."""

    def __init__(self, workers: Workers, agreement: Agreement, log: NodeLog) -> None:
        self._workers, self._agreement, self._log = workers, agreement, log
        self._code: int | None = None
        """The first failure's, once there is one."""
        self._kill_at: float | None = None
        self._interrupts = 0

    def run(self) -> int:
        """Wait for the workers, handle signals meanwhile, and return the exit code."""
        while self._workers.running:
            found = signal.sigtimedwait(_SIGNALS | {signal.SIGCHLD}, 0.5)
            if found is not None and found.si_signo in _SIGNALS:
                self._signalled(signal.Signals(found.si_signo))
            for local_rank in self._workers.poll():
                self._ended(local_rank)
            self._hear_of_failures()
            if self._kill_at is not None and time.monotonic() >= self._kill_at:
                self._workers.kill()
        self._leave()
        if self._code is not None:
            return self._code
        return STOPPED if self._workers.stopped else DONE

    def _signalled(self, number: signal.Signals) -> None:
        self._interrupts += number == signal.SIGINT
        if self._interrupts > 1:
            self._end_at_once(INTERRUPTED, "error: interrupted twice: ended without a checkpoint")
        elif number == signal.SIGUSR1 or self._workers.can_stop():
            self._workers.signal(signal.SIGTERM if number == signal.SIGHUP else number)
        else:
            code = INTERRUPTED if number == signal.SIGINT else FAILED
            self._end_at_once(
                code, f"error: {number.name} while not every process can save a checkpoint: ended at once"
            )

    def _end_at_once(self, code: int, line: str) -> None:
        if self._code is None:
            self._log.say(line)
            self._code = code
        self._workers.kill()

    def _ended(self, local_rank: int) -> None:
        code = self._workers.code(local_rank)
        if code in (DONE, STOPPED) or self._code is not None:
            return
        death = self._workers.describe(local_rank)
        if self._workers.replace(local_rank):
            if code != START_AGAIN:
                self._log.say(f"{death.replace('error', 'warning', 1)}; it is started again")
            return
        self._code, was_first = self._agreement.failed_first(code)
        if was_first:
            self._log.say(death)
        self._give_the_others_time()

    def _give_the_others_time(self) -> None:
        self._kill_at = time.monotonic() + (GRACE_OF_BAD_INPUT if self._code == REFUSED else GRACE)

    def _hear_of_failures(self) -> None:
        """Stop this node's workers if a worker of another node has failed."""
        if self._code is not None:
            return
        try:
            self._code = self._agreement.failure()
        except RuntimeError:  # DistError is one: no store without the first node's launcher
            self._log.say(f"error: the first node's launcher is gone; {socket.gethostname()} ends its workers")
            self._code = FAILED
        if self._code is not None:
            self._give_the_others_time()

    def _leave(self) -> None:
        """Wait for the launchers of the other nodes, which need the store and whose failure fails the job."""
        until = time.monotonic() + (FAREWELL if self._code is None else 2 * GRACE)
        with contextlib.suppress(RuntimeError):  # the first node's launcher has exited
            while not self._agreement.everybody_left() and time.monotonic() < until:
                if self._code is None and (failure := self._agreement.failure()) is not None:
                    self._code, until = failure, time.monotonic() + 2 * GRACE
                signal.sigtimedwait(_SIGNALS, 0.1)


def launch(place: Place, module: str, flags: list[str], log_file: Path | None = None) -> int:
    """Run ``module`` in this node's workers and return the exit code; see the module's docstring.

    Signals that arrive from here on stay pending until they are read, also during the import of torch.
    """
    nohup = {signal.SIGHUP} if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else set()
    signal.pthread_sigmask(signal.SIG_BLOCK, (_SIGNALS | {signal.SIGCHLD}) - nohup)  # blocked: not ignored any more
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # otherwise a lost store prints a C++ stack trace
    from torch.distributed import PrefixStore

    log = NodeLog.open(log_file, to_console=place.rank == 0)
    with log, tempfile.TemporaryDirectory(prefix="megatron_pz_") as scratch:
        store = _open_store(place)
        agreement = Agreement(PrefixStore("launcher", store), place)
        workers = Workers(place, store, module, flags, Path(scratch))
        try:
            return Launcher(workers, agreement, log).run()
        finally:
            workers.kill()


@exits_with_one_line
def main(argv: list[str] | None = None) -> None:
    """Start workers on this node and exit with the run's code."""
    parser = Parser("Start the processes of one node and exit with the code that tells how the run ended.")
    parser.add_argument("--nproc-per-node", type=int, default=1, metavar="N", help="processes on every node")
    parser.add_argument("--nnodes", type=int, default=1, metavar="N", help="nodes of the job")
    parser.add_argument("--node-rank", type=int, default=0, metavar="N", help="number of this node, from 0")
    parser.add_argument("--master-addr", default="127.0.0.1", metavar="HOST", help="address of the first node")
    parser.add_argument("--master-port", type=int, default=0, metavar="PORT", help="port there; 0: a free one")
    parser.add_argument("--log", type=Path, metavar="FILE", help="file for what this node's workers print")
    parser.add_argument("module", help="module to run in every process, e.g. megatron_pz.train")
    own, given = _split(sys.argv[1:] if argv is None else argv)
    flags = parser.parse_args(own)
    if min(flags.nproc_per_node, flags.nnodes) < 1:
        raise BadInput("--nproc-per-node and --nnodes must be at least 1")
    if not 0 <= flags.node_rank < flags.nnodes:
        raise BadInput(f"--node-rank {flags.node_rank}: give a number from 0 to {flags.nnodes - 1}")
    if flags.nnodes > 1 and not flags.master_port:
        raise BadInput("--nnodes above 1 needs --master-addr and --master-port")
    if not 0 <= flags.master_port <= LAST_PORT:
        raise BadInput(f"--master-port {flags.master_port}: give a port of at most {LAST_PORT}")
    if not _is_module(flags.module):
        raise BadInput(f"{flags.module}: no such module; give one such as megatron_pz.train")
    place = Place(flags.nnodes, flags.node_rank, flags.nproc_per_node, flags.master_addr, flags.master_port)
    if place.nodes == 1:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    raise SystemExit(launch(place, flags.module, given, flags.log))


def _is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):  # of the package that would hold it
        return False


def _split(words: list[str]) -> tuple[list[str], list[str]]:
    """Split the command line after the module's name into the launcher's and the module's arguments."""
    position = 0
    while position < len(words) and words[position].startswith("-"):
        position += 1 if "=" in words[position] or words[position] in ("-h", "--help") else 2
    return words[: position + 1], words[position + 1 :]
