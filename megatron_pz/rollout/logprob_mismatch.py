"""Compare trainer and rollout log-probabilities of the same tokens to detect an engine with other weights."""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from megatron_pz.rl.statistics import LossStatistics
from megatron_pz.runtime.errors import ExpectedFailure

LogProbs = torch.Tensor | Sequence[float] | Sequence[Sequence[float]] | Sequence[torch.Tensor]
"""Log-probabilities of sampled tokens: flat, or one sequence per response."""


class EngineOutOfSync(ExpectedFailure):
    """Rollout and trainer disagree about the sampled tokens by more than rounding explains."""


class Update(Protocol):
    """The part of the trainer's report on an optimizer step that this module reads."""

    @property
    def statistics(self) -> LossStatistics: ...


@dataclass(frozen=True)
class LogProbDifference:
    """Differences of trainer and rollout log-probabilities of the same sampled tokens; all 0 without tokens."""

    tokens: int
    mean: float
    """Mean of |log p(trainer) - log p(rollout)|, nats."""
    max: float
    k3: float
    """Estimate of KL(rollout || trainer) a token: mean of r - 1 - log r with r = p(trainer) / p(rollout), since it was
    the rollout engine that sampled (Schulman, "Approximating KL Divergence", 2020)."""

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
            return cls(0, 0.0, 0.0, 0.0)
        log_ratio_T = trainer_T - rollout_T
        distance_T = log_ratio_T.abs()
        k3_T = torch.expm1(log_ratio_T) - log_ratio_T
        return cls(len(distance_T), float(distance_T.mean()), float(distance_T.max()), float(k3_T.mean()))

    def require_below(self, max_log_prob_difference: float, where: str = "") -> None:
        """Stop if the mean shows that the engine does not hold the trainer's weights.

        Raises:
            EngineOutOfSync: the mean is above the bound, or not a number.
        """
        if not self.mean <= max_log_prob_difference:  # written so that NaN does not pass
            raise EngineOutOfSync(
                f"{where}rollout and trainer log-probabilities differ by {self.mean:.3g} nats a token on average "
                f"(max {self.max:.3g}, k3 KL {self.k3:.3g}, {self.tokens} tokens), above max_log_prob_difference "
                f"{max_log_prob_difference:g}: the engine does not hold the trainer's weights; resume from a checkpoint"
            )


def require_in_sync(updates: Iterable[Update], max_log_prob_difference: float, iteration: int) -> None:
    """Stop a run in the step in which rollouts and trainer have diverged.

    Args:
        updates: the step's optimizer steps. Their statistics cover all ranks, so that all ranks stop together.
        max_log_prob_difference: bound on the mean over the step's tokens, nats.

    Raises:
        EngineOutOfSync: the bound is exceeded; the message names the iteration.
    """
    statistics = [update.statistics for update in updates]  # on the trainer's device, because the sum must start there
    if not statistics:
        return
    figures = functools.reduce(operator.add, statistics).pooled()
    LogProbDifference(
        figures.tokens, figures.log_prob_difference_mean, figures.log_prob_difference_max, figures.k3_kl
    ).require_below(max_log_prob_difference, where=f"iteration {iteration}: ")


def _flat(log_probs: LogProbs) -> torch.Tensor:
    if isinstance(log_probs, torch.Tensor):
        return log_probs.detach().double().flatten().cpu()
    parts = [torch.as_tensor(part, dtype=torch.float64).detach().flatten().cpu() for part in log_probs]
    return torch.cat(parts) if parts else torch.empty(0, dtype=torch.float64)
