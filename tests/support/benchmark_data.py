"""Find the benchmarks' files, which are not in the repository."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

VARIABLE = "MEGATRON_PZ_BENCHMARK_DATA"


def benchmark_data() -> Path:
    """Return the directory of the benchmarks' files, from the environment or ``shared/benchmark_data`` above."""
    above = [parent / "shared/benchmark_data" for parent in Path(__file__).resolve().parents]
    for directory in [Path(os.environ[VARIABLE])] if VARIABLE in os.environ else above:
        if directory.is_dir():
            return directory
    pytest.skip(f"no benchmark files: {VARIABLE} names their directory")
