"""Stand-ins in plain torch for the modules that Megatron-Core wraps, with their parameters' names."""

from __future__ import annotations

import os
import pickle
from typing import Any

import torch
from torch import Tensor

from . import distributed, fp8, ops, tensor
from .fp8 import FP8GlobalStateManager, fp8_autocast, fp8_model_init

__all__ = ["distributed", "fp8", "fp8_autocast", "fp8_model_init", "ops", "tensor"]


class _Norm(torch.nn.Module):
    """The size is ``normalized_shape`` for megatron-core since 0.17, and the older ``hidden_size`` up to 0.16."""

    def __init__(
        self,
        normalized_shape: int | None = None,
        eps: float = 1e-5,
        *,
        hidden_size: int | None = None,
        **settings: Any,
    ) -> None:
        super().__init__()
        if (normalized_shape is None) == (hidden_size is None):
            raise TypeError("give one of normalized_shape and hidden_size")
        size = hidden_size if normalized_shape is None else normalized_shape
        self.eps = eps
        self.weight = torch.nn.Parameter(torch.ones(size, dtype=settings.get("params_dtype")))

    def forward(self, inp: Tensor) -> Tensor:
        return torch.nn.functional.rms_norm(inp, (inp.size(-1),), self.weight, self.eps)

    def get_extra_state(self) -> Tensor:
        return torch.empty(0, dtype=torch.uint8)

    def set_extra_state(self, state: Tensor | None) -> None:
        assert state is None or not state.numel()


class RMSNorm(_Norm):
    pass


class LayerNorm(_Norm):
    pass


class Linear(torch.nn.Module):
    """``used`` holds, for every forward pass, the recipe that it ran under, None for none."""

    def __init__(
        self, in_features: int, out_features: int, *, params_dtype: torch.dtype, tp_size: int, parallel_mode: str,
        return_bias: bool, bias: bool = True, **_: Any,
    ) -> None:  # fmt: skip
        super().__init__()
        assert not bias
        assert tp_size == 1, "the stand-in has one tensor parallel rank"
        self.te_return_bias, self.parallel_mode, self.save_original_input = return_bias, parallel_mode, False
        self.weight = torch.nn.Parameter(torch.empty(out_features, in_features, dtype=params_dtype))
        self.fp8_meta: dict[str, Any] = {}
        self.used: list[str | None] = []
        self.amax_history: list[float] = []

    def forward(self, inp: Tensor, is_first_microbatch: bool | None = None, **_: Any) -> Any:
        recipe = FP8GlobalStateManager.recipe
        self.used.append(None if recipe is None else type(recipe).__name__)
        weight = self.weight
        if recipe is not None:
            rows = inp.numel() // inp.size(-1)
            if rows % 8 or inp.size(-1) % 16:  # the condition, and nearly the message, of the real one
                raise ValueError(f"FP8 execution requires dimensions divisible by 8 and 16, got {list(inp.shape)}")
            self.amax_history.append(float(inp.detach().abs().max()))
            inp, weight = _rounded(inp), _rounded(weight)
        return inp @ weight.t()

    def get_extra_state(self) -> Tensor:
        """Return the scaling state as bytes, none without any, like the real one."""
        content = pickle.dumps(self.amax_history) if self.amax_history else b""
        return torch.tensor(list(content), dtype=torch.uint8)

    def set_extra_state(self, state: Tensor | None) -> None:
        if state is not None and state.numel():
            if os.environ.get("NVTE_ALLOW_UNSAFE_PICKLE_EXTRA_STATE") != "1":  # as since 2.16
                raise RuntimeError("Refusing to load pickled Transformer Engine extra state")
            self.amax_history = pickle.loads(bytes(state.tolist()))


class LayerNormLinear(Linear):
    def __init__(
        self, in_features: int, out_features: int, *, eps: float, normalization: str, params_dtype: torch.dtype,
        **settings: Any,
    ) -> None:  # fmt: skip
        super().__init__(in_features, out_features, params_dtype=params_dtype, **settings)
        assert normalization == "RMSNorm"
        self.eps = eps
        self.layer_norm_weight = torch.nn.Parameter(torch.ones(in_features, dtype=params_dtype))

    def forward(self, inp: Tensor, is_first_microbatch: bool | None = None, **_: Any) -> Any:
        normed = torch.nn.functional.rms_norm(inp, (inp.size(-1),), self.layer_norm_weight, self.eps)
        return super().forward(normed, is_first_microbatch)


class GroupedLinear(torch.nn.Module):
    pass


class DotProductAttention(torch.nn.Module):
    pass


def _rounded(values: Tensor) -> Tensor:
    """Round to e4m3 with one scale; the backward pass is the identity."""
    scale = values.detach().float().abs().max().clamp(min=1e-12) / 448.0
    exact = (values.detach().float() / scale).to(torch.float8_e4m3fn).float() * scale
    return values + (exact.to(values.dtype) - values).detach()
