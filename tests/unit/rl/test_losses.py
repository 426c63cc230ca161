"""The policy loss and its statistics, compared with numbers worked by hand."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from megatron_pz.config.schema import GrpoConfig
from megatron_pz.rl.experience import MicroBatch, OldAndReferenceLogProbs
from megatron_pz.rl.losses import mismatch_weights, policy_loss, supervised_loss
from megatron_pz.rl.packing import empty_micro_batch
from megatron_pz.rl.statistics import LossStatistics


def batch_of(
    advantages: list[float],
    rollout: list[float],
    weights: list[float],
    generator: list[bool] | None = None,
    responses: list[int] | None = None,
    stale: list[bool] | None = None,
) -> MicroBatch:
    """Return a batch of tokens, each a separate response by default, with only the fields that the loss reads."""
    tokens = len(advantages)
    nothing = torch.zeros(tokens, dtype=torch.int64)
    return MicroBatch(
        tokens_S=nothing,
        positions_S=nothing,
        segments_2S=torch.zeros(2, tokens, dtype=torch.int32),
        logit_index_R=nothing,
        labels_R=nothing,
        rollout_log_probs_R=torch.tensor(rollout),
        advantages_R=torch.tensor(advantages),
        loss_weights_R=torch.tensor(weights),
        response_index_R=torch.tensor(responses or list(range(tokens))),
        group_index_R=nothing,
        role_R=torch.tensor([0 if each else 1 for each in generator or [False] * tokens]),
        is_stale_R=torch.tensor(stale or [False] * tokens),
        experts_SE=torch.zeros(tokens, 0, dtype=torch.uint8),
        has_experts_S=torch.zeros(tokens, dtype=torch.bool),
    )


def log(*probabilities: float) -> torch.Tensor:
    return torch.tensor(probabilities).log()


def test_clip_higher_by_hand() -> None:
    # p/p_old 1.5 is clipped to 1.28 for A = 1 and kept for A = -1; 0.5 is kept for A = 2 and clipped to 0.8 for A = -2.
    new, old = log(0.6, 0.6, 0.2, 0.2).requires_grad_(), log(0.4, 0.4, 0.4, 0.4)
    batch = batch_of([1.0, -1.0, 2.0, -2.0], old.tolist(), [0.1, 0.2, 0.3, 0.4])
    grpo = GrpoConfig(mismatch_correction="off")
    loss, statistics = policy_loss(new, torch.full((4,), 0.7), batch, OldAndReferenceLogProbs(old), grpo)
    assert loss.item() == pytest.approx(-(0.1 * 1.28 + 0.2 * -1.5 + 0.3 * 1.0 + 0.4 * -1.6))
    loss.backward()
    # d/d log p of w q A is w q A, and 0 where the clip holds.
    assert new.grad.tolist() == pytest.approx([0.0, 0.2 * 1.5, -0.3 * 1.0, 0.0])
    figures = statistics.pooled()
    assert (figures.tokens, figures.clip_low, figures.clip_high) == (4, 0.25, 0.25)
    assert figures.loss == pytest.approx(loss.item())
    assert (figures.ratio_mean, figures.ratio_min, figures.ratio_max) == pytest.approx((1.0, 0.5, 1.5))
    assert figures.entropy == pytest.approx(0.7)
    assert figures.log_prob == pytest.approx((2 * math.log(0.6) + 2 * math.log(0.2)) / 4)


def test_a_response_has_one_ratio_by_hand() -> None:
    # Ratios 1.21 and 1 make 1.1 for the first response, 0.81 and 1 make 0.9 for the second and third.
    ratios = [1.21, 1.0, 0.81, 1.0, 0.81, 1.0]
    old = torch.full((6,), 0.5).log()
    new = (old + torch.tensor(ratios).log()).requires_grad_()
    advantages, weights = [2.0, 2.0, 2.0, 2.0, -2.0, -2.0], [0.1, 0.1, 0.2, 0.2, 0.3, 0.3]
    batch = batch_of(advantages, old.tolist(), weights, responses=[0, 0, 1, 1, 2, 2])
    grpo = GrpoConfig(importance_sampling_level="sequence", gspo_clamp_eps_lower=0.04, gspo_clamp_eps_upper=0.05)
    loss, statistics = policy_loss(new, torch.zeros(6), batch, OldAndReferenceLogProbs(old), grpo)
    expected = -2 * (0.1 * 2.0 * 1.05 + 0.2 * 2.0 * 0.9 + 0.3 * -2.0 * 0.96)
    assert loss.item() == pytest.approx(expected, abs=1e-6)
    loss.backward()
    # d/d log p of n w s A, with s the geometric mean of n ratios, is w s A for each of the n tokens.
    assert new.grad.tolist() == pytest.approx([0.0, 0.0, *[-0.2 * 2.0 * 0.9] * 2, 0.0, 0.0])
    figures = statistics.pooled()
    assert (figures.clip_low, figures.clip_high) == pytest.approx((1 / 3, 1 / 3))
    assert (figures.ratio_min, figures.ratio_max) == pytest.approx((0.9, 1.1))


def test_dual_clip_by_hand() -> None:
    # Above 3 a negative advantage counts as at 3 and has no gradient; a positive one is clipped at 1.28 as usual.
    new, old = log(0.8, 0.4, 0.8).requires_grad_(), log(0.2, 0.2, 0.2)
    batch = batch_of([-1.0, -1.0, 1.0], old.tolist(), [0.1, 0.2, 0.3])
    loss, statistics = policy_loss(
        new, torch.zeros(3), batch, OldAndReferenceLogProbs(old), GrpoConfig(grpo_dual_clip=3.0)
    )
    assert loss.item() == pytest.approx(0.1 * 3.0 + 0.2 * 2.0 - 0.3 * 1.28)
    loss.backward()
    assert new.grad.tolist() == pytest.approx([0.0, 0.2 * 2.0, 0.0])
    assert statistics.pooled().clip_dual == pytest.approx(1 / 3)
    off, _ = policy_loss(new, torch.zeros(3), batch, OldAndReferenceLogProbs(old), GrpoConfig())
    assert off.item() == pytest.approx(0.1 * 4.0 + 0.2 * 2.0 - 0.3 * 1.28)


@pytest.mark.parametrize(
    ("estimator", "value", "slope"),
    # d = log p - log p_ref = log 2 and -log 4: e^-d is 1/2 and 4.
    [
        ("k1", [math.log(2), -math.log(4)], [math.log(2), -math.log(4)]),
        ("k2", [math.log(2) ** 2 / 2, math.log(4) ** 2 / 2], [math.log(2), -math.log(4)]),
        ("k3", [0.5 - 1 + math.log(2), 4 - 1 - math.log(4)], [1 - 0.5, 1 - 4.0]),
    ],
)
def test_kl_penalty_by_hand(estimator: str, value: list[float], slope: list[float]) -> None:
    new, reference = log(0.4, 0.1).requires_grad_(), log(0.2, 0.4)
    batch = batch_of([0.0, 0.0], new.tolist(), [0.25, 0.75])
    grpo = GrpoConfig(grpo_kl_beta=0.1, kl_estimator=estimator)
    loss, statistics = policy_loss(new, torch.zeros(2), batch, OldAndReferenceLogProbs(None, reference), grpo)
    assert loss.item() == pytest.approx(0.1 * (0.25 * value[0] + 0.75 * value[1]))
    loss.backward()
    assert new.grad.tolist() == pytest.approx([0.1 * 0.25 * slope[0], 0.1 * 0.75 * slope[1]])
    assert statistics.pooled().reference_kl == pytest.approx(sum(value) / 2)


@pytest.mark.parametrize("d", [-20.5, -30.0, -100.0, -1e4, 20.5, 100.0])
@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_a_distant_reference_never_pushes_the_policy_further_away(estimator: str, d: float) -> None:
    """The penalty's slope in log p has the sign of d, or is zero beyond the bound, and all values are finite."""
    new = torch.tensor([-1.0]).requires_grad_()
    grpo = GrpoConfig(grpo_kl_beta=1.0, kl_estimator=estimator)
    frozen = OldAndReferenceLogProbs(None, new.detach() - d)
    loss, _ = policy_loss(new, torch.zeros(1), batch_of([0.0], [-1.0], [1.0]), frozen, grpo)
    (slope,) = torch.autograd.grad(loss, new)
    assert loss.isfinite() and slope.isfinite()
    if estimator == "k3":
        assert slope.item() == pytest.approx(1.0 if d > 0 else 0.0)
        assert loss.item() == pytest.approx(d - 1 if d > 0 else math.exp(20) - 21, rel=1e-5)
    else:
        assert slope.item() == pytest.approx(d)


@pytest.mark.parametrize("estimator", ["k1", "k2"])
def test_the_kl_penalty_pulls_along_the_gradient_of_the_divergence(estimator: str) -> None:
    """Averaged over all tokens by their probabilities, the penalty's gradient is that of KL(p || p_ref) itself."""
    theta = torch.tensor([0.3, -1.0, 0.8, 0.1], requires_grad=True)
    reference = torch.tensor([0.0, 0.5, -0.5, 0.2]).log_softmax(-1)
    p = theta.log_softmax(-1)
    (expected,) = torch.autograd.grad((p.exp() * (p - reference)).sum(), theta)
    batch = batch_of([0.0] * 4, p.tolist(), p.exp().tolist())
    grpo = GrpoConfig(grpo_kl_beta=1.0, kl_estimator=estimator)
    loss, _ = policy_loss(theta.log_softmax(-1), torch.zeros(4), batch, OldAndReferenceLogProbs(None, reference), grpo)
    (gradient,) = torch.autograd.grad(loss, theta)
    torch.testing.assert_close(gradient, expected)


def test_a_penalty_without_its_reference_is_an_error() -> None:
    batch = batch_of([1.0], [-1.0], [1.0])
    with pytest.raises(ValueError, match="reference"):
        policy_loss(
            torch.tensor([-1.0]), torch.zeros(1), batch, OldAndReferenceLogProbs(), GrpoConfig(grpo_kl_beta=0.1)
        )


def test_without_old_log_probs_the_gradient_is_reinforce() -> None:
    new = log(0.3, 0.9).requires_grad_()
    batch = batch_of([1.5, -0.5], new.tolist(), [0.25, 0.5])
    loss, statistics = policy_loss(new, torch.zeros(2), batch, OldAndReferenceLogProbs(), GrpoConfig())
    loss.backward()
    assert new.grad.tolist() == pytest.approx([-0.25 * 1.5, 0.5 * 0.5])
    assert statistics.pooled().ratio_max == statistics.pooled().ratio_min == 1.0


@pytest.mark.parametrize(
    ("correction", "expected"),
    [("off", [1, 1, 1, 1]), ("tis", [0.4, 1.5, 2, 2]), ("icepop", [0, 1.5, 3, 0])],
)
def test_mismatch_correction_by_hand(correction: str, expected: list[float]) -> None:
    mismatch = log(0.4, 1.5, 3.0, 6.0).requires_grad_()
    weights = mismatch_weights(mismatch, GrpoConfig(mismatch_correction=correction))
    assert weights.tolist() == pytest.approx(expected)
    assert not weights.requires_grad


def test_mismatch_weighs_the_gradient_but_has_none_itself() -> None:
    # The trainer gives 0.5 where the rollout engine gave 0.4: weight 1.25, with p_old = p.
    new = log(0.5).requires_grad_()
    batch = batch_of([1.0], [math.log(0.4)], [1.0])
    loss, statistics = policy_loss(new, torch.zeros(1), batch, OldAndReferenceLogProbs(), GrpoConfig())
    loss.backward()
    assert loss.item() == pytest.approx(-1.25) and new.grad.item() == pytest.approx(-1.25)
    figures = statistics.pooled()
    assert figures.log_prob_difference_mean == pytest.approx(math.log(1.25))
    assert figures.k3_kl == pytest.approx(0.25 - math.log(1.25))
    assert figures.importance_max == pytest.approx(1.25)


def test_figures_by_role_by_hand() -> None:
    # Importance weights 1 and 2 for the generator, 0.5 for the predictor; pulls 0.1 + 0.4 and 0.25.
    rollout = [math.log(0.2), math.log(0.1), math.log(0.4)]
    batch = batch_of([1.0, -2.0, 1.0], rollout, [0.1, 0.1, 0.5], [True, True, False])
    _, statistics = policy_loss(
        log(0.2, 0.2, 0.2), torch.tensor([1.0, 2.0, 4.0]), batch, OldAndReferenceLogProbs(), GrpoConfig()
    )
    generator, predictor = statistics.by_role()["generator"], statistics.by_role()["predictor"]
    assert (generator.tokens, predictor.tokens) == (2, 1)
    assert (generator.entropy, predictor.entropy) == (1.5, 4.0)
    assert (generator.gradient_share, predictor.gradient_share) == pytest.approx((0.5 / 0.75, 0.25 / 0.75))
    assert generator.effective_sample_size == pytest.approx(3**2 / (2 * 5))
    assert predictor.effective_sample_size == pytest.approx(1.0)
    assert generator.log_prob_difference_max == pytest.approx(math.log(2))
    assert statistics.pooled().tokens == 3 and statistics.pooled().gradient_share == pytest.approx(1.0)


def test_a_third_role_has_its_own_figures_and_leaves_those_of_the_game_alone() -> None:
    rollout, new = [-1.0, -2.0, -0.5], torch.tensor([-1.1, -1.9, -0.7])
    entropy, game = torch.tensor([1.0, 2.0, 4.0]), batch_of([1.0, -2.0, 1.0], rollout, [0.1, 0.1, 0.5])
    solver = dataclasses.replace(game, role_R=torch.tensor([0, 1, 2]))
    _, figures = policy_loss(new, entropy, solver, OldAndReferenceLogProbs(), GrpoConfig())
    assert figures.by_role()["solver"].tokens == 1 and figures.by_role()["solver"].entropy == 4.0
    without = dataclasses.replace(game, loss_weights_R=torch.tensor([0.1, 0.1, 0.0]), role_R=torch.tensor([0, 1, 1]))
    _, alone = policy_loss(new, entropy, without, OldAndReferenceLogProbs(), GrpoConfig())
    assert torch.equal(figures.sums[:2], alone.sums[:2]) and torch.equal(figures.maxima[:2], alone.maxima[:2])
    assert not alone.sums[2].any() and alone.by_role()["solver"].tokens == 0


def test_k3_is_right_where_float32_would_lose_it() -> None:
    batch = batch_of([1.0], [-2.0 - 1e-4], [1.0])
    _, statistics = policy_loss(torch.tensor([-2.0]), torch.zeros(1), batch, OldAndReferenceLogProbs(), GrpoConfig())
    d = statistics.pooled().log_prob_difference_mean
    assert statistics.pooled().k3_kl == pytest.approx(d * d / 2, rel=1e-3)


def test_an_empty_micro_batch_leaves_no_trace() -> None:
    new = log(0.5).requires_grad_()
    loss, statistics = policy_loss(new, torch.zeros(1), empty_micro_batch(), OldAndReferenceLogProbs(), GrpoConfig())
    loss.backward()
    assert loss.item() == 0.0 and new.grad.tolist() == [0.0]
    assert torch.equal(statistics.sums, LossStatistics.zero().sums)
    assert torch.equal(statistics.maxima, LossStatistics.zero().maxima)
    assert statistics.pooled().tokens == 0 and statistics.pooled().entropy == 0.0


@pytest.mark.parametrize("advantage", [1.0, -1.0, 0.0])
def test_an_absurd_ratio_stays_finite(advantage: float) -> None:
    new = torch.tensor([0.0], requires_grad=True)
    batch = batch_of([advantage], [-200.0], [1.0])
    loss, statistics = policy_loss(
        new, torch.zeros(1), batch, OldAndReferenceLogProbs(torch.tensor([-200.0])), GrpoConfig()
    )
    loss.backward()
    assert loss.isfinite() and new.grad.isfinite().all()
    assert statistics.pooled().ratio_max == pytest.approx(math.exp(200.0))


def test_supervised_loss_is_the_weighted_likelihood() -> None:
    new = log(0.5, 0.25).requires_grad_()
    loss = supervised_loss(new, batch_of([9.0, 9.0], [0.0, 0.0], [0.75, 0.25]))
    loss.backward()
    assert loss.item() == pytest.approx(0.75 * math.log(2) + 0.25 * math.log(4))
    assert new.grad.tolist() == pytest.approx([-0.75, -0.25])


@pytest.mark.parametrize(("correction", "kept"), [("off", 1.0), ("tis", 2.0 / 3.0), ("icepop", 1.0)])
def test_a_stale_tokens_ratio_is_against_the_weights_that_sampled_it(correction: str, kept: float) -> None:
    """The probability was 0.2 and is 0.6: the ratio 3 is clipped for A = 1, and truncated to the cap 2 for A = -1."""
    now = log(0.6, 0.6, 0.6).requires_grad_()
    batch = batch_of(
        [1.0, -1.0, -1.0], log(0.2, 0.2, 0.5).tolist(), [0.1, 0.2, 0.4], [True, True, False], stale=[True, True, False]
    )
    # In a step with several updates, the old log-probabilities of the trainer apply only to fresh tokens.
    frozen = OldAndReferenceLogProbs(log(0.5, 0.5, 0.5))
    grpo = GrpoConfig(mismatch_correction=correction)
    loss, statistics = policy_loss(now, torch.zeros(3), batch, frozen, grpo)
    assert loss.item() == pytest.approx(-0.1 * kept * 1.28 + 0.2 * kept * 3.0 + 0.4 * 1.2)
    loss.backward()
    assert now.grad.tolist() == pytest.approx([0.0, 0.2 * kept * 3.0, 0.4 * 1.2])
    generator, both = statistics.by_role()["generator"], statistics.pooled()
    assert (generator.stale_tokens, both.stale_tokens) == (2, 2)
    assert generator.staleness_mean == pytest.approx(math.log(3.0))
    assert both.staleness_kl == pytest.approx(3.0 - 1.0 - math.log(3.0))
    assert (both.ratio_max, both.importance_max) == pytest.approx((3.0, 3.0 * kept))
    assert both.log_prob_difference_max < 1e-6, "what a later update has changed is no fault of the engine"


def test_icepop_masks_stale_tokens_that_have_moved_too_far() -> None:
    now, rollout = log(0.6, 0.06), log(0.1, 0.1)  # ratios 6 and 0.6
    batch = batch_of([-1.0, -1.0], rollout.tolist(), [0.5, 0.5], stale=[True, True])
    grpo = GrpoConfig(mismatch_correction="icepop")
    loss, _ = policy_loss(now, torch.zeros(2), batch, OldAndReferenceLogProbs(), grpo)
    assert loss.item() == pytest.approx(0.5 * 0.8)  # the other's ratio is clipped from below


def test_the_difference_of_fresh_tokens_is_not_diluted_by_stale_ones() -> None:
    now = log(0.5, 0.5)
    batch = batch_of([1.0, 1.0], log(0.25, 0.25).tolist(), [0.5, 0.5], [True, False], stale=[True, False])
    _, statistics = policy_loss(now, torch.zeros(2), batch, OldAndReferenceLogProbs(), GrpoConfig())
    figures = statistics.pooled()
    assert figures.log_prob_difference_mean == pytest.approx(math.log(2.0))
    assert figures.k3_kl == pytest.approx(2.0 - 1.0 - math.log(2.0))
