"""What a result was measured on."""

from __future__ import annotations

from pathlib import Path


def cpu_name() -> str:
    """The processor's name as the Linux kernel has it; ``CPU`` where it says none."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "CPU")
