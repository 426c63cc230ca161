"""The precision of tests whose subject is not the precision: the rule that runs follow."""

from __future__ import annotations

from typing import Literal

from megatron_pz.run.precision import fastest_precision


def fastest_dtype() -> Literal["bfloat16", "float32"]:
    """Return the dtype that ``precision: auto`` gives rollouts on this machine."""
    return "bfloat16" if fastest_precision() == "bf16" else "float32"
