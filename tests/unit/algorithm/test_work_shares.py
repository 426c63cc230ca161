"""The assignment of samples to engines, by hand and over random loads."""

from __future__ import annotations

import random

import pytest

from megatron_pz.algorithm.work_shares import MeanLengths, Prompts, Work, share_out


def loads(shares: list[list[Work]], tokens: dict[str, float]) -> list[float]:
    return [sum(len(work.samples) * tokens[work.role] for work in share) for share in shares]


def test_equal_prompts_take_turns() -> None:
    shares = share_out([Prompts("generator", range(5), 8, 700.0)], 2)
    assert [[work.item for work in share] for share in shares] == [[0, 2, 4], [1, 3]]
    assert all(work.samples == range(8) for share in shares for work in share)


def test_the_engine_that_proposes_more_predicts_less_and_long_responses_start_first() -> None:
    """A proposal group of 2 x 30 tokens has the weight of three prediction groups of 2 x 10."""
    prompts = [Prompts("predictor", list("abcde"), 2, 10.0), Prompts("generator", [0], 2, 30.0)]
    shares = share_out(prompts, 2)
    assert [[work.item for work in share] for share in shares] == [[0, "d"], ["a", "b", "c", "e"]]


def test_with_more_engines_than_prompts_each_engine_has_a_sample() -> None:
    """The load is 32 x 8 proposals on 256 engines."""
    shares = share_out([Prompts("generator", range(32), 8, 55.5)], 256)
    assert [[(work.item, *work.samples) for work in share] for share in shares] == [
        [(number // 8, number % 8)] for number in range(256)
    ]


@pytest.mark.parametrize("seed", range(20))
def test_every_sample_is_made_once_and_no_engine_has_much_more_than_its_part(seed: int) -> None:
    draw = random.Random(seed)
    tokens = {"generator": draw.uniform(1, 100), "predictor": draw.uniform(1, 100)}
    prompts = [
        Prompts(role, range(draw.randint(0, 40)), draw.randint(1, 8), tokens[role])
        for role in ("generator", "predictor")
    ]
    engines = draw.choice([1, 2, 3, 16, 100])
    shares = share_out(prompts, engines)
    made = [(work.role, work.item, sample) for share in shares for work in share for sample in work.samples]
    expected = [(each.role, item, sample) for each in prompts for item in each.items for sample in range(each.samples)]
    assert sorted(made) == sorted(expected)
    of_engines = loads(shares, tokens)
    split = engines > sum(len(each.items) for each in prompts)
    largest = max((each.tokens_per_sample * (1 if split else each.samples) for each in prompts), default=0.0)
    assert max(of_engines) <= sum(of_engines) / engines + largest + 1e-6


def test_without_prompts_no_engine_has_work() -> None:
    assert share_out([Prompts("predictor", [], 8, 1.0)], 3) == [[], [], []]


def test_running_means_follow_the_responses() -> None:
    lengths = MeanLengths()
    assert lengths.of("generator") == 1.0
    lengths.update("predictor", 400, 4)
    assert lengths.of("generator") == lengths.of("predictor") == 100.0
    lengths.update("generator", 0, 0)
    lengths.update("generator", 120, 4)
    lengths.update("predictor", 80, 4)
    assert (lengths.of("generator"), lengths.of("predictor")) == (30.0, 80.0)  # 100 + (20 - 100) / 4
    other = MeanLengths()
    other.load_state_dict(lengths.state_dict())
    assert other == lengths
