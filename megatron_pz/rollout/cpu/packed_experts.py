"""Repack the weights of experts after a reload."""

from __future__ import annotations

import torch


def repack_experts(model: torch.nn.Module) -> None:
    """Pack the experts of a model whose weights have been reloaded; for ``LLM.apply_model``.

    vLLM's CPU kernel for mixtures of experts multiplies by packed weights. vLLM 0.32 packs them at its start, but not
    after a reload, and the kernel takes the unpacked weights for packed ones: log-probabilities would silently be those
    of other weights.
    """
    for module in model.modules():
        kernel = getattr(getattr(module, "quant_method", None), "moe_kernel", None)
        if kernel is not None and isinstance(getattr(module, "w13_weight", None), torch.Tensor):
            kernel.fused_experts.process_weights_after_loading(module)
