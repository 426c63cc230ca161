"""Report heartbeats and sections to the rank monitor of NVIDIA's ``ft_launcher``, if that started this process.

``nvidia-resiliency-ext`` is optional. Its launcher restarts the ranks of a job in place and sets a variable with the
socket of the rank's monitor; under any other launcher nothing is imported and nothing is sent.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import threading
from collections import Counter
from typing import Protocol

from megatron_pz.runtime.errors import BadInput, brief

SOCKET_VARIABLE = "FT_RANK_MONITOR_IPC_SOCKET"
"""Set by ``ft_launcher`` in its workers."""
SETUP, STEP = "setup", "step"
"""Sections in addition to the watchdog's phases: from the process groups to the first step, and one step."""


class SectionTimeouts(Protocol):
    """The part of the package's ``SectionTimeouts`` that this module reads."""

    section: dict[str, float | None]
    """Timeout in seconds of each section that the launcher monitors."""


class Client(Protocol):
    """The part of ``nvidia_resiliency_ext.fault_tolerance.RankMonitorClient`` (0.4.1) that this module uses."""

    section_timeouts: SectionTimeouts

    def init_workload_monitoring(self) -> None: ...

    def shutdown_workload_monitoring(self) -> None: ...

    def send_heartbeat(self) -> None: ...

    def start_section(self, section: str) -> None: ...

    def end_section(self, section: str) -> None: ...


class RankMonitor:
    """Sends a heartbeat at every boundary of steps and phases, and opens the sections that have a timeout.

    The monitor (0.4.1) fails on a section without a timeout, so only those in ``--ft-rank-section-timeouts`` are sent.
    Phases may come from several threads.
    """

    def __init__(self, client: Client) -> None:
        self._client: Client | None = client
        self._lock = threading.Lock()
        self._open: Counter[str] = Counter()
        self._between = SETUP

    def start(self) -> None:
        """Connect to the monitor. The process group must exist."""
        assert self._client is not None
        self._client.init_workload_monitoring()
        self.enter(SETUP)

    def step(self) -> None:
        """End the setup or the previous step, and begin a step."""
        self.leave(self._between)
        self._between = STEP
        self.enter(STEP)

    def enter(self, section: str) -> None:
        """Begin a section. If it is already open in another thread, it stays one section."""
        with self._lock:
            self._open[section] += 1
            self._send(section, opens=True, changes=self._open[section] == 1)

    def leave(self, section: str) -> None:
        """End a section. One that began before :meth:`start` is unknown to the monitor."""
        with self._lock:
            if self._open[section]:
                self._open[section] -= 1
                self._send(section, opens=False, changes=self._open[section] == 0)

    def stop(self) -> None:
        """Disconnect, so that the monitor stops watching this process."""
        with self._lock:
            if self._client is not None:
                with contextlib.suppress(OSError):  # the monitor may have ended first
                    self._client.shutdown_workload_monitoring()
            self._client = None

    def _send(self, section: str, *, opens: bool, changes: bool) -> None:
        client = self._client
        if client is None:
            return
        try:
            client.send_heartbeat()
            if changes and section in client.section_timeouts.section:
                (client.start_section if opens else client.end_section)(section)
        except Exception as error:  # RankMonitorClientError, which exists only where the package does
            # The launcher watches its own monitor; if the monitor lives, it ends a silent rank.
            print(f"the rank monitor does not answer, no more is sent to it: {brief(error)}", file=sys.stderr)
            self._client = None


def section_name(phase: str) -> str:
    """Return the section of a phase of the watchdog: ``the weight sync`` is ``weight_sync``."""
    return phase.removeprefix("the ").replace("'s ", " ").replace(" ", "_").replace("-", "_")


def detect() -> RankMonitor | None:
    """Return a client for this process's monitor, or None if ``ft_launcher`` did not start the process.

    Raises:
        BadInput: ``ft_launcher`` comes from another environment, and this one lacks its package.
    """
    if SOCKET_VARIABLE not in os.environ:
        return None
    try:
        fault_tolerance = importlib.import_module("nvidia_resiliency_ext.fault_tolerance")
    except ImportError as error:
        raise BadInput(
            f"ft_launcher started this process ({SOCKET_VARIABLE} is set), but nvidia-resiliency-ext cannot be "
            f"imported ({brief(error)}): install it in this environment"
        ) from None
    return RankMonitor(fault_tolerance.RankMonitorClient())
