"""Intervals over seeds and passages, against SciPy's tests where both apply, and by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from megatron_pz.evaluation.crossed import crossed_estimate, holm


def test_one_seed_is_the_paired_t_test_over_passages() -> None:
    before, after = np.random.default_rng(1).random((2, 40))
    found = crossed_estimate((after - before)[None])
    truth = stats.ttest_rel(after, before)
    interval = truth.confidence_interval(0.95)
    assert found.p_value == pytest.approx(truth.pvalue)
    assert (found.mean - found.half_width, found.mean + found.half_width) == pytest.approx(
        (interval.low, interval.high)
    )
    assert (found.seeds, found.passages, found.degrees_of_freedom) == (1, 40, 39)


def test_one_passage_is_the_t_test_over_seeds() -> None:
    values = np.array([[0.1], [0.3], [0.2], [0.5]])
    assert crossed_estimate(values).p_value == pytest.approx(stats.ttest_1samp(values.ravel(), 0.0).pvalue)


def test_passages_that_vary_like_the_rest_leave_the_t_test_over_the_seeds_means() -> None:
    """If passages differ only by chance, the interval is SciPy's over the means of the seeds."""
    values = np.array([[1.0, 3.0, 2.0], [4.0, 2.0, 3.0], [6.0, 7.0, 8.0]])
    assert values.mean(axis=0) == pytest.approx([11 / 3, 4, 13 / 3])
    found = crossed_estimate(values)
    truth = stats.ttest_1samp(values.mean(axis=1), 0.0)
    assert found.p_value == pytest.approx(truth.pvalue)
    assert found.degrees_of_freedom == pytest.approx(2)


def test_a_table_worked_by_hand() -> None:
    """Rows 0, 2 / 1, 5 have mean squares 4 between rows, 9 between columns, 1 of the rest; V = (4 + 8) / 4."""
    found = crossed_estimate(np.array([[0.0, 2.0], [1.0, 5.0]]))
    degrees = 12**2 / (4**2 / 1 + 8**2 / 1)
    assert found.mean == 2.0
    assert found.degrees_of_freedom == pytest.approx(degrees)
    assert found.half_width == pytest.approx(stats.t.ppf(0.975, degrees) * math.sqrt(3))
    assert found.p_value == pytest.approx(2 * stats.t.sf(2.0 / math.sqrt(3), degrees))


@pytest.mark.parametrize(("of_seeds", "of_passages"), [(0.0, 0.0), (0.3, 0.3), (0.1, 1.0)])
def test_intervals_cover_the_mean_for_other_seeds_and_other_passages(of_seeds: float, of_passages: float) -> None:
    """Of 600 studies of three seeds, at least 93 % cover the truth (binomial error 1 %); by passages alone fewer do."""
    draw, covered, by_passages = np.random.default_rng(7), 0, 0
    for _ in range(600):
        table = 0.5 + draw.normal(0, of_seeds, (3, 1)) + draw.normal(0, of_passages, 60) + draw.normal(0, 1, (3, 60))
        found = crossed_estimate(table)
        covered += abs(found.mean - 0.5) <= found.half_width
        alone = crossed_estimate(table.mean(axis=0)[None])
        by_passages += abs(alone.mean - 0.5) <= alone.half_width
    assert covered / 600 > 0.93
    if of_seeds == 0.3:
        assert by_passages / 600 < 0.8


def test_what_does_not_vary() -> None:
    same = crossed_estimate(np.zeros((3, 4)))
    assert (same.mean, same.half_width, same.p_value) == (0.0, 0.0, 1.0)
    assert crossed_estimate(np.ones((3, 4))).p_value == 0.0
    assert math.isnan(crossed_estimate(np.array([[2.0]])).half_width)
    with pytest.raises(ValueError, match="no values"):
        crossed_estimate(np.zeros((0, 3)))


def test_holm_by_hand() -> None:
    """Each p-value is multiplied by the number of p-values that are not smaller, and the results never decrease."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []
    adjusted = holm([0.02, math.nan, 0.03])
    assert adjusted[::2] == [0.04, 0.04] and math.isnan(adjusted[1])
