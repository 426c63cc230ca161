"""Measure the peak memory of a part of a step."""

from __future__ import annotations

import contextlib
from pathlib import Path

import torch

GIB = 2**30
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def start() -> None:
    """Reset the peak.

    On a CPU the peak is that of the process's resident memory (VmHWM on Linux). If the system does not allow a reset,
    the peak covers the lifetime of the process.
    """
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    else:
        with contextlib.suppress(OSError):
            _CLEAR.write_text("5", encoding="ascii")


def peak_gib() -> float:
    """Return the peak since :func:`start` in GiB: of torch's allocator on a GPU, of resident memory on a CPU.

    vLLM's weights and KV cache are allocated through torch and are included, even while the engine sleeps.
    """
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / GIB
    for line in _STATUS.read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / GIB
    raise RuntimeError(f"{_STATUS} has no line VmHWM")


def device_used_gib() -> float | None:
    """Return the device memory that all processes use now, in GiB; None on a CPU."""
    if not torch.cuda.is_available():
        return None
    free, total = torch.cuda.mem_get_info()
    return (total - free) / GIB
