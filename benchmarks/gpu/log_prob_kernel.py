"""Compare log-probabilities from hidden states in chunks with the plain form that has all logits in memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.gpu.measure import extra_bytes, matrix_rate, median_seconds
from megatron_pz.model.log_probs import vocab_parallel_log_probs


@dataclass(frozen=True)
class Comparison:
    """One forward and backward pass of each form, on the same input."""

    seconds: float
    plain_seconds: float
    floor_seconds: float
    """Three matrix products of this size at the device's own rate, a lower bound."""
    extra_bytes: int
    """Peak memory beside weights and hidden states; 0 on a CPU."""
    plain_extra_bytes: int
    log_prob_error: float
    """Largest difference between the two forms' log-probabilities, nats."""
    gradient_error: float
    """Error of the hidden states' gradients, relative to their norm."""

    @property
    def speed_up(self) -> float:
        return self.plain_seconds / self.seconds

    @property
    def memory_share(self) -> float:
        return self.extra_bytes / self.plain_extra_bytes if self.plain_extra_bytes else float("nan")


def compare(
    rows: int, hidden_size: int, vocab_size: int, device: torch.device, dtype: torch.dtype, repeats: int = 5
) -> Comparison:
    """Compare both forms on ``rows`` response tokens (R), with random states, weights and labels."""
    generator = torch.Generator(device).manual_seed(0)
    hidden_RH = torch.randn(rows, hidden_size, generator=generator, device=device).to(dtype).requires_grad_()
    weight_VH = torch.randn(vocab_size, hidden_size, generator=generator, device=device).mul_(hidden_size**-0.5)
    weight_VH = weight_VH.to(dtype).requires_grad_()
    labels_R = torch.randint(vocab_size, (rows,), generator=generator, device=device)
    upstream_R = torch.randn(rows, generator=generator, device=device)

    def chunked() -> Tensor:
        log_probs_R, _ = vocab_parallel_log_probs(hidden_RH, weight_VH, labels_R, 0, vocab_size, None)
        return log_probs_R

    def plain() -> Tensor:
        logits_RV = (hidden_RH @ weight_VH.t()).float()
        distribution_RV = logits_RV.log_softmax(-1)
        with torch.no_grad():  # both forms also compute the entropy
            (distribution_RV.exp() * distribution_RV).sum(-1)
        return distribution_RV.gather(1, labels_R[:, None])[:, 0]

    def both_ways(form: Callable[[], Tensor]) -> tuple[Tensor, Tensor]:
        log_probs_R = form()
        gradient_RH, _ = torch.autograd.grad(log_probs_R, (hidden_RH, weight_VH), upstream_R)
        return log_probs_R.detach(), gradient_RH

    log_probs_R, gradient_RH = both_ways(chunked)
    plain_log_probs_R, plain_gradient_RH = both_ways(plain)
    operations = 3 * 2.0 * rows * hidden_size * vocab_size
    return Comparison(
        seconds=median_seconds(lambda: both_ways(chunked), device, repeats=repeats),
        plain_seconds=median_seconds(lambda: both_ways(plain), device, repeats=repeats),
        floor_seconds=operations / matrix_rate(device, dtype, size=8192 if device.type == "cuda" else 256),
        extra_bytes=extra_bytes(lambda: both_ways(chunked), device),
        plain_extra_bytes=extra_bytes(lambda: both_ways(plain), device),
        log_prob_error=float((log_probs_R - plain_log_probs_R).abs().max()),
        gradient_error=float((gradient_RH - plain_gradient_RH).float().norm() / plain_gradient_RH.float().norm()),
    )
