"""The clipped policy-gradient loss (equation 11), its supervised sibling, and what to watch about them.

Letters at the end of a tensor's name are its axes: R response tokens of a packed row. All arithmetic is float32.
Every token's weight already holds the average over the whole step (:class:`~megatron_pz.rl.packing.LossWeighting`), so
losses of micro-batches and of ranks add up to the step's loss, and so do their gradients.
"""

from __future__ import annotations

import torch
from torch import Tensor

from megatron_pz.config import GrpoConfig
from megatron_pz.rl.experience import MicroBatch
from megatron_pz.rl.statistics import LossStatistics, RoleTokens

MAX_LOG_RATIO = 20.0
"""Log-ratios are held within +-this before the exponential: e^20 is far outside any clip range, and infinity times an
advantage of zero would be NaN. Beyond it a token has no gradient."""


def policy_loss(
    log_probs_R: Tensor,
    entropy_R: Tensor,
    batch: MicroBatch,
    old_log_probs_R: Tensor | None,
    grpo: GrpoConfig,
) -> tuple[Tensor, LossStatistics]:
    """PPO-clip with clip-higher and a correction for the rollout engine's own probabilities (equation 11).

    loss = - sum over tokens of  w * c * min(q A, clip(q, 1 - eps_lower, 1 + eps_upper) A)

    with w the token's weight in the step, A its response's advantage, q = p / p_old, and c the constant importance
    weight of the old policy against the engine that sampled the token (:func:`mismatch_weights`).

    Args:
        log_probs_R: float32 log-probabilities of the response tokens under the weights being trained.
        entropy_R: float32 entropies of the distributions that the tokens belong to, for the statistics only.
        batch: the micro-batch they belong to.
        old_log_probs_R: the trainer's log-probabilities under the weights that made the rollout. None says that those
            are the present weights (the first, or only, update of a step): then q is 1 and its gradient that of log p.
        grpo: clip range and mismatch correction.

    Returns:
        The micro-batch's share of the loss (scalar) and its statistics, detached.

    A token with probability 0.6 that was 0.4, advantage 1: the ratio 1.5 is clipped to 1.28.
    """
    old_R = log_probs_R.detach() if old_log_probs_R is None else old_log_probs_R
    log_ratio_R = log_probs_R - old_R
    ratio_R = log_ratio_R.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
    clipped_R = ratio_R.clamp(1.0 - grpo.grpo_clamp_eps_lower, 1.0 + grpo.grpo_clamp_eps_upper)
    advantages_R = batch.advantages_R
    gain_R = torch.minimum(ratio_R * advantages_R, clipped_R * advantages_R)

    mismatch_R = old_R - batch.rollout_log_probs_R
    importance_R = mismatch_weights(mismatch_R, grpo)
    loss_R = -batch.loss_weights_R * importance_R * gain_R

    with torch.no_grad():
        statistics = LossStatistics.of_tokens(
            RoleTokens(
                counted_R=batch.loss_weights_R > 0,
                is_generator_R=batch.is_generator_R,
                log_prob_R=log_probs_R,
                entropy_R=entropy_R,
                loss_R=loss_R,
                log_ratio_R=log_ratio_R,
                ratio_R=ratio_R,
                clipped_low_R=(ratio_R < 1.0 - grpo.grpo_clamp_eps_lower) & (advantages_R < 0),
                clipped_high_R=(ratio_R > 1.0 + grpo.grpo_clamp_eps_upper) & (advantages_R > 0),
                mismatch_R=mismatch_R,
                importance_R=importance_R,
                pull_R=(batch.loss_weights_R * importance_R * advantages_R).abs(),
            )
        )
    return loss_R.sum(), statistics


def mismatch_weights(mismatch_R: Tensor, grpo: GrpoConfig) -> Tensor:
    """Constant weight of each token for trainer and rollout engine disagreeing about its probability.

    Args:
        mismatch_R: log p_trainer - log p_rollout at the weights of the rollout.
        grpo: ``tis`` min(p_trainer / p_rollout, tis_cap), token-level truncated importance sampling; ``icepop`` the
            ratio where it lies strictly between its bounds and 0 elsewhere; ``off`` 1.

    Returns:
        float32, without a gradient.
    """
    if grpo.mismatch_correction == "off":
        return torch.ones_like(mismatch_R)
    ratio_R = mismatch_R.detach().clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
    if grpo.mismatch_correction == "tis":
        return ratio_R.clamp(max=grpo.tis_cap)
    inside_R = (ratio_R > grpo.icepop_lower) & (ratio_R < grpo.icepop_upper)
    return torch.where(inside_R, ratio_R, 0.0)


def supervised_loss(log_probs_R: Tensor, batch: MicroBatch) -> Tensor:
    """Weighted negative log-likelihood of the response tokens, for the cold start: - sum w log p, a scalar.

    The batch's advantages and rollout log-probabilities are not read.
    """
    return -(batch.loss_weights_R * log_probs_R).sum()
