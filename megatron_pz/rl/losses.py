"""Compute the clipped policy-gradient loss (equation 11), its variants, the supervised loss, and their statistics.

Letters at the end of a tensor's name are its axes: R response tokens of a packed sequence. All arithmetic is float32.
Each token's weight already contains the average over the whole step (:class:`~megatron_pz.rl.packing.LossWeighting`),
so losses of micro-batches and of ranks add up to the step's loss, and so do their gradients.

Fields of ``GrpoConfig`` select the form and combine freely: the ratio of a token (PPO, GRPO) or of a response (GSPO),
the clip range, dual clip, the mismatch correction, a penalty on the distance to a reference policy, and, through the
token weights, the aggregation (the paper's, DAPO's, Dr. GRPO's).
"""

from __future__ import annotations

import torch
from torch import Tensor

from megatron_pz.config.schema import GrpoConfig
from megatron_pz.rl.experience import MicroBatch, OldAndReferenceLogProbs
from megatron_pz.rl.statistics import LossStatistics, RoleTokens

MAX_LOG_RATIO = 20.0
"""Bound on the magnitude of a log-ratio before its exponential is taken. e^20 is far outside any clip range, and an
infinite ratio times an advantage of zero would be NaN. A token beyond the bound has no gradient."""


def policy_loss(
    log_probs_R: Tensor, entropy_R: Tensor, batch: MicroBatch, frozen: OldAndReferenceLogProbs, grpo: GrpoConfig
) -> tuple[Tensor, LossStatistics]:
    """Compute PPO-clip with clip-higher and a correction for the rollout engine's probabilities (equation 11).

    loss = sum over tokens of  w * (beta * kl - c * gain)
    gain = min(q A, clip(q, 1 - eps_lower, 1 + eps_upper) A), and for A < 0 no less than grpo_dual_clip A

    with w the token's weight in the step, A its response's advantage, q its ratio p / p_old or that of its response
    (:func:`log_ratios`), c the constant importance weight of the old policy against the engine that sampled the token
    (:func:`mismatch_weights`), and beta * kl the penalty for leaving the reference policy (:func:`reference_kl`).

    For a stale token, which the weights of an earlier step sampled, p_old is the probability that the engine gave it
    then, so that the clip bounds the distance from those weights, and c truncates q (:func:`kept_of_ratio`).

    Args:
        log_probs_R: float32 log-probabilities of the response tokens under the weights being trained.
        entropy_R: float32 entropies of the distributions that the tokens belong to, for the statistics only.
        batch: the micro-batch they belong to.
        frozen: log-probabilities of the same tokens under the weights of the rollout, and under the reference policy if
            ``grpo_kl_beta`` is not 0. If the former are missing, the rollout's weights are the present ones (the first,
            or only, update of a step); then q is 1 and its gradient is that of log p.
        grpo: the form of the loss.

    Returns:
        The micro-batch's share of the loss (scalar) and its statistics, detached.

    For a token whose probability rose from 0.4 to 0.6, with advantage 1, the ratio 1.5 is clipped to 1.28.
    """
    old_R = log_probs_R.detach() if frozen.old_log_probs_R is None else frozen.old_log_probs_R
    old_R = torch.where(batch.is_stale_R, batch.rollout_log_probs_R, old_R)
    log_ratio_R = log_ratios(log_probs_R, old_R, batch.response_index_R, grpo)
    ratio_R = log_ratio_R.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
    lowest, highest = clip_range(grpo)
    advantages_R = batch.advantages_R
    gain_R = torch.minimum(ratio_R * advantages_R, ratio_R.clamp(lowest, highest) * advantages_R)
    too_bad_R = torch.zeros_like(advantages_R, dtype=torch.bool)
    if grpo.grpo_dual_clip:
        too_bad_R = (advantages_R < 0) & (ratio_R > grpo.grpo_dual_clip)
        gain_R = torch.where(too_bad_R, grpo.grpo_dual_clip * advantages_R, gain_R)

    mismatch_R = old_R - batch.rollout_log_probs_R
    staleness_R = torch.where(batch.is_stale_R, log_probs_R.detach() - batch.rollout_log_probs_R, 0.0)
    importance_R = torch.where(batch.is_stale_R, kept_of_ratio(staleness_R, grpo), mismatch_weights(mismatch_R, grpo))
    weight_of_sample_R = importance_R * staleness_R.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
    kl_R = reference_kl(log_probs_R, frozen.reference_log_probs_R, grpo)
    loss_R = batch.loss_weights_R * (grpo.grpo_kl_beta * kl_R - importance_R * gain_R)

    with torch.no_grad():
        statistics = LossStatistics.of_tokens(
            RoleTokens(
                counted_R=batch.loss_weights_R > 0,
                role_R=batch.role_R,
                log_prob_R=log_probs_R,
                entropy_R=entropy_R,
                loss_R=loss_R,
                log_ratio_R=log_ratio_R,
                ratio_R=ratio_R,
                clipped_low_R=(ratio_R < lowest) & (advantages_R < 0),
                clipped_high_R=(ratio_R > highest) & (advantages_R > 0),
                clipped_dual_R=too_bad_R,
                mismatch_R=mismatch_R,
                is_stale_R=batch.is_stale_R,
                staleness_R=staleness_R,
                importance_R=weight_of_sample_R,
                reference_kl_R=kl_R,
                abs_weighted_advantage_R=(batch.loss_weights_R * weight_of_sample_R * advantages_R).abs(),
            )
        )
    return loss_R.sum(), statistics


def clip_range(grpo: GrpoConfig) -> tuple[float, float]:
    """Return the lowest and highest ratio that has a gradient; ratios of whole responses have a separate range."""
    if grpo.importance_sampling_level == "sequence":
        return 1.0 - grpo.gspo_clamp_eps_lower, 1.0 + grpo.gspo_clamp_eps_upper
    return 1.0 - grpo.grpo_clamp_eps_lower, 1.0 + grpo.grpo_clamp_eps_upper


def log_ratios(log_probs_R: Tensor, old_R: Tensor, response_index_R: Tensor, grpo: GrpoConfig) -> Tensor:
    """Compute log q of every response token: its log p - log p_old, or at level ``sequence`` the response's mean.

    The ratio of a sequence is (P / P_old)^(1 / length), GSPO (arXiv 2507.18071, section 4.1), in the form GSPO-token
    (section 4.3): it has the value of the response and the gradient of the token. Summed over a response with equal
    weights, the gradient is that of GSPO, q A times the mean of the tokens' gradients. A mismatch weight still applies
    only to its own token.
    """
    log_ratio_R = log_probs_R - old_R
    if grpo.importance_sampling_level == "token":
        return log_ratio_R
    # There are at most R responses; reading the exact number would synchronize with the device.
    sums_R = torch.zeros_like(old_R).index_add(0, response_index_R, log_ratio_R.detach())
    lengths_R = torch.zeros_like(old_R).index_add(0, response_index_R, torch.ones_like(old_R))
    mean_R = (sums_R / lengths_R.clamp(min=1.0))[response_index_R]
    return mean_R + (log_probs_R - log_probs_R.detach())


def reference_kl(log_probs_R: Tensor, reference_R: Tensor | None, grpo: GrpoConfig) -> Tensor:
    """Estimate KL(p || p_ref) on each token that p sampled; return zeros if ``grpo_kl_beta`` is 0.

    The estimators are Schulman's ("Approximating KL divergence", 2020), with d = log p - log p_ref: ``k1`` is d, ``k2``
    is d^2 / 2, and ``k3`` is e^-d - 1 + d (used by GRPO, arXiv 2402.03300, equation 4). k2 and k3 are differentiated
    directly; k3 bounds d below by -:data:`MAX_LOG_RATIO`. The derivative of k1 averages to zero and would not restrain
    the policy (arXiv 2506.09477), so k1 gets the gradient of the expectation of d over p: d times that of log p.

    Raises:
        ValueError: ``grpo_kl_beta`` is not 0 and the reference's log-probabilities are missing.
    """
    if not grpo.grpo_kl_beta:
        return torch.zeros_like(log_probs_R)
    if reference_R is None:
        raise ValueError("a KL penalty needs the reference policy's log-probabilities")
    d_R = log_probs_R - reference_R
    if grpo.kl_estimator == "k3":
        d_R = d_R.clamp(min=-MAX_LOG_RATIO)
        return (-d_R).exp() - 1.0 + d_R
    k2_R = d_R.square() / 2.0
    return k2_R if grpo.kl_estimator == "k2" else d_R.detach() + (k2_R - k2_R.detach())


def mismatch_weights(mismatch_R: Tensor, grpo: GrpoConfig) -> Tensor:
    """Compute each token's importance weight between trainer and rollout engine.

    Args:
        mismatch_R: log p_trainer - log p_rollout at the weights of the rollout.
        grpo: ``mismatch_correction`` selects the weight. ``tis``: min(p_trainer / p_rollout, tis_cap), token-level
            truncated importance sampling. ``icepop``: the ratio if it lies strictly between its bounds, otherwise 0.
            ``off``: 1.

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


def kept_of_ratio(staleness_R: Tensor, grpo: GrpoConfig) -> Tensor:
    """Compute the share of a stale token's ratio that the mismatch correction keeps.

    The ratio of a token that earlier weights sampled contains all changes since, including the engine's rounding. The
    ratio times this share equals the weight of :func:`mismatch_weights`: with ``tis`` at most ``tis_cap``.

    Args:
        staleness_R: log p - log p_rollout, with p_rollout at the weights that sampled the token.
        grpo: ``mismatch_correction`` selects the correction.

    Returns:
        float32 in [0, 1], without a gradient.
    """
    if grpo.mismatch_correction == "off":
        return torch.ones_like(staleness_R)
    ratio_R = staleness_R.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
    return mismatch_weights(staleness_R, grpo) / ratio_R


def supervised_loss(log_probs_R: Tensor, batch: MicroBatch) -> Tensor:
    """Compute the weighted negative log-likelihood of the response tokens, - sum w log p, a scalar (cold start).

    The batch's advantages and rollout log-probabilities are not used.
    """
    return -(batch.loss_weights_R * log_probs_R).sum()
