"""Pack the weights of experts again after a reload."""

from __future__ import annotations

import torch


def repack_experts(model: torch.nn.Module) -> None:
    """Pack the experts of a model whose weights have been reloaded; for ``LLM.apply_model``.

    vLLM's CPU kernel for mixtures multiplies by packed weights. vLLM packs them when it starts (0.32), but after a
    reload it leaves them as they came, and the kernel takes them for packed ones: log-probabilities would be those of
    other weights, without an error.
    """
    for module in model.modules():
        kernel = getattr(getattr(module, "quant_method", None), "moe_kernel", None)
        if kernel is not None and isinstance(getattr(module, "w13_weight", None), torch.Tensor):
            kernel.fused_experts.process_weights_after_loading(module)
