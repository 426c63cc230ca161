"""The faster precision is measured, and follows the instructions that torch and oneDNN may use."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest
import torch

from megatron_pz.runtime import matrix_speed as matrix_speed_module
from megatron_pz.runtime.matrix_speed import DTYPES, MatrixSpeed, Precision, matrix_speed
from tests.support.torchrun import ROOT


def test_the_faster_one_is_chosen_and_float32_in_a_draw() -> None:
    assert MatrixSpeed(bf16=80.0, fp32=79.0).fastest == "bf16"
    assert MatrixSpeed(bf16=79.0, fp32=79.0).fastest == "fp32"
    speed = MatrixSpeed(bf16=4.76, fp32=79.0)
    assert (speed.of("bf16"), speed.of("fp32"), speed.fastest) == (4.76, 79.0, "fp32")
    assert str(speed) == "bfloat16 4.76 GFLOP/s a core, float32 79"


def test_the_speed_is_measured_once_in_a_process() -> None:
    speed = matrix_speed()
    assert min(speed.bf16, speed.fp32) > 0
    assert speed is matrix_speed()


@pytest.mark.parametrize("slow", ["bf16", "fp32"])
def test_the_slower_precision_is_never_chosen(slow: Precision, monkeypatch: pytest.MonkeyPatch) -> None:
    """The products of one precision take twice the time of the other's, on any CPU.

    The CPU's flags do not tell which is faster: an Intel Xeon with AVX512-BF16 but hidden AMX prefers float32.
    """
    monkeypatch.setattr(matrix_speed_module, "_training_products", lambda dtype: [lambda: dtype] * 3)
    monkeypatch.setattr(matrix_speed_module, "_seconds", lambda product: 2.0 if product() == DTYPES[slow] else 1.0)
    speed = matrix_speed.__wrapped__()
    assert speed.fastest != slow
    assert speed.of(speed.fastest) == pytest.approx(2 * speed.of(slow))


def test_waiting_for_a_core_does_not_count() -> None:
    """By wall time, float32 was measured at 4 GFLOP/s instead of 150 on a machine with thirty busy processes."""
    assert matrix_speed_module._seconds(lambda: time.sleep(0.05)) < 0.02  # type: ignore[arg-type, return-value]


def test_one_thread_measures_and_the_others_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    counts: list[int] = []
    monkeypatch.setattr(matrix_speed_module, "_measured", lambda: counts.append(torch.get_num_threads()))
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        matrix_speed.__wrapped__()
        assert (counts, torch.get_num_threads()) == ([1], 2)
    finally:
        torch.set_num_threads(before)


def test_float32_is_faster_without_avx512_and_the_generators_stay() -> None:
    code = (
        "import torch; from megatron_pz.runtime.matrix_speed import matrix_speed; before = torch.get_rng_state()\n"
        "speed = matrix_speed(); assert torch.equal(before, torch.get_rng_state()); print(speed.fastest, speed)"
    )
    command = [str(ROOT / "tools" / "without_avx512.sh"), sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=os.environ, timeout=60, check=False)
    assert done.stdout.startswith("fp32 "), done.stdout + done.stderr
