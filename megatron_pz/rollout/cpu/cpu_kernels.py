"""Use vLLM's own C++ kernels for RMSNorm, which its eager mode on x86 leaves to torch.

vLLM's CPU build has a kernel for the norm, and one for the norm with the residual's addition. On x86 vLLM expects
torch.compile to fuse these operations and does not call the kernels; in eager mode, which we use, each is several torch
operations. This module registers the kernels through vLLM's own interface, as implementations of its operators that are
chosen by priority. (vLLM's kernel for SwiGLU takes twice the time of torch's two operations and stays unused.)
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from megatron_pz.rollout.cpu.instruction_set import has_avx512

PROVIDER = "vllm_cpu"
"""Name of these implementations in vLLM's ``ir_op_priority``."""


@functools.cache
def register() -> dict[str, list[str]]:
    """Register the kernels that this build of vLLM has, once per process.

    Returns:
        The value for vLLM's ``ir_op_priority``; empty if the build has none of the kernels.
    """
    from vllm import ir
    from vllm.platforms import current_platform

    current_platform.import_kernels()
    priority = {}
    if hasattr(torch.ops._C, "rms_norm"):
        ir.ops.rms_norm.register_impl(PROVIDER, supports_args=_norm_fits)(_rms_norm)
        priority["rms_norm"] = [PROVIDER]
    if hasattr(torch.ops._C, "fused_add_rms_norm"):
        ir.ops.fused_add_rms_norm.register_impl(PROVIDER, supports_args=_add_norm_fits, inplace=True)(_add_rms_norm)
        priority["fused_add_rms_norm"] = [PROVIDER]
    return priority


def _rms_norm(x: Tensor, weight: Tensor | None, epsilon: float, variance_size: int | None = None) -> Tensor:
    out = torch.empty(x.shape, dtype=x.dtype)
    torch.ops._C.rms_norm(
        out, x.contiguous(), weight, epsilon
    )  # heads that are slices of a wider row are not contiguous
    return out


def _norm_fits(x: Tensor, weight: Tensor | None, epsilon: float, variance_size: int | None = None) -> bool:
    rounds = x.dtype == torch.float32 or has_avx512()  # with AVX2 the kernels truncate bfloat16 instead of rounding
    return rounds and variance_size is None and weight is not None and weight.dtype == x.dtype


def _add_rms_norm(
    x: Tensor, x_residual: Tensor, weight: Tensor | None, epsilon: float, variance_size: int | None = None
) -> tuple[Tensor, Tensor]:
    torch.ops._C.fused_add_rms_norm(x, x_residual, weight, epsilon)
    return x, x_residual


def _add_norm_fits(
    x: Tensor, x_residual: Tensor, weight: Tensor | None, epsilon: float, variance_size: int | None = None
) -> bool:
    return _norm_fits(x, weight, epsilon, variance_size) and x.is_contiguous() and x_residual.is_contiguous()
