"""How much memory a part of a step needed at most."""

from __future__ import annotations

import contextlib
from pathlib import Path

import torch

GIB = 2**30
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def start() -> None:
    """Forget the peak so far.

    On a CPU it is the process's resident memory (Linux: VmHWM); where the system does not let a process reset that,
    the figures are those of the whole life of the process.
    """
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    else:
        with contextlib.suppress(OSError):
            _CLEAR.write_text("5", encoding="ascii")


def peak_gib() -> float:
    """Most memory since :func:`start`, in GiB: what torch's allocator held on the device, or resident on a CPU.

    vLLM's weights and KV cache are allocated through torch and count, also while they sleep.
    """
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / GIB
    for line in _STATUS.read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / GIB
    raise RuntimeError(f"{_STATUS} has no line VmHWM")


def device_used_gib() -> float | None:
    """Memory of the device that is in use now, by anything; None on a CPU."""
    if not torch.cuda.is_available():
        return None
    free, total = torch.cuda.mem_get_info()
    return (total - free) / GIB
