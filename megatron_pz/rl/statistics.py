"""Collect statistics of the loss that add up over micro-batches and ranks, role by role.

:class:`LossStatistics` holds two small tensors, so that a step needs one all-reduce with SUM and one with MAX and does
not synchronize with the GPU in between. :meth:`LossStatistics.by_role` and :meth:`LossStatistics.pooled` turn the sums
into :class:`LossMetrics`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from megatron_pz.rl.experience import Role

GAME_ROLES: tuple[Role, Role] = ("generator", "predictor")
"""The roles of PretrainZero's game."""

ROLES: tuple[Role, ...] = (*GAME_ROLES, "solver")

SUMS = (
    "tokens",
    "loss",
    "log_prob",
    "entropy",
    "ratio",
    "clipped_low",
    "clipped_high",
    "clipped_dual",
    "difference",
    "k3",
    "importance",
    "importance_squared",
    "reference_kl",
    "abs_weighted_advantage",
    "stale",
    "staleness",
    "staleness_k3",
)
"""Columns of ``LossStatistics.sums``: sums over response tokens."""

MAXIMA = ("log_ratio_up", "log_ratio_down", "difference", "importance", "staleness")
"""Columns of ``LossStatistics.maxima``. None is below 0, so 0 is the neutral element."""


@dataclass(frozen=True)
class RoleTokens:
    """The terms of the loss for each of the R response tokens of a micro-batch."""

    counted_R: Tensor
    """bool: false for the dummy token of an empty micro-batch"""
    role_R: Tensor
    """int64: index in ROLES"""
    log_prob_R: Tensor
    entropy_R: Tensor
    loss_R: Tensor
    """the token's part of the step's loss"""
    log_ratio_R: Tensor
    """log p - log p_old, without bounds"""
    ratio_R: Tensor
    clipped_low_R: Tensor
    """the ratio is below the clip range and the advantage negative, so that the clip stops the gradient"""
    clipped_high_R: Tensor
    """the ratio is above the clip range and the advantage positive"""
    clipped_dual_R: Tensor
    """the ratio is above the dual clip's bound and the advantage negative"""
    mismatch_R: Tensor
    """log p_trainer - log p_rollout at the weights of the rollout; 0 for a stale token, as those weights are gone"""
    is_stale_R: Tensor
    """bool: the weights of an earlier step sampled the token"""
    staleness_R: Tensor
    """log p - log p_rollout of a stale token, 0 for others"""
    importance_R: Tensor
    """weight against the mismatch; of a stale token that against the weights that sampled it"""
    reference_kl_R: Tensor
    """estimate of KL(p || p_ref); 0 without a reference policy"""
    abs_weighted_advantage_R: Tensor
    """|weight * importance * advantage|, the token's contribution to the gradient's scale"""


@dataclass(frozen=True)
class LossMetrics:
    """Metrics of a step's loss. Means are over response tokens; all are 0 if there were none."""

    tokens: int
    loss: float
    """This part of the step's loss."""
    log_prob: float
    """Mean natural log-probability under the weights being trained."""
    entropy: float
    """Mean entropy of the distributions, nats."""
    clip_low: float
    """Share of the tokens whose gradient the lower clip stopped."""
    clip_high: float
    clip_dual: float
    """Share of the tokens whose gradient the dual clip stopped."""
    ratio_mean: float
    """Mean of p / p_old."""
    ratio_min: float
    """Smallest p / p_old before clipping; at most 1."""
    ratio_max: float
    """Largest p / p_old before clipping; at least 1."""
    log_prob_difference_mean: float
    """Mean of |log p_trainer - log p_rollout|."""
    log_prob_difference_max: float
    k3_kl: float
    """Mean of e^d - 1 - d with d = log p_trainer - log p_rollout: Schulman's estimate of KL(rollout || trainer)."""
    effective_sample_size: float
    """(sum c)^2 / (n sum c^2) of the importance weights c: 1 when all are equal."""
    importance_max: float
    stale_tokens: int
    """Tokens that the weights of an earlier step sampled. The three differences above leave them out."""
    staleness_mean: float
    """Mean of |log p - log p_rollout| of the stale tokens."""
    staleness_max: float
    staleness_kl: float
    """Mean of e^d - 1 - d with d = log p - log p_rollout of the stale tokens: estimate of KL(p_rollout || p)."""
    reference_kl: float
    """Mean estimate of KL(p || p_ref) by the configured estimator; 0 without a reference policy."""
    gradient_share: float
    """Share of the sum of |weight * importance * advantage| over all tokens."""


@dataclass(frozen=True)
class LossStatistics:
    """Sums and maxima over response tokens, for each role.

    ``a + b`` combines the tokens of both. To combine ranks, all-reduce ``sums`` with SUM and ``maxima`` with MAX (both
    contiguous) and construct a new object from the results.
    """

    sums: Tensor
    """float64 [len(ROLES), len(SUMS)], rows as in ROLES"""
    maxima: Tensor
    """float64 [len(ROLES), len(MAXIMA)]"""

    @classmethod
    def zero(cls, device: torch.device | str = "cpu") -> LossStatistics:
        """Return the statistics of no tokens."""
        return cls(
            sums=torch.zeros(len(ROLES), len(SUMS), dtype=torch.float64, device=device),
            maxima=torch.zeros(len(ROLES), len(MAXIMA), dtype=torch.float64, device=device),
        )

    @classmethod
    def of_tokens(cls, tokens: RoleTokens) -> LossStatistics:
        """Sum over one micro-batch without synchronizing with its device."""
        difference_R = tokens.mismatch_R.abs()
        # In float32 computation d is about 1e-5, and k3 is about d^2 / 2, which needs the precision of float64.
        d_R, staleness_R = tokens.mismatch_R.double(), tokens.staleness_R.double()
        summed = {
            "tokens": torch.ones_like(tokens.log_prob_R),
            "loss": tokens.loss_R,
            "log_prob": tokens.log_prob_R,
            "entropy": tokens.entropy_R,
            "ratio": tokens.ratio_R,
            "clipped_low": tokens.clipped_low_R,
            "clipped_high": tokens.clipped_high_R,
            "clipped_dual": tokens.clipped_dual_R,
            "difference": difference_R,
            "k3": torch.expm1(d_R) - d_R,
            "importance": tokens.importance_R,
            "importance_squared": tokens.importance_R**2,
            "reference_kl": tokens.reference_kl_R,
            "abs_weighted_advantage": tokens.abs_weighted_advantage_R,
            "stale": tokens.is_stale_R,
            "staleness": staleness_R.abs(),
            "staleness_k3": torch.expm1(staleness_R) - staleness_R,
        }
        largest = {
            "log_ratio_up": tokens.log_ratio_R,
            "log_ratio_down": -tokens.log_ratio_R,
            "difference": difference_R,
            "importance": tokens.importance_R,
            "staleness": staleness_R.abs(),
        }
        roles_r1 = torch.arange(len(ROLES), device=tokens.role_R.device)[:, None]
        members_r1R = ((tokens.role_R == roles_r1) & tokens.counted_R)[:, None]
        values_kR = torch.stack([summed[name].detach().double() for name in SUMS])
        peaks_kR = torch.stack([largest[name].detach().double() for name in MAXIMA])
        return cls(
            sums=torch.where(members_r1R, values_kR, 0.0).sum(-1),
            maxima=torch.where(members_r1R, peaks_kR, 0.0).amax(-1).clamp(min=0.0),
        )

    def __add__(self, other: LossStatistics) -> LossStatistics:
        return LossStatistics(self.sums + other.sums, torch.maximum(self.maxima, other.maxima))

    def by_role(self) -> dict[Role, LossMetrics]:
        """Return the metrics of each role. Synchronizes with the device."""
        of_all = self.sums[:, SUMS.index("abs_weighted_advantage")].sum().item()
        rows = zip(ROLES, self.sums.tolist(), self.maxima.tolist(), strict=True)
        return {role: _metrics(sums, maxima, of_all) for role, sums, maxima in rows}

    def pooled(self) -> LossMetrics:
        """Return the metrics over the tokens of all roles. Synchronizes with the device."""
        sums = self.sums.sum(0)
        return _metrics(sums.tolist(), self.maxima.amax(0).tolist(), sums[SUMS.index("abs_weighted_advantage")].item())


def _metrics(sums: Sequence[float], maxima: Sequence[float], weighted_advantage_of_all: float) -> LossMetrics:
    total, peak = dict(zip(SUMS, sums, strict=True)), dict(zip(MAXIMA, maxima, strict=True))
    n = total["tokens"]
    if not n:
        return _NO_TOKENS
    squares = n * total["importance_squared"]
    stale = int(total["stale"])
    fresh, old = max(n - stale, 1.0), max(stale, 1)
    return LossMetrics(
        tokens=int(n),
        loss=total["loss"],
        log_prob=total["log_prob"] / n,
        entropy=total["entropy"] / n,
        clip_low=total["clipped_low"] / n,
        clip_high=total["clipped_high"] / n,
        clip_dual=total["clipped_dual"] / n,
        ratio_mean=total["ratio"] / n,
        ratio_min=math.exp(-peak["log_ratio_down"]),
        ratio_max=math.exp(min(peak["log_ratio_up"], 700.0)),  # e^710 overflows a float
        log_prob_difference_mean=total["difference"] / fresh,
        log_prob_difference_max=peak["difference"],
        k3_kl=total["k3"] / fresh,
        effective_sample_size=total["importance"] ** 2 / squares if squares else 0.0,
        importance_max=peak["importance"],
        stale_tokens=stale,
        staleness_mean=total["staleness"] / old,
        staleness_max=peak["staleness"],
        staleness_kl=total["staleness_k3"] / old,
        reference_kl=total["reference_kl"] / n,
        gradient_share=total["abs_weighted_advantage"] / weighted_advantage_of_all
        if weighted_advantage_of_all
        else 0.0,
    )


_NO_TOKENS = LossMetrics(**{entry.name: 0 for entry in fields(LossMetrics)})
