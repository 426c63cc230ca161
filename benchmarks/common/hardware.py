"""Describe the hardware of a measurement."""

from __future__ import annotations

from pathlib import Path


def cpu_name() -> str:
    """Return the processor's name from the Linux kernel, or ``CPU`` if there is none."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "CPU")
