"""Measure the speed of training's matrix products on this machine, in bfloat16 and in float32.

Processor flags are not sufficient, because they do not show how torch and oneDNN use them. Without bfloat16 kernels
torch falls back to a plain loop, which is up to forty times slower than float32 on a CPU with AVX2.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch

Precision = Literal["bf16", "fp32"]
DTYPES: dict[Precision, torch.dtype] = {"bf16": torch.bfloat16, "fp32": torch.float32}

TOKENS, HIDDEN, FFN = 128, 576, 1536
"""A feed-forward layer of SmolLM2-135M on a short packed sequence. Each product is 0.23 GFLOP: 3 ms in float32 with
AVX2, so that the fastest repeat fits between two interruptions of a busy machine."""
MIN_REPEATS, MAX_REPEATS, BUDGET_SECONDS = 3, 25, 0.3


@dataclass(frozen=True)
class MatrixSpeed:
    """Rates of one forward and two backward products together, GFLOP/s on one core."""

    bf16: float
    fp32: float

    @property
    def fastest(self) -> Precision:
        """Return the precision that trains faster on this machine; float32 in a tie."""
        return "bf16" if self.bf16 > self.fp32 else "fp32"

    def of(self, precision: Precision) -> float:
        """Return the rate of one precision, GFLOP/s."""
        return self.bf16 if precision == "bf16" else self.fp32

    def __str__(self) -> str:
        return f"bfloat16 {self.bf16:.3g} GFLOP/s a core, float32 {self.fp32:.3g}"


@functools.cache
def matrix_speed() -> MatrixSpeed:
    """Measure once in this process, in less than a second on an idle core.

    The result is the fastest of several repeats in CPU time, and the two precisions alternate, so that other processes
    do not affect the decision. One thread measures. The state of random generators is preserved.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _measured()
    finally:
        torch.set_num_threads(threads)


def _measured() -> MatrixSpeed:
    products = {precision: _training_products(dtype) for precision, dtype in DTYPES.items()}
    fastest: dict[Precision, list[float]] = {precision: [float("inf")] * 3 for precision in products}
    for each in (product for made in products.values() for product in made):
        each()  # the first call allocates memory and prepares oneDNN's kernel
    began = time.perf_counter()
    for repeat in range(MAX_REPEATS):
        if repeat >= MIN_REPEATS and time.perf_counter() - began > BUDGET_SECONDS:
            break
        for precision, made in products.items():
            for place, product in enumerate(made):
                fastest[precision][place] = min(fastest[precision][place], _seconds(product))
    operations = 3 * 2 * TOKENS * HIDDEN * FFN
    return MatrixSpeed(*(operations / sum(fastest[precision]) / 1e9 for precision in ("bf16", "fp32")))


def _training_products(dtype: torch.dtype) -> list[Callable[[], torch.Tensor]]:
    """Return the products of a linear layer: output, input gradient and weight gradient."""
    input_TH = torch.linspace(-1, 1, TOKENS * HIDDEN).view(TOKENS, HIDDEN).to(dtype)
    weight_FH = torch.linspace(-1, 1, FFN * HIDDEN).view(FFN, HIDDEN).to(dtype)
    gradient_TF = torch.linspace(-1, 1, TOKENS * FFN).view(TOKENS, FFN).to(dtype)
    return [
        lambda: torch.nn.functional.linear(input_TH, weight_FH),
        lambda: gradient_TF.matmul(weight_FH),
        lambda: gradient_TF.t().matmul(input_TH),
    ]


def _seconds(product: Callable[[], torch.Tensor]) -> float:
    """Return the CPU time of the multiplying thread, which excludes the wait for a core."""
    began = time.thread_time()
    product()
    return time.thread_time() - began
