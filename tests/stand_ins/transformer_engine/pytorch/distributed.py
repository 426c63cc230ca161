"""Names that Megatron-Core imports or subclasses, and that the tests do not use."""

from __future__ import annotations

from typing import Any


class CudaRNGStatesTracker:
    pass


def activation_recompute_forward(*_: Any, **__: Any) -> Any:
    raise NotImplementedError


checkpoint = is_fp8_activation_recompute_enabled = activation_recompute_forward
