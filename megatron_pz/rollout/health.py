"""Do rollout engine and trainer still hold the same weights? Their log-probabilities of the same tokens tell."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

LogProbs = torch.Tensor | Sequence[float] | Sequence[Sequence[float]] | Sequence[torch.Tensor]
"""Log-probabilities of sampled tokens: flat, or one sequence a response."""


class EngineOutOfSync(RuntimeError):
    """Rollout and trainer disagree about the sampled tokens by more than rounding explains."""


@dataclass(frozen=True)
class LogProbDifference:
    """How far trainer and rollout log-probabilities lie apart over some sampled tokens.

    Sums rather than means, so that the shares of several ranks or batches add up (``a + b``).
    """

    tokens: int = 0
    sum_absolute: float = 0.0
    max: float = 0.0
    """max |log p(trainer) - log p(rollout)|, nats"""
    sum_k3: float = 0.0

    @classmethod
    def between(cls, trainer: LogProbs, rollout: LogProbs) -> LogProbDifference:
        """Compare log-probabilities of the same tokens in the same order; computed in float64.

        Raises:
            ValueError: the two have different numbers of tokens.
        """
        trainer_T, rollout_T = _flat(trainer), _flat(rollout)
        if len(trainer_T) != len(rollout_T):
            raise ValueError(f"{len(trainer_T)} trainer log-probabilities against {len(rollout_T)} of the rollout")
        if len(trainer_T) == 0:
            return cls()
        log_ratio_T = trainer_T - rollout_T
        k3_T = torch.expm1(log_ratio_T) - log_ratio_T
        return cls(len(log_ratio_T), float(log_ratio_T.abs().sum()), float(log_ratio_T.abs().max()), float(k3_T.sum()))

    def __add__(self, other: LogProbDifference) -> LogProbDifference:
        return LogProbDifference(
            self.tokens + other.tokens,
            self.sum_absolute + other.sum_absolute,
            # max() drops a NaN that comes second
            math.nan if math.isnan(self.max) or math.isnan(other.max) else max(self.max, other.max),
            self.sum_k3 + other.sum_k3,
        )

    @property
    def mean(self) -> float:
        """Mean |log p(trainer) - log p(rollout)| a token, nats; 0 without tokens."""
        return self.sum_absolute / self.tokens if self.tokens else 0.0

    @property
    def k3(self) -> float:
        """Estimate of KL(rollout || trainer) a token: mean of r - 1 - log r with r = p(trainer) / p(rollout), since the
        tokens were sampled by the rollout engine (Schulman, "Approximating KL Divergence", 2020)."""
        return self.sum_k3 / self.tokens if self.tokens else 0.0

    def require_below(self, max_log_prob_difference: float) -> None:
        """Stop a run whose engine does not hold the trainer's weights.

        Raises:
            EngineOutOfSync: the mean is above the bound, or not a number.
        """
        if not self.mean <= max_log_prob_difference:  # so written, NaN does not pass
            raise EngineOutOfSync(
                f"rollout and trainer log-probabilities differ by {self.mean:.3g} nats a token on average "
                f"(max {self.max:.3g}, {self.tokens} tokens), max_log_prob_difference is {max_log_prob_difference:g}: "
                "the rollout engine does not hold the trainer's weights; resume from the last checkpoint"
            )


def _flat(log_probs: LogProbs) -> torch.Tensor:
    if isinstance(log_probs, torch.Tensor):
        return log_probs.detach().double().flatten().cpu()
    parts = [torch.as_tensor(part).detach().double().flatten().cpu() for part in log_probs]
    return torch.cat(parts) if parts else torch.empty(0, dtype=torch.float64)
