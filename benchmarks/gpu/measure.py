"""Measure seconds, peak memory and the machine's own rates, to which the results of this package are relative."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch


def synchronize(device: torch.device) -> None:
    """Wait for the device to finish all submitted work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def median_seconds(action: Callable[[], object], device: torch.device, *, repeats: int, warm_up: int = 2) -> float:
    """Return the median of ``repeats`` synchronized calls, after ``warm_up`` calls that are not counted."""
    for _ in range(warm_up):
        action()
    taken = []
    for _ in range(repeats):
        synchronize(device)
        start = time.perf_counter()
        action()
        synchronize(device)
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def extra_bytes(action: Callable[[], object], device: torch.device) -> int:
    """Return the peak memory of ``action`` above that allocated before; 0 on a CPU, whose allocator has no peak."""
    if device.type != "cuda":
        action()
        return 0
    synchronize(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    action()
    synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def matrix_rate(device: torch.device, dtype: torch.dtype, size: int = 8192, repeats: int = 20) -> float:
    """Return the operations per second of a square matrix product, the reference for a model's rate."""
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    return 2.0 * size**3 / median_seconds(lambda: left @ right, device, repeats=repeats, warm_up=5)


def copy_seconds(device: torch.device, n_bytes: int, repeats: int = 10) -> float:
    """Return the seconds of one copy of a number of bytes within the device."""
    source = torch.empty(n_bytes, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return median_seconds(lambda: target.copy_(source), device, repeats=repeats)
