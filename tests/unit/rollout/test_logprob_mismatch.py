"""Detection of differences between rollout engine and trainer, compared with hand-worked numbers."""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from megatron_pz.config.schema import RolloutConfig
from megatron_pz.rl.experience import Response
from megatron_pz.rl.statistics import MAXIMA, SUMS, LossMetrics, LossStatistics
from megatron_pz.rollout.log_prob_semantics import LogProbSemanticsError, require_log_prob_semantics
from megatron_pz.rollout.logprob_mismatch import EngineOutOfSync, LogProbDifference, require_in_sync


@dataclass(frozen=True)
class Update:
    statistics: LossStatistics


def update(tokens: float, difference: float, largest: float) -> Update:
    """Return an optimizer step whose generator tokens differ by ``difference`` nats in sum."""
    statistics = LossStatistics.zero()
    statistics.sums[0, SUMS.index("tokens")] = tokens
    statistics.sums[0, SUMS.index("difference")] = difference
    statistics.maxima[0, MAXIMA.index("difference")] = largest
    return Update(statistics)


def test_hand_worked_difference_of_lists_and_of_tensors() -> None:
    # r = p(trainer) / p(rollout) = 2, 1, 1/2, so r - 1 - log r = 1 - log 2, 0, log 2 - 1/2.
    half, quarter = math.log(0.5), math.log(0.25)
    expected = LogProbDifference(tokens=3, mean=math.log(2) * 2 / 3, max=math.log(2), k3=0.5 / 3)
    for trainer, rollout in (
        ([half, half, quarter], [quarter, half, half]),
        ([[half], [half, quarter]], [(quarter,), (half, half)]),
        (torch.tensor([half, half, quarter]), torch.tensor([quarter, half, half])),
        ([torch.tensor([half, half]), torch.tensor([quarter])], [[quarter, half], [half]]),
    ):
        found = LogProbDifference.between(trainer, rollout)
        assert (found.tokens, found.mean, found.max, found.k3) == pytest.approx(
            (expected.tokens, expected.mean, expected.max, expected.k3), rel=1e-6
        )


def test_no_tokens_differ_by_nothing_and_unequal_numbers_of_tokens_are_refused() -> None:
    assert LogProbDifference.between([], []) == LogProbDifference(0, 0.0, 0.0, 0.0)
    with pytest.raises(ValueError, match="2 trainer log-probabilities against 1"):
        LogProbDifference.between([-1.0, -2.0], [-1.0])


@pytest.mark.parametrize("mean", [0.31, math.inf, math.nan])
def test_a_difference_above_the_bound_stops_the_run(mean: float) -> None:
    with pytest.raises(EngineOutOfSync, match=r"nats a token .* above max_log_prob_difference 0\.3"):
        LogProbDifference(tokens=4, mean=mean, max=mean, k3=mean).require_below(0.3)


def test_a_difference_at_the_bound_passes() -> None:
    LogProbDifference(tokens=4, mean=0.3, max=9.0, k3=0.1).require_below(0.3)


def test_the_step_is_judged_by_the_mean_over_all_its_updates() -> None:
    apart, together = update(tokens=10, difference=5.0, largest=2.0), update(tokens=30, difference=0.0, largest=0.0)
    require_in_sync([apart, together], 0.13, iteration=7)  # 5 / 40
    with pytest.raises(EngineOutOfSync, match=r"iteration 7: .*0\.125 nats .*max 2,.* 40 tokens"):
        require_in_sync([apart, together], 0.12, iteration=7)


def test_a_step_without_updates_is_in_sync() -> None:
    require_in_sync([], 0.0, iteration=1)


def test_statistics_may_be_on_another_device_than_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The trainer's statistics are on its GPU. "meta" is the only other device of every machine, without values."""
    figures = update(tokens=10, difference=5.0, largest=2.0).statistics.pooled()
    asked: list[str] = []

    def pooled(statistics: LossStatistics) -> LossMetrics:
        asked.append(statistics.sums.device.type)
        return figures

    monkeypatch.setattr(LossStatistics, "pooled", pooled)
    with pytest.raises(EngineOutOfSync, match=r"0\.5 nats"):
        require_in_sync([Update(LossStatistics.zero("meta"))] * 2, 0.3, iteration=1)
    assert asked == ["meta"]


@pytest.mark.parametrize(
    ("settings", "apart", "refused_for"),
    [
        ({"rollout_dtype": "float32"}, 0.01, "float32"),
        ({}, 0.1, None),
        ({}, 0.25, "bfloat16"),
        ({"rollout_quantization": "fp8"}, 0.25, None),  # the difference of FP8 under another order of summation
        ({"rollout_quantization": "fp8"}, 0.45, "fp8"),
    ],
)
def test_the_start_up_check_allows_for_the_precision_of_the_rollouts(
    settings: dict[str, Any], apart: float, refused_for: str | None
) -> None:
    """The engine's decoded and scored log-probabilities differ by this amount."""

    def generate(prompts: list, n: int, **_: Any) -> list[list[Response]]:
        return [[Response((5, 6), (-2.0, -3.0), "", True)] for _ in prompts]

    def run(prompts: list, sampling: list) -> list[Any]:
        scored = [0.0] * (len(prompts[0]) - 3) + [-2.0 - apart, -3.0 + apart]  # the first token is not predicted
        whole = [0.0, *torch.full((50,), 1 / 50).log().tolist()]
        return [
            SimpleNamespace(
                prompt_logprobs=SimpleNamespace(logprobs=scored),
                outputs=[SimpleNamespace(logprobs=SimpleNamespace(logprobs=whole))],
            )
        ] * len(prompts)

    engine: Any = SimpleNamespace(
        rollout=RolloutConfig(**settings),
        llm=SimpleNamespace(model_config=SimpleNamespace(get_vocab_size=lambda: 50)),
        sampling=lambda *_, **__: None,
        generate=generate,
        run=run,
    )
    with pytest.raises(LogProbSemanticsError, match=f"for {refused_for}: ") if refused_for else nullcontext():
        require_log_prob_semantics(engine)
