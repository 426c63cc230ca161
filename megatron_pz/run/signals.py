"""Stop a run on a signal after the current step."""

from __future__ import annotations

import os
import signal
from types import FrameType, TracebackType
from typing import Any, Self

from megatron_pz.trainer.topology import Topology


class StopRequest:
    """Turns the first SIGINT, SIGTERM or SIGUSR1 into a request that the loop reads between two steps.

    A second Ctrl-C ends the process at once: the first SIGINT restores the default handlers of SIGINT and SIGTERM
    (torchrun answers the second Ctrl-C with SIGTERM). After SIGTERM or SIGUSR1, which schedulers may repeat, only
    SIGINT ends the process at once.

    ``megatron_pz.cluster.launcher`` starts workers with SIGUSR1 blocked, so that a request during the imports stays
    pending until this class unblocks it. The launcher forwards signals once every worker can save, and waits for the
    checkpoint.

    torchrun (2.13) forwards SIGTERM, SIGINT, SIGHUP and SIGQUIT and kills its workers 30 seconds later, or after
    ``TORCH_ELASTIC_SHUTDOWN_TIMEOUT`` seconds; SIGUSR1 ends torchrun itself, and its exit code is always 1.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        """The first signal that this process received."""
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        self._previous = {number: signal.signal(number, self._received) for number in self.SIGNALS}
        signal.pthread_sigmask(signal.SIG_UNBLOCK, self.SIGNALS)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def requested(self, topology: Topology) -> bool:
        """Return whether any rank has been asked to stop; all ranks get the same answer. Collective."""
        return topology.any_rank(self.signal is not None)

    def _received(self, number: int, frame: FrameType | None) -> None:
        if self.signal is None:
            self.signal = signal.Signals(number)
            if os.environ.get("RANK", "0") == "0":
                # Not print: the handler may interrupt another print, which holds the lock.
                os.write(
                    2,
                    f"\n{self.signal.name}: finishing this step, then saving a checkpoint; "
                    "Ctrl-C ends the run at once\n".encode(),
                )
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        if number == signal.SIGINT:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
