"""A signal asks the run to stop between two steps."""

from __future__ import annotations

import os
import signal

import pytest

from megatron_pz.run.signals import StopRequest


class OneRank:
    """Replaces the topology of a run of one rank."""

    def any_rank(self, flag: bool) -> bool:
        return flag


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_is_a_request_and_nothing_else(number: signal.Signals, capfd: pytest.CaptureFixture[str]) -> None:
    handlers = [signal.getsignal(each) for each in StopRequest.SIGNALS]
    with StopRequest() as stop:
        assert not stop.requested(OneRank())
        signal.raise_signal(number)
        assert stop.requested(OneRank())
        assert stop.signal is number
    assert [signal.getsignal(each) for each in StopRequest.SIGNALS] == handlers
    assert number.name in capfd.readouterr().err


def test_schedulers_repeat_themselves() -> None:
    with StopRequest() as stop:
        for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGTERM, signal.SIGUSR1):
            signal.raise_signal(number)
        assert stop.signal is signal.SIGUSR1


@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_after_ctrl_c_the_next_one_ends_the_process_at_once(second: signal.Signals) -> None:
    """This includes SIGTERM, which torchrun sends for a second Ctrl-C."""
    child = os.fork()
    if child == 0:
        with StopRequest():
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(second)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status)
    assert os.WTERMSIG(status) == second
