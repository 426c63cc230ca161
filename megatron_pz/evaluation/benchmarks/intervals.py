"""Estimate scores over questions by the bootstrap, and test paired differences.

The unit is the question: its k samples are averaged first, so that they enter or leave a resample together (a cluster).
Subjects are strata: each resample draws from the questions of every subject.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from scipy import stats

LEVEL = 0.95
RESAMPLES = 2000
"""Resamples of a bootstrap interval; its ends then vary by about 2 % of its width between seeds."""
FEW = 10
"""Questions of a subject below which drawing as many as there are makes intervals more than 5 % too narrow."""
PERMUTATIONS = 9999
"""Random exchanges of a test; the smallest p-value is 1 / 10,000."""
_ROUNDING = 1e-12
HARMONIC_SHIFT = 0.01
_AT_ONCE = 1 << 22
"""Maximum number of drawn numbers held at once."""

Strata = Mapping[str, np.ndarray]
"""Subject to its questions' accuracies, float64 [questions]. Two models compared have equal subjects and sizes."""
Statistic = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Computes a score along the last axis from subject means [..., subjects] and subject sizes [subjects]."""


@dataclass(frozen=True)
class Interval:
    """A score with its 95 % interval."""

    mean: float
    low: float
    high: float

    def excludes_zero(self) -> bool:
        """Return whether zero lies outside the interval."""
        return self.low > 0 or self.high < 0


def micro(means: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Weight every question equally."""
    return means @ (sizes / sizes.sum())


def macro(means: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Weight every subject equally."""
    return means.mean(-1)


def harmonic(means: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Return BBEH's adjusted harmonic mean (:func:`megatron_pz.question_answering.scores.adjusted_harmonic_mean`)."""
    return 1 / (1 / (means + HARMONIC_SHIFT)).mean(-1)


def resampled_means(strata: Strata, seed: int = 0, resamples: int = RESAMPLES) -> np.ndarray:
    """Draw bootstrap resamples and return the subjects' means in each, float64 [resamples, subjects].

    As many questions of a subject are drawn as it has, but of n < :data:`FEW` questions n - 1, so that the means have
    the variance of a sample (McCarthy and Snowden, *The Bootstrap and Finite Population Sampling*, 1985). A single
    question has no variance of its own: such subjects draw from all of them, and a lone one from all questions.

    Equal seeds and sizes draw equal questions, so that the resamples of two models are paired.
    """
    generator = np.random.default_rng(seed)
    means = np.empty((resamples, len(strata)))
    single = [values for values in strata.values() if len(values) == 1]
    pool = np.concatenate(single if len(single) > 1 else list(strata.values()))
    for column, own in enumerate(strata.values()):
        values = own if len(own) > 1 else pool
        size = max(1, len(own) - (len(own) < FEW))
        rows = max(1, _AT_ONCE // size)
        for start in range(0, resamples, rows):
            stop = min(start + rows, resamples)
            drawn = generator.integers(len(values), size=(stop - start, size))
            means[start:stop, column] = values[drawn].mean(1)
    return means


def interval(statistic: Statistic, strata: Strata, resampled: np.ndarray) -> Interval:
    """Estimate a score from the questions' accuracies and their :func:`resampled_means`.

    If all questions have the same accuracy, such as 0 or 1, resamples do not vary. The interval is then that of Clopper
    and Pearson (Biometrika 26, 1934) for this number of questions.
    """
    values = np.concatenate(list(strata.values()))
    observed = _score(statistic, strata)
    if np.ptp(values) == 0:
        right, wrong = float(values.sum()), float((1 - values).sum())
        low = stats.beta.ppf((1 - LEVEL) / 2, right, wrong + 1) if right else 0.0
        high = stats.beta.ppf((1 + LEVEL) / 2, right + 1, wrong) if wrong else 1.0
        return Interval(observed, float(low), float(high))
    low, high = _quantiles(statistic(resampled, _sizes(strata)))
    return Interval(observed, low, high)


def difference(statistic: Statistic, before: Strata, after: Strata, seed: int = 0) -> Interval:
    """Estimate the change of a score between two models that answered the same questions, from paired resamples.

    If the change is the same on all n questions, such as 0, resamples do not vary. Other questions may then change
    otherwise, at most the share that Clopper and Pearson give for 0 of n.
    """
    sizes = _sizes(before)
    each = np.concatenate([after[subject] - before[subject] for subject in before])
    if np.ptp(each) == 0:
        change, others = float(each[0]), 1 - ((1 - LEVEL) / 2) ** (1 / len(each))
        observed = _score(statistic, after) - _score(statistic, before)
        return Interval(observed, observed - others * (1 + change), observed + others * (1 - change))
    changes = statistic(resampled_means(after, seed), sizes) - statistic(resampled_means(before, seed), sizes)
    low, high = _quantiles(changes)
    return Interval(_score(statistic, after) - _score(statistic, before), low, high)


def exchange_test(statistic: Statistic, before: Strata, after: Strata, seed: int = 0) -> float:
    """Return the two-sided p-value of a score's change between two models, against "the models are alike".

    Under this null hypothesis, exchanging a question's accuracies between the models is equally likely (Fisher's
    permutation test). Questions on which both agree carry no information.
    """
    sizes, observed = _sizes(before), abs(_score(statistic, after) - _score(statistic, before))
    if sum(int((after[subject] != before[subject]).sum()) for subject in before) < 2:
        return 1.0
    generator = np.random.default_rng(seed)
    old, new = (np.empty((PERMUTATIONS, len(sizes))) for _ in range(2))
    for column, subject in enumerate(before):
        change = after[subject] - before[subject]
        changed = change[change != 0]
        rows = max(1, _AT_ONCE // max(len(changed), 1))
        for start in range(0, PERMUTATIONS, rows):
            stop = min(start + rows, PERMUTATIONS)
            exchanged = generator.integers(2, size=(stop - start, len(changed))) @ changed / len(change)
            old[start:stop, column] = before[subject].mean() + exchanged
            new[start:stop, column] = after[subject].mean() - exchanged
    as_large = np.abs(statistic(new, sizes) - statistic(old, sizes)) >= observed - _ROUNDING
    return float((1 + as_large.sum()) / (1 + PERMUTATIONS))


def _sizes(strata: Strata) -> np.ndarray:
    return np.array([len(values) for values in strata.values()])


def _score(statistic: Statistic, strata: Strata) -> float:
    return float(statistic(np.array([values.mean() for values in strata.values()]), _sizes(strata)))


def _quantiles(scores: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(scores, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
