"""Choose the precision of tests that are independent of it, by the rule of runs."""

from __future__ import annotations

from typing import Literal

from megatron_pz.run.precision import fastest_precision


def fastest_dtype() -> Literal["bfloat16", "float32"]:
    """Return the dtype of rollouts under ``precision: auto`` on this machine."""
    return "bfloat16" if fastest_precision() == "bf16" else "float32"
