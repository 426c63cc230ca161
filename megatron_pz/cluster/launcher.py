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
import os
import signal
import socket
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from megatron_pz.cluster.local_node import LAST_PORT
from megatron_pz.cluster.node_log import NodeLog
from megatron_pz.cluster.worker_group import DONE, FAILED, INTERRUPTED, REFUSED, STOPPED, Place, Workers
from megatron_pz.config.command_line import Parser
from megatron_pz.runtime.errors import BadInput, exits_with_one_line
from megatron_pz.runtime.replacement import START_AGAIN

if TYPE_CHECKING:
    from torch.distributed import Store, TCPStore

GRACE = 15.0
"""Seconds for the other workers to end after a failure: the watchdog's last line takes up to ten."""
GRACE_OF_BAD_INPUT = 1.0
"""Seconds for the other workers to end after bad input, about which they have nothing to report."""
FAREWELL = 300.0
"""Seconds that a launcher with finished workers waits for other nodes, like torchrun's exit barrier."""
JOIN_TIMEOUT = 600.0
"""Seconds that a node waits for the store of the first node: containers are unpacked at different speeds."""
_SIGNALS = {signal.SIGUSR1, signal.SIGTERM, signal.SIGHUP, signal.SIGINT}


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
        """Exit code of the first failure; None without one."""
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
    parser = Parser("Start the processes of one node and exit with the code of the run.")
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
