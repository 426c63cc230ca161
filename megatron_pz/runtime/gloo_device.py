"""Let all process groups of a process share one gloo device.

torch creates a device for every group of gloo, and the thread of each wakes a hundred times a second, busy or not. A
run has about 21 groups, so that an idle rank takes 2.4 % of a core; with one device it takes 0.2 %.
"""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

from torch.distributed import ProcessGroupGloo, distributed_c10d
from torch.distributed.constants import default_pg_timeout

_c10d: Any = distributed_c10d  # typed loosely: its stub lacks the options, and its class is to be replaced
_devices: dict[int, Any] = {}
"""Device by process, since the thread of a device does not survive a fork."""


class SharedDeviceGloo(ProcessGroupGloo):
    """A gloo backend on the device of the process."""

    def __init__(self, store: Any, rank: int, size: int, timeout: timedelta = default_pg_timeout) -> None:
        options = _c10d.ProcessGroupGloo._Options()
        options._timeout = timeout
        options._devices = [_device()]
        super().__init__(store, rank, size, options)


def _device() -> Any:
    process = os.getpid()
    if process not in _devices:
        _devices[process] = ProcessGroupGloo.create_default_device()
    return _devices[process]


def share_gloo_device() -> None:
    """Make torch create its gloo backends as :class:`SharedDeviceGloo`. A second call does nothing.

    Nothing changes if ``GLOO_SOCKET_IFNAME`` names several interfaces, for which torch creates a device each.
    """
    if "," not in os.environ.get("GLOO_SOCKET_IFNAME", ""):
        _c10d.ProcessGroupGloo = SharedDeviceGloo
