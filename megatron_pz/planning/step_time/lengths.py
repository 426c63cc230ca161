"""Draw response lengths: lognormal, truncated at the limit, with the mean that a run reports."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from megatron_pz.runtime.errors import BadInput

DEFAULT_SIGMA = 0.9
"""Assumed standard deviation of a length's logarithm if it is unknown."""
_NORMAL = NormalDist()


@dataclass(frozen=True)
class Lengths:
    """Lengths in tokens: exp of a normal variable, at least 1 and at most ``cap``."""

    mean: float
    """Mean of the lengths after the cut, which ``response_length`` in a run's metrics reports."""
    sigma: float
    """Standard deviation of the logarithm, before the cut."""
    cap: int

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            BadInput: the mean is above the cap or below 1, or sigma is negative.
        """
        if not 1 <= self.mean <= self.cap:
            raise BadInput(f"mean response of {self.mean:g} tokens: must be between 1 and the limit, {self.cap}")
        if not 0 <= self.sigma <= 3:
            raise BadInput(f"--sigma {self.sigma:g}: must be between 0 and 3")

    def draw(self, rng: np.random.Generator, count: int) -> NDArray[np.int64]:
        """Draw ``count`` lengths."""
        if not self.sigma or self.mean >= 0.999 * self.cap:
            return np.full(count, round(self.mean), dtype=np.int64)
        lengths = np.rint(rng.lognormal(self._mu(), self.sigma, count))
        return np.clip(lengths, 1, self.cap).astype(np.int64)

    def _mu(self) -> float:
        """Find by bisection the mean of the logarithm that yields :attr:`mean` after the truncation."""
        low, high = -10.0, math.log(self.cap) + 10 * self.sigma
        while high - low > 1e-6:
            middle = (low + high) / 2
            low, high = (middle, high) if self._cut_mean(middle) < self.mean else (low, middle)
        return low

    def _cut_mean(self, mu: float) -> float:
        """Return the mean of min(exp(mu + sigma Z), cap)."""
        below = (math.log(self.cap) - mu) / self.sigma
        whole = math.exp(mu + self.sigma**2 / 2)
        return whole * _NORMAL.cdf(below - self.sigma) + self.cap * (1 - _NORMAL.cdf(below))
