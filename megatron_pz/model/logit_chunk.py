"""Process a chunk of logits between the matrix products of :mod:`~megatron_pz.model.log_probs`.

Each step is written once, in torch's operations. On a CPU they run one by one; on a GPU torch.compile fuses them into
kernels that read the chunk once for its sums and once for its gradient.

Letters at the end of a tensor's name are its axes: C tokens, the chunk's rows, V vocabulary rows of this rank.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor


@cache
def on_device(function: Callable[..., Any], device_type: str) -> Callable[..., Any]:
    """Return the function itself on a CPU; on other devices, compile it for any number of rows."""
    return function if device_type == "cpu" else torch.compile(function, dynamic=True, fullgraph=True)


def row_sums(logits_CV: Tensor, local_C: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return for each row, in float32, the maximum m, sum e^(l - m), sum (l - m) e^(l - m), and the label's logit.

    The logits' memory may be overwritten.
    """
    logits_CV = logits_CV.float()
    maximum_C = logits_CV.amax(-1)
    label_logit_C = logits_CV.gather(1, local_C[:, None])[:, 0]
    shifted_CV = logits_CV.sub_(maximum_C[:, None])
    exponentials_CV = shifted_CV.exp()
    exponential_sum_C = exponentials_CV.sum(-1)
    return maximum_C, exponential_sum_C, exponentials_CV.mul_(shifted_CV).sum(-1), label_logit_C


def gradient(
    logits_CV: Tensor, log_normalizer_C: Tensor, local_C: Tensor, grad_C: Tensor, on_label_C: Tensor, fused: bool
) -> Tensor:
    """Compute the gradient of sum(grad x log-probability) with respect to the logits [C, V], in the logits' dtype.

    The logits' memory may be overwritten.

    Args:
        logits_CV: any floating dtype.
        log_normalizer_C: log of the sum of e^l over the whole vocabulary, float32.
        local_C: the label's column in the chunk; arbitrary if the label belongs to another rank. Only the fused form
            accepts columns outside the chunk.
        grad_C: float32.
        on_label_C: ``grad_C`` if the label belongs to this rank, otherwise 0.
        fused: use the form that compiles to one kernel; a scatter would need a second one over float32 in memory.
    """
    dtype = logits_CV.dtype
    grad_CV = logits_CV.float().sub_(log_normalizer_C[:, None]).exp_().mul_(-grad_C[:, None])
    if fused:
        is_label_CV = torch.arange(grad_CV.size(1), device=grad_CV.device) == local_C[:, None]
        return torch.where(is_label_CV, grad_CV + on_label_C[:, None], grad_CV).to(dtype)
    return grad_CV.scatter_add_(1, local_C[:, None], on_label_C[:, None]).to(dtype)
