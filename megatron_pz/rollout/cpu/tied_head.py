"""Keep a tied output layer equal to its embedding after a reload."""

from __future__ import annotations

from typing import Any

import torch


def renew_tied_head(model: torch.nn.Module) -> None:
    """Make a tied head multiply by the embedding's packed weight; for ``LLM.apply_model``.

    vLLM's CPU linear layers multiply by a packed copy of their weight. A reload packs every layer that received
    tensors. A tied head receives none and would keep a copy of the old weights: log-probabilities would be wrong by 0.3
    on average, without an error.

    Raises:
        RuntimeError: no embedding shares the head's weight.
    """
    head: Any = model.lm_head
    if not hasattr(head, "cpu_linear"):
        return
    for module in model.modules():
        if module is not head and hasattr(module, "cpu_linear") and getattr(module, "weight", None) is head.weight:
            head.cpu_linear = module.cpu_linear
            return
    raise RuntimeError("vLLM's model has no embedding that its tied head shares; its weights cannot be replaced")
