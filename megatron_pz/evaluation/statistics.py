"""Estimate means with 95 % intervals, for one model and for the paired difference of two."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

NORMAL_975 = 1.959964
"""97.5 % quantile of the normal distribution."""


@dataclass(frozen=True)
class Estimate:
    """A mean over independent units (passages)."""

    mean: float
    """NaN when there are no units."""
    half_width: float
    """Half the width of the 95 % interval by the normal approximation; NaN with fewer than two units."""
    units: int

    def excludes_zero(self) -> bool:
        """Return whether zero lies outside the interval; False if there is no interval."""
        return abs(self.mean) > self.half_width


def estimate(values: Sequence[float | None]) -> Estimate:
    """Estimate the mean of the values; units on which the quantity is undefined (None) are left out.

    >>> estimate([1.0, 0.0, None])
    Estimate(mean=0.5, half_width=0.979982, units=2)
    """
    defined = [value for value in values if value is not None]
    units = len(defined)
    if units == 0:
        return Estimate(math.nan, math.nan, 0)
    mean = math.fsum(defined) / units
    if units == 1:
        return Estimate(mean, math.nan, 1)
    variance = math.fsum((value - mean) ** 2 for value in defined) / (units - 1)
    return Estimate(mean, NORMAL_975 * math.sqrt(variance / units), units)


def paired_difference(before: Sequence[float | None], after: Sequence[float | None]) -> Estimate:
    """Estimate the mean of ``after - before`` over the units on which both are defined; both list the same units."""
    pairs = zip(before, after, strict=True)
    return estimate([None if b is None or a is None else a - b for b, a in pairs])
