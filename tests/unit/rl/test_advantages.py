"""Advantages, and the groups that have any, compared with numbers worked by hand."""

from __future__ import annotations

import doctest
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_pz.rl import advantages
from megatron_pz.rl.advantages import group_advantages, is_mixed, outcome

REWARDS = st.lists(st.sampled_from([-0.2, 0.0, 0.125, 0.5, 0.875, 1.0]), min_size=2, max_size=16)


def test_the_worked_example_in_the_docstring_is_right() -> None:
    results = doctest.testmod(advantages)
    assert results.attempted >= 3 and results.failed == 0


def test_equation_10_on_a_generator_group() -> None:
    # Rewards of Eq. 9 for accuracies 1/8, 1/2, 1, 0: mean 11/32, population variance (17^2 + 5^2 + 11^2 + 11^2)/4/32^2.
    deviation = math.sqrt((289 + 25 + 121 + 121) / 4) / 32
    expected = [17 / 32 / deviation, 5 / 32 / deviation, -11 / 32 / deviation, -11 / 32 / deviation]
    assert group_advantages([7 / 8, 1 / 2, 0.0, 0.0]) == pytest.approx(expected, rel=1e-12)


def test_without_scale_only_the_mean_is_subtracted() -> None:
    assert group_advantages([1.0, 0.0, 0.0, 0.5], scale="none") == pytest.approx([0.625, -0.375, -0.375, 0.125])


@pytest.mark.parametrize("rewards", [[0.0] * 8, [1.0] * 8, [-0.2] * 3, [0.1 + 0.2, 0.3, 0.3]])
@pytest.mark.parametrize("scale", ["group_std", "none"])
def test_equal_rewards_teach_nothing_even_when_rounding_differs(rewards: list[float], scale: str) -> None:
    assert group_advantages(rewards, scale) == [0.0] * len(rewards)
    assert not is_mixed(rewards)


@given(REWARDS)
def test_advantages_have_mean_zero_and_variance_one(rewards: list[float]) -> None:
    result = group_advantages(rewards)
    assert sum(result) == pytest.approx(0.0, abs=1e-9)
    variance = sum(value**2 for value in result) / len(result)
    assert variance == pytest.approx(1.0 if len(set(rewards)) > 1 else 0.0)


@pytest.mark.parametrize(
    ("rewards", "expected"),
    [([0, 0], "all_zero"), ([1, 1, 1], "all_one"), ([-0.2, -0.2], "all_equal"), ([0, 1], "mixed"), ([0, 0.5], "mixed")],
)
def test_outcome(rewards: list[float], expected: str) -> None:
    assert outcome(rewards) == expected
