"""A tensor with FP8 bytes and one scale that behaves in torch like Transformer Engine's quantised tensors."""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch


class StandInFloat8(torch.Tensor):
    """A nominally bfloat16 tensor. Copying into it quantises; all other operations see its dequantised values."""

    @staticmethod
    def __new__(cls, data: torch.Tensor, scale: torch.Tensor) -> StandInFloat8:
        return torch.Tensor._make_wrapper_subclass(cls, data.shape, dtype=torch.bfloat16)

    def __init__(self, data: torch.Tensor, scale: torch.Tensor) -> None:
        self._data, self._scale = data, scale

    @classmethod
    def quantize(cls, values: torch.Tensor) -> StandInFloat8:
        made = cls(torch.zeros(values.shape, dtype=torch.float8_e4m3fn), torch.ones(()))
        made._fill(values)
        return made

    def _fill(self, values: torch.Tensor) -> None:
        self._scale.copy_(values.float().abs().max() / torch.finfo(torch.float8_e4m3fn).max)
        self._data.copy_((values.float() / self._scale).to(torch.float8_e4m3fn))

    def dequantize(self) -> torch.Tensor:
        return (self._data.float() * self._scale).bfloat16()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func is torch.ops.aten.detach.default:
            return cls(args[0]._data, args[0]._scale)
        if func is torch.ops.aten.copy_.default and isinstance(args[0], cls):
            args[0]._fill(args[1])
            return args[0]
        plain = [arg.dequantize() if isinstance(arg, cls) else arg for arg in args]
        return func(*plain, **(kwargs or {}))


def quantized_parameter(weight: torch.Tensor, keeps_initial_values: bool) -> torch.nn.Parameter:
    """Return a weight in the state after ``te.quantized_model_init(preserve_high_precision_init_val=…)``."""
    parameter = torch.nn.Parameter(StandInFloat8.quantize(weight.detach()))
    if keeps_initial_values:
        parameter._high_precision_init_val = weight.detach().cpu()
        parameter.get_high_precision_init_val = MethodType(lambda self: self._high_precision_init_val, parameter)
    return parameter
