"""Compute log-probabilities and entropies of chosen tokens directly from hidden states.

The logits of R tokens are R x vocabulary numbers: 2.5 GB in float32 for 4096 tokens of Qwen3, and the same again for
their gradient. This module holds only a chunk of them at a time, in the forward pass and, recomputed, in the backward
pass.

The operations on a chunk between the matrix products are in :mod:`~megatron_pz.model.logit_chunk`.

Letters at the end of a tensor's name are its axes: R response tokens, H hidden, V the vocabulary rows of this
tensor-parallel rank without padding, C the rows of one chunk.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.distributed import ProcessGroup, ReduceOp

from megatron_pz.model import logit_chunk

LOGITS_PER_CHUNK = {"cpu": 2**24, "cuda": 2**27}
"""Number of logits in memory at once, by device type.

On a CPU they take 64 MiB in float32, and about four times that with temporaries. On a GPU they are bfloat16 and take
256 MiB: 880 tokens at Qwen3's vocabulary, so that reading the output matrix once for each chunk costs less than the
products. The backward pass holds half as many logits, and their gradient beside them."""


def vocab_parallel_log_probs(
    hidden_RH: Tensor,
    weight_VH: Tensor,
    labels_R: Tensor,
    vocab_start: int,
    vocab_size: int,
    group: ProcessGroup | None,
    logits_per_chunk: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Compute log softmax(hidden @ weight^T) at the labels, and the distribution's entropy, over the whole vocabulary.

    Args:
        hidden_RH: hidden states, the same on all ranks of ``group``.
        weight_VH: this rank's rows of the output matrix, padding rows included.
        labels_R: int64 token ids.
        vocab_start: token id of the first row of ``weight_VH``.
        vocab_size: size of the true vocabulary; rows of higher token ids are padding and are left out.
        group: tensor-parallel group; None for a single rank.
        logits_per_chunk: bound on the logits in memory; None for the device's :data:`LOGITS_PER_CHUNK`.

    Returns:
        (log_probs_R, entropy_R), float32, the same on all ranks. The entropy carries no gradient. The gradient of
        ``hidden_RH`` is this rank's part: the caller sums it over ``group``.
    """
    real_rows = min(max(vocab_size - vocab_start, 0), weight_VH.size(0))
    logits_per_chunk = logits_per_chunk or LOGITS_PER_CHUNK[hidden_RH.device.type]
    return _LogProbs.apply(hidden_RH, weight_VH, labels_R, vocab_start, real_rows, group, logits_per_chunk)


class _LogProbs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_RH: Tensor,
        weight_VH: Tensor,
        labels_R: Tensor,
        vocab_start: int,
        real_rows: int,
        group: ProcessGroup | None,
        logits_per_chunk: int,
    ) -> tuple[Tensor, Tensor]:
        local_R = labels_R - vocab_start
        is_local_R = (local_R >= 0) & (local_R < real_rows)
        local_R = torch.where(is_local_R, local_R, 0)
        # For this rank's logits l: the maximum, the sums of e^l and of l e^l relative to it, and the label's logit.
        maximum_R = torch.full(labels_R.shape, torch.finfo(torch.float32).min, device=hidden_RH.device)
        sums_3R = torch.zeros(3, *labels_R.shape, device=hidden_RH.device)
        row_sums = logit_chunk.on_device(logit_chunk.row_sums, hidden_RH.device.type)
        for rows, logits_CV in _logit_chunks(hidden_RH, weight_VH[:real_rows], logits_per_chunk):
            maximum_R[rows], sums_3R[0, rows], sums_3R[1, rows], label_logit_C = row_sums(logits_CV, local_R[rows])
            sums_3R[2, rows] = torch.where(is_local_R[rows], label_logit_C, 0.0)
        exponential_sum_R, moment_R, label_logit_R, maximum_R = _combine(maximum_R, sums_3R, group)

        log_normalizer_R = maximum_R + exponential_sum_R.log()
        log_probs_R = label_logit_R - log_normalizer_R
        entropy_R = exponential_sum_R.log() - moment_R / exponential_sum_R
        ctx.save_for_backward(hidden_RH, weight_VH, local_R, is_local_R, log_normalizer_R)
        ctx.real_rows, ctx.logits_per_chunk = real_rows, logits_per_chunk
        ctx.mark_non_differentiable(entropy_R)
        return log_probs_R, entropy_R

    @staticmethod
    def backward(ctx: Any, grad_R: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        hidden_RH, weight_VH, local_R, is_local_R, log_normalizer_R = ctx.saved_tensors
        on_label_R = torch.where(is_local_R, grad_R, 0.0)
        chunks = _gradients_by_rows if hidden_RH.is_cpu else _gradients_by_vocabulary
        grad_hidden_RH, grad_weight_VH = chunks(
            hidden_RH, weight_VH, ctx.real_rows, (log_normalizer_R, local_R, grad_R, on_label_R), ctx.logits_per_chunk
        )
        return grad_hidden_RH, grad_weight_VH, None, None, None, None, None


_PerToken = tuple[Tensor, Tensor, Tensor, Tensor]
"""log_normalizer_R, local_R, grad_R and on_label_R, as :func:`~megatron_pz.model.logit_chunk.gradient` takes them."""


def _gradients_by_rows(
    hidden_RH: Tensor, weight_VH: Tensor, real_rows: int, of_tokens: _PerToken, logits_per_chunk: int
) -> tuple[Tensor, Tensor]:
    """Compute the gradients of hidden states and weights, in the forward pass's chunks of tokens."""
    log_normalizer_R, local_R, grad_R, on_label_R = of_tokens
    real_VH = weight_VH[:real_rows]
    grad_hidden_RH = torch.zeros_like(hidden_RH)
    # float32: a bfloat16 sum over many chunks would lose the small ones.
    grad_weight_VH = torch.zeros_like(weight_VH, dtype=torch.float32)
    for rows, logits_CV in _logit_chunks(hidden_RH, real_VH, logits_per_chunk):
        grad_logits_CV = logit_chunk.gradient(
            logits_CV, log_normalizer_R[rows], local_R[rows], grad_R[rows], on_label_R[rows], fused=False
        )
        grad_hidden_RH[rows] = grad_logits_CV @ real_VH
        _add_product(grad_weight_VH[:real_rows], grad_logits_CV.t(), hidden_RH[rows])
    return grad_hidden_RH, grad_weight_VH.to(weight_VH.dtype)


def _gradients_by_vocabulary(
    hidden_RH: Tensor, weight_VH: Tensor, real_rows: int, of_tokens: _PerToken, logits_per_chunk: int
) -> tuple[Tensor, Tensor]:
    """Compute the same gradients in chunks of the vocabulary, with all tokens at once.

    The gradient of each weight is then a single product. Chunks of tokens would accumulate it in a float32 buffer of
    twice the size of the bfloat16 output matrix, read and written once for each chunk. Chunks of the vocabulary
    accumulate only the gradients of the hidden states, which are far fewer.
    """
    log_normalizer_R, local_R, grad_R, on_label_R = of_tokens
    gradient = logit_chunk.on_device(logit_chunk.gradient, hidden_RH.device.type)
    grad_hidden_RH = torch.zeros_like(hidden_RH, dtype=torch.float32)
    grad_weight_VH = torch.zeros_like(weight_VH)
    tokens = hidden_RH.size(0)
    # Columns in multiples of 128 suit the matrix kernels.
    chunk = max(1, logits_per_chunk // 2 // max(tokens, 1) // 128) * 128
    for first in range(0, real_rows if tokens else 0, chunk):
        columns = slice(first, min(first + chunk, real_rows))
        logits_RC = hidden_RH @ weight_VH[columns].t()
        # A label outside this chunk matches none of its columns.
        grad_logits_RC = gradient(logits_RC, log_normalizer_R, local_R - first, grad_R, on_label_R, True)
        _add_product(grad_hidden_RH, grad_logits_RC, weight_VH[columns])
        torch.mm(grad_logits_RC.t(), hidden_RH, out=grad_weight_VH[columns])
    return grad_hidden_RH.to(hidden_RH.dtype), grad_weight_VH


def _logit_chunks(hidden_RH: Tensor, real_VH: Tensor, logits_per_chunk: int) -> Iterator[tuple[slice, Tensor]]:
    """Yield (rows, their logits [C, V]) with C x V bounded; yield nothing if this rank's vocabulary is all padding."""
    if real_VH.size(0) == 0:
        return
    chunk = max(1, logits_per_chunk // real_VH.size(0))
    for start in range(0, hidden_RH.size(0), chunk):
        rows = slice(start, start + chunk)
        yield rows, hidden_RH[rows] @ real_VH.t()


def _combine(maximum_R: Tensor, sums_3R: Tensor, group: ProcessGroup | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Rescale the ranks' sums to a common maximum and add them; return (sum e^l, sum l e^l, label's logit, maximum)."""
    if group is not None and group.size() > 1:
        own_maximum_R = maximum_R
        maximum_R = own_maximum_R.clone()
        torch.distributed.all_reduce(maximum_R, op=ReduceOp.MAX, group=group)
        shift_R = own_maximum_R - maximum_R
        sums_3R[1] += shift_R * sums_3R[0]
        sums_3R[:2] *= shift_R.exp()
        torch.distributed.all_reduce(sums_3R, group=group)
    return sums_3R[0], sums_3R[1], sums_3R[2], maximum_R


def _add_product(total_VH: Tensor, left_VC: Tensor, right_CH: Tensor) -> None:
    """Add left @ right to ``total_VH``, which is float32 for factors of any dtype."""
    if left_VC.dtype == torch.float32:
        total_VH.addmm_(left_VC, right_CH)
    elif left_VC.is_cuda:  # only torch's CUDA product accumulates into float32 without a temporary
        torch.addmm(total_VH, left_VC, right_CH, out_dtype=torch.float32, out=total_VH)
    else:
        total_VH += left_VC @ right_CH
