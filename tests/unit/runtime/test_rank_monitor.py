"""Reports to ``ft_launcher``'s rank monitor. The stand-in has the signatures and rules of the package's 0.4.1."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import ClassVar

import pytest

from megatron_pz.runtime import rank_monitor
from megatron_pz.runtime.errors import BadInput
from megatron_pz.runtime.watchdog import Watchdog


class RankMonitorClientError(Exception):
    pass


class RankMonitorClient:
    """Refuses the same calls as the real client and its server."""

    made: ClassVar[list[RankMonitorClient]] = []
    timeouts: ClassVar[dict[str, float | None]] = {"setup": 60.0, "step": 60.0, "weight_sync": 10.0, "rollout": None}

    def __init__(self) -> None:
        self.is_initialized = False
        self.open: set[str] = set()
        self.sent: list[str] = []
        self.gone = False
        RankMonitorClient.made.append(self)

    def init_workload_monitoring(self) -> None:
        assert not self.is_initialized
        self.is_initialized = True
        self.section_timeouts = SimpleNamespace(section=dict(self.timeouts))

    def shutdown_workload_monitoring(self) -> None:
        self.is_initialized = False
        self.sent.append("shutdown")

    def send_heartbeat(self) -> None:
        self.require_monitor()
        self.sent.append("beat")

    def start_section(self, section: str) -> None:
        self.require_monitor()
        assert section in self.timeouts, "the server fails on a section without a timeout"
        if section in self.open:
            raise RankMonitorClientError(f"Section '{section}' is already open.")
        self.open.add(section)
        self.sent.append(f"+{section}")

    def end_section(self, section: str) -> None:
        self.require_monitor()
        if section not in self.open:
            raise RankMonitorClientError(f"Section '{section}' is not open.")
        self.open.remove(section)
        self.sent.append(f"-{section}")

    def require_monitor(self) -> None:
        if not self.is_initialized or self.gone:
            raise RankMonitorClientError("could not send")


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> type[RankMonitorClient]:
    """Install the stand-in, in a process that ``ft_launcher`` appears to have started."""
    module = ModuleType("nvidia_resiliency_ext.fault_tolerance")
    module.RankMonitorClient = RankMonitorClient  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "nvidia_resiliency_ext", ModuleType("nvidia_resiliency_ext"))
    monkeypatch.setitem(sys.modules, "nvidia_resiliency_ext.fault_tolerance", module)
    monkeypatch.setenv(rank_monitor.SOCKET_VARIABLE, "/tmp/rank_0.socket")
    monkeypatch.setattr(RankMonitorClient, "made", [])
    return RankMonitorClient


@pytest.fixture
def watchdog(package: type[RankMonitorClient]) -> Iterator[Watchdog]:
    watchdog = Watchdog(60.0, monitor=rank_monitor.detect())
    yield watchdog
    watchdog.stop()


def sections(client: RankMonitorClient) -> list[str]:
    return [message for message in client.sent if message != "beat"]


def test_without_the_launcher_nothing_is_imported(
    package: type[RankMonitorClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(rank_monitor.SOCKET_VARIABLE)
    assert rank_monitor.detect() is None
    assert package.made == []


def test_a_launcher_of_another_environment_is_bad_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(rank_monitor.SOCKET_VARIABLE, "/tmp/rank_0.socket")
    monkeypatch.setitem(sys.modules, "nvidia_resiliency_ext", None)
    with pytest.raises(BadInput, match="nvidia-resiliency-ext cannot be imported"):
        rank_monitor.detect()


def test_steps_and_phases_are_heartbeats_and_sections(watchdog: Watchdog) -> None:
    (client,) = RankMonitorClient.made
    with watchdog.phase("rollout"):  # before the process groups exist
        assert client.sent == []
    watchdog.watch(0, 1, None)
    with watchdog.phase("the weight sync", 60.0), watchdog.phase("writing a checkpoint", 60.0):
        pass
    watchdog.step("iteration 1")
    with watchdog.phase("rollout"):
        pass
    watchdog.step("iteration 2")
    watchdog.stop()
    expected = "+setup +weight_sync -weight_sync -setup +step +rollout -rollout -step +step shutdown"
    assert sections(client) == expected.split()
    # One for each boundary of a section, whether or not it has a timeout.
    assert client.sent.count("beat") == 1 + 4 + 2 + 2 + 2


def test_a_phase_that_threads_share_is_one_section(watchdog: Watchdog) -> None:
    (client,) = RankMonitorClient.made
    watchdog.watch(0, 1, None)
    first, second = threading.Event(), threading.Event()

    def write() -> None:
        with watchdog.phase("rollout"):
            first.set()
            assert second.wait(10)

    thread = threading.Thread(target=write)
    thread.start()
    assert first.wait(10)
    with watchdog.phase("rollout"):
        pass
    assert client.open == {"setup", "rollout"}
    second.set()
    thread.join(10)
    assert client.open == {"setup"}


def test_a_monitor_that_is_gone_is_named_once_and_the_run_goes_on(
    watchdog: Watchdog, capsys: pytest.CaptureFixture[str]
) -> None:
    (client,) = RankMonitorClient.made
    watchdog.watch(0, 1, None)
    client.gone = True
    for step in range(3):
        watchdog.step(f"iteration {step}")
    assert capsys.readouterr().err == "the rank monitor does not answer, no more is sent to it: could not send\n"


@pytest.mark.parametrize(
    ("phase", "section"),
    [
        ("the rollout engine's start", "rollout_engine_start"),
        ("the weight sync", "weight_sync"),
        ("the rollout engine's going to sleep", "rollout_engine_going_to_sleep"),
        ("writing a checkpoint", "writing_a_checkpoint"),
    ],
)
def test_sections_have_names_that_a_flag_can_hold(phase: str, section: str) -> None:
    """The launcher splits its flag at commas and colons."""
    assert rank_monitor.section_name(phase) == section
