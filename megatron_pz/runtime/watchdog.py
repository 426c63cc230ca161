"""Abort the run when a rank or an engine call exceeds its deadline, and name the rank and the phase.

===========================================  ==================================================================
what goes wrong                              what ends the run
===========================================  ==================================================================
an engine call, a weight sync or a disk      that rank, at the limit of its :meth:`Watchdog.phase`
hangs
a rank is stopped, or its node is lost       the rank before it, after ``heartbeat_timeout_minutes`` without a
                                             heartbeat
a rank fails                                 the rank before it, at the heartbeat that reports the failure
a rank is killed                             the launcher; the other ranks' collectives fail at once
the launcher dies                            every rank of its node, whose parent is then another process
a rank does not join a collective            the process groups' own timeout, ``distributed_timeout_minutes``
===========================================  ==================================================================

In each case every process ends with code 1, and one line names the rank, its host and its phase. Ranks publish
heartbeats of a few bytes in the rendezvous store and never use a collective for them.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any, NoReturn, Self

import torch.distributed as dist

from megatron_pz.runtime.errors import LAUNCHER_VARIABLE, brief
from megatron_pz.runtime.rank_monitor import RankMonitor, section_name

MAX_INTERVAL = 5.0
"""Maximum number of seconds between two heartbeats."""
EXIT_CODE = 1
_ABORT = "abort"
"""Key in the store of the line that ended the run."""
_LAUNCHED = {LAUNCHER_VARIABLE, "TORCHELASTIC_RUN_ID"}
"""Variables that launchers set: ours, and every one on torch's elastic API."""


@dataclass(frozen=True)
class Heartbeat:
    """A rank's state, as the other ranks read it."""

    rank: int
    host: str
    process: int
    beats: int
    """Heartbeats so far, so that a repeated one is recognized."""
    place: str
    """Phase and step that the rank is in."""
    ended: str | None = None
    """None while the rank works; afterwards the failure, or an empty string if its work was done."""

    def __str__(self) -> str:
        return f"rank {self.rank} ({self.host}, process {self.process})"


@dataclass(frozen=True)
class _Phase:
    name: str
    started: float
    limit: float | None
    setting: str


class Watchdog:
    """Watches the phases of one process and the heartbeats of the next rank, in a thread.

    :meth:`watch` starts it once the process groups exist. Without that call, as in a test or a tool, phases have no
    cost and no effect.
    """

    def __init__(
        self,
        heartbeat_timeout: float,
        *,
        end: Callable[[str], None] | None = None,
        monitor: RankMonitor | None = None,
    ) -> None:
        """
        Prepare a watchdog that does not watch yet.

        Args:
            heartbeat_timeout: seconds without a heartbeat after which a rank counts as lost.
            end: called in the watchdog's thread with a line that states the reason; by default it ends the process.
            monitor: also receives steps and phases.
        """
        self._monitor = monitor
        self.heartbeat_timeout = heartbeat_timeout
        self.interval = min(MAX_INTERVAL, heartbeat_timeout / 4)
        self._end = end or _end_process
        self._phases: list[_Phase] = []
        self._step = "start-up"
        self._thread: threading.Thread | None = None
        self._stopping = False
        self._wake = threading.Event()
        self._store: dist.Store | None = None
        self._rank, self._world_size = 0, 1
        self._beats = 0
        self._last_change: dict[int, tuple[int, float]] = {}
        """Number of heartbeats of each peer, and the time since which it has not changed."""
        self._launcher = os.getppid() if _LAUNCHED & os.environ.keys() else None

    # ---- called by the training thread ----

    def watch(self, rank: int, world_size: int, store: dist.Store | None) -> None:
        """Start watching. The watchdog opens its own connection to ``store``, the rendezvous store."""
        self._rank, self._world_size = rank, world_size
        if store is not None and world_size > 1:
            connection: Any = store
            self._store = dist.PrefixStore("watchdog", connection.clone())
            self._publish()
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)
        self._thread.start()
        if self._monitor is not None:
            self._monitor.start()

    def step(self, name: str) -> None:
        """Name the step to which the following phases belong, e.g. ``iteration 7``."""
        self._step = name
        self._wake.set()
        if self._monitor is not None and self._thread is not None:
            self._monitor.step()

    @contextlib.contextmanager
    def phase(self, name: str, limit: float | None = None, setting: str = "") -> Iterator[None]:
        """Name the phase of the block, and end the run if it takes more than ``limit`` seconds.

        A block that holds Python's global interpreter lock throughout also stops the watchdog's thread. The process
        then ends with a traceback ``heartbeat_timeout`` seconds after the limit.

        Args:
            setting: the flag that sets the limit, for the message.
        """
        if limit is not None and self._thread is not None:
            faulthandler.dump_traceback_later(limit + self.heartbeat_timeout, exit=True, file=2)
        self._phases.append(_Phase(name, time.monotonic(), limit, setting))
        self._wake.set()  # publish the new phase, because the rank may hang in it
        monitor = self._monitor if self._thread is not None else None
        if monitor is not None:
            monitor.enter(section_name(name))
        try:
            yield
        finally:
            if monitor is not None:
                monitor.leave(section_name(name))
            self._phases.pop()
            if limit is not None and self._thread is not None:
                faulthandler.cancel_dump_traceback_later()

    def stop(self, failure: str = "") -> None:
        """Stop watching and publish the reason: a failure, or nothing if the work is done. The store must exist."""
        if self._thread is None:
            return
        if self._monitor is not None:
            self._monitor.stop()
        self._stopping = True
        self._wake.set()
        self._thread.join()
        self._thread = None
        with contextlib.suppress(RuntimeError):  # the launcher may have closed the store first
            self._publish(ended=failure)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop, and publish the error that ends the block.

        Raises:
            SystemExit: instead of the error of a collective that another rank caused. One rank prints a line.
        """
        if error is None:
            self.stop()
        elif self._store is not None and self._thread is not None and is_of_a_collective(error):
            line = f"{self._heartbeat()}: {brief(error)} in {self._place()}; {self._other_places()}"
            self._announce(line)
            self.stop(line)
            raise SystemExit(EXIT_CODE) from None
        else:
            self.stop(f"{type(error).__name__}: {brief(error)}")

    # ---- the watchdog's thread ----

    def _run(self) -> None:
        awake = time.monotonic()
        while True:
            self._wake.wait(self._pause())
            self._wake.clear()
            if self._stopping:
                return
            slept, awake = time.monotonic() - awake, time.monotonic()
            if (
                slept > self.heartbeat_timeout / 2
            ):  # this process itself was stopped, so its information about others is outdated
                self._last_change.clear()
            try:
                line = self._overdue() or self._orphaned() or self._exchange()
            except RuntimeError as error:  # raised by the store
                line = f"the rendezvous' store, kept by the launcher on the first node, does not answer: {brief(error)}"
            if line:
                self._end(line)
                return

    def _pause(self) -> float:
        """Return the seconds until the next heartbeat or limit."""
        now = time.monotonic()
        left = [phase.started + phase.limit - now for phase in list(self._phases) if phase.limit is not None]
        return max(0.01, min([self.interval, *left]))

    def _overdue(self) -> str | None:
        """Return the reason to end the run if one of this rank's phases has exceeded its limit."""
        for phase in list(self._phases):
            took = time.monotonic() - phase.started
            if phase.limit is not None and took >= phase.limit:
                return self._announce(
                    f"{self._heartbeat()} has been in {phase.name} of {self._step} for {took:.0f} s, longer than "
                    f"{phase.setting or 'allowed'} ({phase.limit:g} s); the run ends; resume from its last checkpoint"
                )
        return None

    def _orphaned(self) -> str | None:
        """Return a line if the launcher has died, because no process would forward signals or end this one."""
        if self._launcher is None or os.getppid() == self._launcher:
            return None
        return self._announce(f"{self._heartbeat()}: its launcher (process {self._launcher}) is gone; the run ends")

    def _exchange(self) -> str | None:
        """Publish a heartbeat and read that of the next rank; return the reason to end the run, if any."""
        if self._store is None:
            return None
        self._publish()
        if self._store.check([_ABORT]):
            return self._store.get(_ABORT).decode()
        for offset in range(1, self._world_size):  # finished ranks do not watch, so read the next one that still works
            peer = (self._rank + offset) % self._world_size
            heartbeat = self._read(peer)
            if heartbeat is None or heartbeat.ended != "":
                problem = self._problem(peer, heartbeat)
                return self._announce(problem) if problem else None
        return None

    def _problem(self, peer: int, heartbeat: Heartbeat | None) -> str | None:
        """Return the fault of a peer, if any. A failed peer first gets time to print its own message."""
        now, beats = time.monotonic(), heartbeat.beats if heartbeat else 0
        if self._last_change.get(peer, (-1, 0.0))[0] != beats:
            self._last_change[peer] = beats, now
        silent = now - self._last_change[peer][1]
        if heartbeat is not None and heartbeat.ended:
            return f"{heartbeat} failed in {heartbeat.place}: {heartbeat.ended}" if silent > 2 * self.interval else None
        if silent < self.heartbeat_timeout:
            return None
        if heartbeat is None:
            return f"rank {peer} never started: no heartbeat in {silent:.0f} s"
        return (
            f"{heartbeat} has given no heartbeat for {silent:.0f} s (stopped, killed, or its node is lost): it was "
            f"last in {heartbeat.place}; resume from the last checkpoint"
        )

    # ---- the store ----

    def _place(self) -> str:
        phases = list(self._phases)
        return f"{phases[-1].name} of {self._step}" if phases else self._step

    def _heartbeat(self, ended: str | None = None) -> Heartbeat:
        return Heartbeat(self._rank, socket.gethostname(), os.getpid(), self._beats, self._place(), ended)

    def _publish(self, ended: str | None = None) -> None:
        if self._store is not None:
            self._beats += 1
            self._store.set(str(self._rank), json.dumps(asdict(self._heartbeat(ended))))

    def _read(self, rank: int) -> Heartbeat | None:
        if self._store is None or not self._store.check([str(rank)]):
            return None
        return Heartbeat(**json.loads(self._store.get(str(rank))))

    def _other_places(self) -> str:
        """Describe the ranks that have failed or are in another phase than this one."""
        peers = [self._read(rank) for rank in range(self._world_size) if rank != self._rank]
        places = [
            f"{peer} failed in {peer.place}: {peer.ended}" if peer.ended else f"{peer} is in {peer.place}"
            for peer in peers
            if peer and (peer.ended or peer.place != self._place())
        ]
        return "; ".join(places[:4]) or "the last heartbeats of all other ranks are from the same place"

    def _announce(self, line: str) -> str:
        """Publish and print why the run ends; return the line of the first rank to do so, which alone prints."""
        if self._store is not None:
            first = self._store.compare_set(_ABORT, "", line).decode()
            if first != line:
                return first
        os.write(2, f"error: {line}\n".encode())  # not print, because the hanging thread may hold its lock
        return line


def _end_process(line: str) -> NoReturn:
    """End the process immediately: the training thread hangs, so an orderly shutdown is impossible."""
    os._exit(EXIT_CODE)


def is_of_a_collective(error: BaseException) -> bool:
    """Return whether a collective raised the error.

    gloo raises a plain RuntimeError, and errors that wrap it (a broken engine, a checkpoint) keep its message.
    """
    return isinstance(error, dist.DistError) or any(word in str(error) for word in ("gloo", "NCCL", "ProcessGroup"))
