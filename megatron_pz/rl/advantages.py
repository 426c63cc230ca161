"""Compute group-relative advantages (equation 10), and find groups without a gradient (DAPO's filter).

Inputs and outputs are Python floats: a step has a few thousand rewards.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

AdvantageScale = Literal["group_std", "none"]
Outcome = Literal["all_zero", "all_one", "all_equal", "mixed"]

MIN_SPREAD = 1e-6
"""Rewards with a smaller standard deviation count as equal: the difference is rounding, and dividing by it would turn
rounding into advantages of size one."""


def group_advantages(rewards: Sequence[float], scale: AdvantageScale = "group_std") -> list[float]:
    """Compute the advantages of one group: (r - mean) / std, PretrainZero equation 10.

    Args:
        rewards: the rewards of all responses to one prompt.
        scale: ``group_std`` divides by the population standard deviation (equation 10), ``none`` only subtracts the
            mean (Dr. GRPO, arXiv 2503.20783).

    Returns:
        One advantage per response, in order. They sum to zero; a group of equal rewards gets zeros.

    One right answer in four: the mean is 1/4 and the deviation sqrt(3)/4.

    >>> [round(advantage, 4) for advantage in group_advantages([1.0, 0.0, 0.0, 0.0])]
    [1.7321, -0.5774, -0.5774, -0.5774]
    >>> group_advantages([1.0, 0.0, 0.0, 0.0], scale="none")
    [0.75, -0.25, -0.25, -0.25]
    >>> group_advantages([1.0, 1.0, 1.0, 1.0])
    [0.0, 0.0, 0.0, 0.0]
    """
    mean, spread = _mean_and_spread(rewards)
    if spread < MIN_SPREAD:
        return [0.0] * len(rewards)
    divisor = spread if scale == "group_std" else 1.0
    return [(reward - mean) / divisor for reward in rewards]


def is_mixed(rewards: Sequence[float]) -> bool:
    """Return whether the rewards differ, so that the group has a gradient (DAPO, arXiv 2503.14476).

    For rewards of 0 and 1 this means 0 < accuracy < 1.
    """
    return _mean_and_spread(rewards)[1] >= MIN_SPREAD


def outcome(rewards: Sequence[float]) -> Outcome:
    """Classify a group for the run's metrics: mixed, or the kind of equal rewards."""
    if is_mixed(rewards):
        return "mixed"
    mean = math.fsum(rewards) / len(rewards)
    if abs(mean) < MIN_SPREAD:
        return "all_zero"
    return "all_one" if abs(mean - 1.0) < MIN_SPREAD else "all_equal"


def _mean_and_spread(rewards: Sequence[float]) -> tuple[float, float]:
    mean = math.fsum(rewards) / len(rewards)
    return mean, math.sqrt(math.fsum((reward - mean) ** 2 for reward in rewards) / len(rewards))
