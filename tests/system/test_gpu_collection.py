"""The GPU tests can be collected on any machine, and are skipped with the reason where there is no GPU."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
FILES = ("test_benchmarks.py", "test_model.py", "test_rollout.py", "test_train.py")


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a GPU")
def test_every_gpu_test_is_skipped_with_the_reason(tmp_path: Path) -> None:
    assert sorted(path.name for path in (ROOT / "tests" / "gpu").glob("test_*.py")) == [*FILES]
    command = [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", "tests/gpu"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    reasons = [line for line in done.stdout.splitlines() if line.startswith("SKIPPED")]
    assert all(any(f"tests/gpu/{file}" in line for line in reasons) for file in FILES)
    assert all("no CUDA device: Transformer Engine, FP8, vLLM on CUDA" in line for line in reasons)
    assert "passed" not in done.stdout and "failed" not in done.stdout
