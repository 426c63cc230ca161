"""Losses of packed rows, compared with equation 11 written out sample by sample."""

from __future__ import annotations

import itertools
import math
import random

import pytest
import torch

from megatron_pz.config.schema import GrpoConfig
from megatron_pz.rl.experience import OldAndReferenceLogProbs, Response, ScoredGroup
from megatron_pz.rl.losses import policy_loss
from megatron_pz.rl.packing import LossWeighting, pack_groups
from megatron_pz.rl.statistics import LossMetrics, LossStatistics

VOCABULARY = 7

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


def one_by_one(
    theta: torch.Tensor, old: torch.Tensor, reference: torch.Tensor, groups: list[ScoredGroup], grpo: GrpoConfig
) -> torch.Tensor:
    """Compute the loss by plain loops over responses and tokens, with a response's ratio as the root of its product."""
    samples = [(g, r, a) for g in groups for r, a in zip(g.responses, g.advantages, strict=True)]
    total_tokens = sum(len(response.token_ids) for _, response, _ in samples)
    loss = theta.new_zeros(())
    for group, response, advantage in samples:
        length = len(response.token_ids)
        previous = (group.prompt_ids[-1], *response.token_ids[:-1])
        now, then, first = (
            [logits[before].log_softmax(-1)[token] for before, token in zip(previous, response.token_ids, strict=True)]
            for logits in (theta, old, reference)
        )
        ratios = [(a - b).exp() for a, b in zip(now, then, strict=True)]
        low, high = grpo.grpo_clamp_eps_lower, grpo.grpo_clamp_eps_upper
        if grpo.importance_sampling_level == "sequence":
            whole = math.prod(ratios) ** (1 / length)
            # The value is common, the gradient and the mismatch weight are each token's own (GSPO-token).
            ratios = [whole.detach() * ratio / ratio.detach() for ratio in ratios]
            low, high = grpo.gspo_clamp_eps_lower, grpo.gspo_clamp_eps_upper
        part = theta.new_zeros(())
        for ratio, a, b, c, rollout in zip(ratios, now, then, first, response.log_probs, strict=True):
            gain = min(ratio * advantage, min(max(ratio, 1 - low), 1 + high) * advantage)
            if grpo.grpo_dual_clip and advantage < 0:
                gain = max(gain, torch.tensor(grpo.grpo_dual_clip * advantage))
            mismatch = math.exp(b.item() - rollout)
            inside = grpo.icepop_lower < mismatch < grpo.icepop_upper
            weight = {"off": 1.0, "tis": min(mismatch, grpo.tis_cap), "icepop": mismatch if inside else 0.0}
            d = a - c
            penalty = {"k1": d.detach() * (1 + a - a.detach()), "k2": d * d / 2, "k3": (-d).exp() - 1 + d}
            part = part - weight[grpo.mismatch_correction] * gain + grpo.grpo_kl_beta * penalty[grpo.kl_estimator]
        weights = {
            "sequence_mean": 1 / length / len(samples),
            "token_mean": 1 / total_tokens,
            "token_sum_constant": 1 / LONGEST / len(samples),
        }
        loss = loss + part * weights[grpo.loss_aggregation]
    return loss


LONGEST = 5


@pytest.fixture(scope="module")
def three_policies() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return logits of the policy being trained, the old one and the reference."""
    generator = torch.Generator().manual_seed(3)
    old, reference = torch.randn(2, VOCABULARY, VOCABULARY, generator=generator)
    theta = old + 0.8 * torch.randn(VOCABULARY, VOCABULARY, generator=generator)
    return theta.requires_grad_(), old, reference


def check_against_loops(
    policies: tuple[torch.Tensor, torch.Tensor, torch.Tensor], grpo: GrpoConfig, row_tokens: int
) -> LossMetrics:
    """Compare value and gradient of the packed rows' loss with the loops; return its figures."""
    theta, old, reference = policies
    groups = sampled_groups(5)
    expected = one_by_one(theta, old, reference, groups, grpo)
    (expected_gradient,) = torch.autograd.grad(expected, theta)
    weights = LossWeighting.of(groups, grpo.loss_aggregation, max_response_length=LONGEST)
    statistics, gradient = LossStatistics.zero(), torch.zeros_like(theta)
    for batch in pack_groups(groups, micro_batch_tokens=row_tokens, loss_weights=weights):
        before_R = batch.tokens_S[batch.logit_index_R]
        new_R, old_R, reference_R = (
            logits[before_R].log_softmax(-1).gather(1, batch.labels_R[:, None])[:, 0]
            for logits in (theta, old, reference)
        )
        loss, part = policy_loss(
            new_R, torch.zeros_like(new_R), batch, OldAndReferenceLogProbs(old_R, reference_R), grpo
        )
        gradient += torch.autograd.grad(loss, theta)[0]
        statistics += part
    figures = statistics.pooled()
    assert figures.loss == pytest.approx(expected.item(), rel=1e-5)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-4, atol=1e-6)
    return figures


@pytest.mark.parametrize("aggregation", ["sequence_mean", "token_mean", "token_sum_constant"])
@pytest.mark.parametrize("row_tokens", [1, 30, 1000])
def test_packed_rows_give_the_loss_and_gradient_of_single_samples(
    aggregation: str, row_tokens: int, three_policies: tuple[torch.Tensor, torch.Tensor, torch.Tensor]
) -> None:
    figures = check_against_loops(three_policies, GrpoConfig(loss_aggregation=aggregation), row_tokens)
    assert figures.clip_low > 0 and figures.clip_high > 0  # the comparison covers both clips


@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize("dual_clip", [0.0, 1.1])
def test_combined_forms_are_those_of_the_loops(
    level: str, dual_clip: float, three_policies: tuple[torch.Tensor, torch.Tensor, torch.Tensor]
) -> None:
    # A Latin square: every pair of aggregation, correction and estimator occurs once.
    estimators = ("k1", "k2", "k3")
    aggregations, corrections = ("sequence_mean", "token_mean", "token_sum_constant"), ("tis", "icepop", "off")
    for (i, aggregation), (j, correction) in itertools.product(enumerate(aggregations), enumerate(corrections)):
        estimator = estimators[(i + j) % 3]
        grpo = GrpoConfig(
            importance_sampling_level=level,
            grpo_dual_clip=dual_clip,
            loss_aggregation=aggregation,
            mismatch_correction=correction,
            grpo_kl_beta=0.3,
            kl_estimator=estimator,
        )
        figures = check_against_loops(three_policies, grpo, row_tokens=30)
        assert figures.clip_low > 0 and figures.clip_high > 0
        assert (figures.clip_dual > 0) == (dual_clip > 0)


def test_statistics_do_not_depend_on_how_tokens_are_shared_out() -> None:
    groups = sampled_groups(9)
    weights = LossWeighting.of(groups, "sequence_mean", 5)

    def statistics(row_tokens: int) -> LossStatistics:
        total = LossStatistics.zero()
        for batch in pack_groups(groups, micro_batch_tokens=row_tokens, loss_weights=weights):
            new_R = -0.1 * batch.labels_R.float() - 0.2
            total += policy_loss(
                new_R, -new_R, batch, OldAndReferenceLogProbs(new_R - 0.01 * batch.labels_R), GrpoConfig()
            )[1]
        return total

    whole, parts = statistics(1000), statistics(1)
    torch.testing.assert_close(whole.sums, parts.sums)
    assert torch.equal(whole.maxima, parts.maxima)
