"""Nothing waits for ever: a thread in every process knows who is alive, where each rank stands, and how long already.

=======================================  ==================================================================
what stalls                              what ends the run
=======================================  ==================================================================
a rank is killed                         its peers' collectives fail at once; :class:`Watchdog` says whose fault it was
a rank is stopped, or its node is gone   no sign of life for ``heartbeat_timeout_minutes``: the rank before it tells
an engine call, a weight sync, a disk    :meth:`Watchdog.phase` with a limit: the rank itself tells
anything else that one rank does         the process groups' own timeout, ``distributed_timeout_minutes``
=======================================  ==================================================================

In each case every process ends with code 1, and one line names the rank, its host and what it was doing. The ranks talk
through the store of the rendezvous, a few bytes a heartbeat each, never through a collective.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self

import psutil
import torch.distributed as dist

from megatron_pz.runtime.errors import brief

LONGEST_INTERVAL = 5.0
"""Seconds between two heartbeats, at most."""
EXIT_CODE = 1
_VERDICT = "verdict"


@dataclass(frozen=True)
class Sign:
    """A rank's sign of life, as the other ranks read it."""

    rank: int
    host: str
    """For people. Nodes may have equal names, and containers that share the network of a node have its name."""
    machine: str
    """Where process numbers mean the same (:func:`_this_machine`)."""
    process: int
    born: float
    """When the process was started, so that another one with its number is not taken for it."""
    beats: int
    place: str
    """What the rank is doing."""
    ended: str | None = None
    """Why it has left; empty: it was done."""

    def __str__(self) -> str:
        return f"rank {self.rank} ({self.host}, process {self.process})"


@dataclass(frozen=True)
class _Phase:
    name: str
    started: float
    limit: float | None
    setting: str


class Watchdog:
    """One process's watch over itself and over the next rank. As a context manager it explains what ends the block.

    :meth:`watch` starts it, once the process group is there. Without that, as in a test or a tool, phases are free.
    """

    def __init__(self, heartbeat_timeout: float, *, end: Callable[[str], None] | None = None) -> None:
        """``heartbeat_timeout``: seconds without a sign of life after which a rank counts as missing.

        ``end`` is called with the verdict, in the watchdog's thread; by default it ends the process.
        """
        self.heartbeat_timeout = heartbeat_timeout
        self.interval = min(LONGEST_INTERVAL, heartbeat_timeout / 4)
        self._end = end or _end_process
        self._phases: list[_Phase] = []
        self._step = "start-up"
        self._thread: threading.Thread | None = None
        self._stopping = False
        self._wake = threading.Event()
        self._store: dist.Store | None = None
        self._rank, self._world_size = 0, 1
        self._beats = 0
        self._seen: dict[int, tuple[int, float]] = {}
        self._told: str | None = None
        self._telling = threading.Lock()

    # ---- what the training thread says ----

    def watch(self, rank: int, world_size: int, store: dist.Store | None) -> None:
        """Start. ``store`` is the rendezvous': the watchdog opens its own connection to it. A lone rank needs none."""
        self._rank, self._world_size = rank, world_size
        if store is not None and world_size > 1:
            connection: Any = store
            self._store = dist.PrefixStore("watchdog", connection.clone())
            self._publish()
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)
        self._thread.start()

    def step(self, name: str) -> None:
        """What the phases that follow belong to, e.g. ``iteration 7``."""
        self._step = name
        self._wake.set()

    @contextlib.contextmanager
    def phase(self, name: str, limit: float | None = None, setting: str = "") -> Iterator[None]:
        """Name what is being done; if it takes more than ``limit`` seconds, the run ends.

        ``setting`` is where the limit comes from. Should the block keep Python's lock all the while, so that no thread
        can run, the process ends with a traceback ``heartbeat_timeout`` later.
        """
        if limit is not None and self._thread is not None:
            faulthandler.dump_traceback_later(limit + self.heartbeat_timeout, exit=True, file=2)
        self._phases.append(_Phase(name, time.monotonic(), limit, setting))
        self._wake.set()  # the others shall know where this rank is, should it be its last word
        try:
            yield
        finally:
            self._phases.pop()
            if limit is not None and self._thread is not None:
                faulthandler.cancel_dump_traceback_later()

    def stop(self, reason: str = "") -> None:
        """Leave, and tell the others so: empty when the work is done. Call it before the process groups go."""
        if self._thread is None:
            return
        self._stopping = True
        self._wake.set()
        self._thread.join()
        self._thread = None
        with contextlib.suppress(RuntimeError):  # the store may have gone first
            self._publish(ended=reason)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Tell the others what ended this rank. If it was a collective, find out which rank let it fail.

        Raises SystemExit in place of a collective's error, once the verdict has been printed.
        """
        if error is None:
            self.stop()
        elif self._store is not None and self._thread is not None and _of_a_collective(error):
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # torchrun's, for the rank that is gone: it kills in the end
            line = self._culprit() or f"{self._me()}: {brief(error)}; {self._whereabouts()}"
            self._announce(line)  # the watchdog's thread may be quicker, and end the process
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
            if slept > self.heartbeat_timeout / 2:  # this process was stopped itself: it knows nothing of the others
                self._seen.clear()
            try:
                line = self._overdue() or self._news()
            except RuntimeError as error:  # of the store
                line = f"the rendezvous' store, kept by torchrun on the first node, does not answer: {brief(error)}"
            if line:
                self._end(line)
                return

    def _pause(self) -> float:
        """Seconds to the next heartbeat, or to the next limit."""
        now = time.monotonic()
        left = [phase.started + phase.limit - now for phase in list(self._phases) if phase.limit is not None]
        return max(0.01, min([self.interval, *left]))

    def _overdue(self) -> str | None:
        for phase in list(self._phases):
            took = time.monotonic() - phase.started
            if phase.limit is not None and took >= phase.limit:
                line = (
                    f"{self._me()} has been in {phase.name} of {self._step} for {took:.0f} s, longer than "
                    f"{phase.setting or 'allowed'} ({phase.limit:g} s); the run ends; resume from its last checkpoint"
                )
                return self._announce(line)
        return None

    def _news(self) -> str | None:
        """Give a sign of life; hear whether the run has ended; look at the next rank."""
        if self._store is None:
            return None
        self._publish()
        if self._store.check([_VERDICT]):
            return self._hear(self._store.get(_VERDICT).decode())
        # Whoever is done is skipped, so that every rank at work has a rank at work that watches it.
        for offset in range(1, self._world_size):
            other = (self._rank + offset) % self._world_size
            sign = self._sign(other)
            if sign is None or sign.ended != "":
                problem = self._problem(other, sign, patience=2 * self.interval)
                return self._announce(problem) if problem else None
        return None

    # ---- what is known of the others ----

    def _problem(self, rank: int, sign: Sign | None, patience: float) -> str | None:
        """What is wrong with a rank, if anything. One that failed gets ``patience`` seconds to print its own story."""
        beats, since = self._seen.get(rank, (-1, 0.0))
        now, latest = time.monotonic(), sign.beats if sign else 0
        if latest != beats:
            beats, since = self._seen[rank] = latest, now
        if sign is not None and sign.ended:
            return f"{sign} failed in {sign.place}: {sign.ended}" if now - since >= patience else None
        if sign is not None and sign.ended is None and _is_gone(sign):
            last_word = self._sign(rank)  # it may have come since the sign was read
            if last_word is not None and last_word.ended is not None:
                return f"{sign} failed in {sign.place}: {last_word.ended}" if last_word.ended else None
            return f"{sign} is gone (killed, or crashed): it was last in {sign.place}; resume from the last checkpoint"
        if now - since < self.heartbeat_timeout:
            return None
        if sign is None:
            return f"rank {rank} never came up: no sign of life in {now - since:.0f} s"
        _end_stopped(sign)
        return (
            f"{sign} has given no sign of life for {now - since:.0f} s (stopped, or its node is gone): it was last in "
            f"{sign.place}; resume from the last checkpoint"
        )

    def _culprit(self) -> str | None:
        """The verdict on the rank that let a collective fail; None if all seem to be well and at work."""
        until = time.monotonic() + self.heartbeat_timeout + 2 * self.interval
        while time.monotonic() < until:
            if self._store is None or self._store.check([_VERDICT]):
                break
            for other in set(range(self._world_size)) - {self._rank}:
                problem = self._problem(other, self._sign(other), patience=0.0)
                if problem:
                    return problem
            time.sleep(min(0.1, self.interval))
        else:
            return None
        return self._hear(self._store.get(_VERDICT).decode()) if self._store is not None else None

    def _whereabouts(self) -> str:
        """Where the ranks are that are elsewhere than this one."""
        signs = [self._sign(other) for other in range(self._world_size) if other != self._rank]
        elsewhere = [f"{sign} is in {sign.place}" for sign in signs if sign and sign.place != self._place()]
        return "; ".join(elsewhere[:4]) or "all other ranks are alive and in the same place"

    # ---- the store ----

    def _place(self) -> str:
        phases = list(self._phases)
        return f"{phases[-1].name} of {self._step}" if phases else self._step

    def _own_sign(self, ended: str | None = None) -> Sign:
        born = psutil.Process().create_time()
        return Sign(
            self._rank, socket.gethostname(), _this_machine(), os.getpid(), born, self._beats, self._place(), ended
        )

    def _me(self) -> str:
        return str(self._own_sign())

    def _publish(self, ended: str | None = None) -> None:
        if self._store is not None:
            self._beats += 1
            self._store.set(str(self._rank), json.dumps(asdict(self._own_sign(ended))))

    def _sign(self, rank: int) -> Sign | None:
        if self._store is None or not self._store.check([str(rank)]):
            return None
        return Sign(**json.loads(self._store.get(str(rank))))

    def _announce(self, line: str) -> str:
        """Make it everybody's verdict, unless there is one: then that one. Who makes it prints it."""
        with self._telling:
            if self._told is None and self._store is not None:
                own = json.dumps([self._rank, socket.gethostname(), line])
                first = self._store.compare_set(_VERDICT, "", own).decode()
                if first != own:
                    return self._hear(first)
            if self._told is None:
                self._told = line
                _print(line)
                if self._store is not None:
                    time.sleep(2 * self.interval)  # the others read the verdict before the launcher ends them
            return self._told

    def _hear(self, verdict: str) -> str:
        """Another rank's verdict: printed once on every host."""
        rank, host, line = json.loads(verdict)
        if rank != self._rank and host != socket.gethostname() and os.environ.get("LOCAL_RANK", "0") == "0":
            _print(line)
        return line


def _print(line: str) -> None:
    os.write(2, f"error: {line}\n".encode())  # not print, whose lock the stalled thread may hold


def _end_process(line: str) -> NoReturn:
    """The training thread hangs somewhere, so there is no orderly way out."""
    os._exit(EXIT_CODE)


def _of_a_collective(error: BaseException) -> bool:
    """gloo raises a plain RuntimeError; whoever passes it on (a broken engine, a checkpoint) keeps its words."""
    return isinstance(error, dist.DistError) or any(word in str(error) for word in ("gloo", "NCCL", "ProcessGroup"))


def _this_machine() -> str:
    """This boot of this kernel, and the namespace of process numbers that a container may have to itself."""
    return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {Path('/proc/self/ns/pid').stat().st_ino}"


def _own_process(sign: Sign) -> psutil.Process | None:
    """The rank's process, where it is on this machine and there; the same one, not another with its number."""
    if sign.machine != _this_machine():
        return None
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(sign.process)
        if process.create_time() == sign.born and process.status() != psutil.STATUS_ZOMBIE:
            return process
    return None


def _is_gone(sign: Sign) -> bool:
    return sign.machine == _this_machine() and _own_process(sign) is None


def _end_stopped(sign: Sign) -> None:
    """A stopped process cannot end itself."""
    process: Any = _own_process(sign)
    if process is not None:
        with contextlib.suppress(psutil.Error):
            process.kill()
