"""The policy loss and its statistics: numbers worked by hand, and equation 11 written out sample by sample."""

from __future__ import annotations

import math
import random

import pytest
import torch

from megatron_pz.config import GrpoConfig
from megatron_pz.rl.experience import MicroBatch, Response, ScoredGroup
from megatron_pz.rl.losses import mismatch_weights, policy_loss, supervised_loss
from megatron_pz.rl.packing import LossWeighting, empty_micro_batch, pack_groups
from megatron_pz.rl.statistics import LossStatistics

VOCABULARY = 7


def batch_of(
    advantages: list[float], rollout: list[float], weights: list[float], generator: list[bool] | None = None
) -> MicroBatch:
    """A batch of independent tokens; only what the loss reads is filled in."""
    tokens = len(advantages)
    nothing = torch.zeros(tokens, dtype=torch.int64)
    return MicroBatch(
        tokens_S=nothing,
        positions_S=nothing,
        segments_2S=torch.zeros(2, tokens, dtype=torch.int32),
        rows_R=nothing,
        labels_R=nothing,
        rollout_log_probs_R=torch.tensor(rollout),
        advantages_R=torch.tensor(advantages),
        loss_weights_R=torch.tensor(weights),
        responses_R=nothing,
        is_generator_R=torch.tensor(generator or [False] * tokens),
    )


def log(*probabilities: float) -> torch.Tensor:
    return torch.tensor(probabilities).log()


def test_clip_higher_by_hand() -> None:
    # p/p_old 1.5 is clipped to 1.28 for A = 1 and kept for A = -1; 0.5 is kept for A = 2 and clipped to 0.8 for A = -2.
    new, old = log(0.6, 0.6, 0.2, 0.2).requires_grad_(), log(0.4, 0.4, 0.4, 0.4)
    batch = batch_of([1.0, -1.0, 2.0, -2.0], old.tolist(), [0.1, 0.2, 0.3, 0.4])
    loss, statistics = policy_loss(new, torch.full((4,), 0.7), batch, old, GrpoConfig(mismatch_correction="off"))
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


def test_without_old_log_probs_the_gradient_is_reinforce() -> None:
    new = log(0.3, 0.9).requires_grad_()
    batch = batch_of([1.5, -0.5], new.tolist(), [0.25, 0.5])
    loss, statistics = policy_loss(new, torch.zeros(2), batch, None, GrpoConfig())
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
    loss, statistics = policy_loss(new, torch.zeros(1), batch_of([1.0], [math.log(0.4)], [1.0]), None, GrpoConfig())
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
    _, statistics = policy_loss(log(0.2, 0.2, 0.2), torch.tensor([1.0, 2.0, 4.0]), batch, None, GrpoConfig())
    generator, predictor = statistics.by_role()["generator"], statistics.by_role()["predictor"]
    assert (generator.tokens, predictor.tokens) == (2, 1)
    assert (generator.entropy, predictor.entropy) == (1.5, 4.0)
    assert (generator.gradient_share, predictor.gradient_share) == pytest.approx((0.5 / 0.75, 0.25 / 0.75))
    assert generator.effective_sample_size == pytest.approx(3**2 / (2 * 5))
    assert predictor.effective_sample_size == pytest.approx(1.0)
    assert generator.log_prob_difference_max == pytest.approx(math.log(2))
    assert statistics.pooled().tokens == 3 and statistics.pooled().gradient_share == pytest.approx(1.0)


def test_k3_is_right_where_float32_would_lose_it() -> None:
    batch = batch_of([1.0], [-2.0 - 1e-4], [1.0])
    _, statistics = policy_loss(torch.tensor([-2.0]), torch.zeros(1), batch, None, GrpoConfig())
    d = statistics.pooled().log_prob_difference_mean
    assert statistics.pooled().k3_kl == pytest.approx(d * d / 2, rel=1e-3)


def test_an_empty_micro_batch_leaves_no_trace() -> None:
    new = log(0.5).requires_grad_()
    loss, statistics = policy_loss(new, torch.zeros(1), empty_micro_batch(), None, GrpoConfig())
    loss.backward()
    assert loss.item() == 0.0 and new.grad.tolist() == [0.0]
    assert torch.equal(statistics.sums, LossStatistics.zero().sums)
    assert torch.equal(statistics.maxima, LossStatistics.zero().maxima)
    assert statistics.pooled().tokens == 0 and statistics.pooled().entropy == 0.0


@pytest.mark.parametrize("advantage", [1.0, -1.0, 0.0])
def test_an_absurd_ratio_stays_finite(advantage: float) -> None:
    new = torch.tensor([0.0], requires_grad=True)
    batch = batch_of([advantage], [-200.0], [1.0])
    loss, statistics = policy_loss(new, torch.zeros(1), batch, torch.tensor([-200.0]), GrpoConfig())
    loss.backward()
    assert loss.isfinite() and new.grad.isfinite().all()
    assert statistics.pooled().ratio_max == pytest.approx(math.exp(200.0))


def test_supervised_loss_is_the_weighted_likelihood() -> None:
    new = log(0.5, 0.25).requires_grad_()
    loss = supervised_loss(new, batch_of([9.0, 9.0], [0.0, 0.0], [0.75, 0.25]))
    loss.backward()
    assert loss.item() == pytest.approx(0.75 * math.log(2) + 0.25 * math.log(4))
    assert new.grad.tolist() == pytest.approx([-0.75, -0.25])


# Equation 11 sample by sample, on a bigram model: log p(token | previous token) = log_softmax(theta[previous])[token].


def sampled_groups(seed: int) -> list[ScoredGroup]:
    draw = random.Random(seed)

    def tokens(least: int, most: int) -> tuple[int, ...]:
        return tuple(draw.randrange(VOCABULARY) for _ in range(draw.randint(least, most)))

    groups = []
    for number in range(5):
        answers = [tokens(1, 5) for _ in range(draw.randint(2, 4))]
        groups.append(
            ScoredGroup(
                role=draw.choice(["generator", "predictor"]),
                prompt_ids=tokens(1, 6),
                responses=tuple(Response(a, tuple(draw.uniform(-3, 0) for _ in a), "", False) for a in answers),
                rewards=(0.0,) * len(answers),
                advantages=tuple(draw.gauss(0, 1) for _ in answers) if number else (0.0,) * len(answers),
            )
        )
    return groups


def one_by_one(theta: torch.Tensor, old: torch.Tensor, groups: list[ScoredGroup], grpo: GrpoConfig, longest: int):
    """Plain loops over responses and tokens."""
    samples = [(g, r, a) for g in groups for r, a in zip(g.responses, g.advantages, strict=True)]
    total_tokens = sum(len(response.token_ids) for _, response, _ in samples)
    loss = theta.new_zeros(())
    for group, response, advantage in samples:
        gain = theta.new_zeros(())
        before = group.prompt_ids[-1]
        for token, rollout in zip(response.token_ids, response.log_probs, strict=True):
            now = theta[before].log_softmax(-1)[token]
            then = old[before].log_softmax(-1)[token]
            ratio = (now - then).exp()
            clipped = min(max(ratio, 1 - grpo.grpo_clamp_eps_lower), 1 + grpo.grpo_clamp_eps_upper)
            importance = min(math.exp(then.item() - rollout), grpo.tis_cap)
            gain = gain + importance * min(ratio * advantage, clipped * advantage)
            before = token
        if grpo.loss_aggregation == "sequence_mean":
            loss = loss - gain / len(response.token_ids) / len(samples)
        elif grpo.loss_aggregation == "token_mean":
            loss = loss - gain / total_tokens
        else:
            loss = loss - gain / longest / len(samples)
    return loss


@pytest.mark.parametrize("aggregation", ["sequence_mean", "token_mean", "token_sum_constant"])
@pytest.mark.parametrize("row_tokens", [1, 30, 1000])
def test_packed_rows_give_the_loss_and_gradient_of_single_samples(aggregation: str, row_tokens: int) -> None:
    groups, grpo = sampled_groups(5), GrpoConfig(loss_aggregation=aggregation)
    generator = torch.Generator().manual_seed(0)
    old = torch.randn(VOCABULARY, VOCABULARY, generator=generator, dtype=torch.float32)
    theta = (old + 0.4 * torch.randn(VOCABULARY, VOCABULARY, generator=generator)).requires_grad_()
    expected = one_by_one(theta, old, groups, grpo, longest=5)
    (expected_gradient,) = torch.autograd.grad(expected, theta)

    weights = LossWeighting.of(groups, aggregation, max_response_length=5)
    batches = pack_groups(groups, micro_batch_tokens=row_tokens, loss_weights=weights)
    statistics = LossStatistics.zero()
    for batch in batches:
        before_R = batch.tokens_S[batch.rows_R]
        new_R, old_R = (
            logits[before_R].log_softmax(-1).gather(1, batch.labels_R[:, None])[:, 0] for logits in (theta, old)
        )
        loss, part = policy_loss(new_R, torch.zeros_like(new_R), batch, old_R, grpo)
        loss.backward()
        statistics += part
    figures = statistics.pooled()
    assert figures.loss == pytest.approx(expected.item(), rel=1e-5)
    assert figures.clip_low > 0 and figures.clip_high > 0  # the comparison has met both clips
    torch.testing.assert_close(theta.grad, expected_gradient, rtol=1e-4, atol=1e-7)


def test_statistics_do_not_depend_on_how_tokens_are_shared_out() -> None:
    groups = sampled_groups(9)
    weights = LossWeighting.of(groups, "sequence_mean", 5)

    def statistics(row_tokens: int) -> LossStatistics:
        total = LossStatistics.zero()
        for batch in pack_groups(groups, micro_batch_tokens=row_tokens, loss_weights=weights):
            new_R = -0.1 * batch.labels_R.float() - 0.2
            total += policy_loss(new_R, -new_R, batch, new_R - 0.01 * batch.labels_R, GrpoConfig())[1]
        return total

    whole, parts = statistics(1000), statistics(1)
    torch.testing.assert_close(whole.sums, parts.sums)
    assert torch.equal(whole.maxima, parts.maxima)
