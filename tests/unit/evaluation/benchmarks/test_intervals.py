"""Intervals and tests over questions, against textbook formulas and examples worked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from megatron_pz.evaluation.benchmarks.intervals import (
    Strata,
    difference,
    exchange_test,
    harmonic,
    interval,
    macro,
    micro,
    resampled_means,
)

RIGHT = np.random.default_rng(5).random(400) < 0.3
ONE: Strata = {"all": RIGHT.astype(float)}


def half_width(values: np.ndarray) -> float:
    return 1.959964 * float(values.std(ddof=1)) / math.sqrt(len(values))


def test_the_interval_of_a_mean_is_the_normal_one_where_that_holds() -> None:
    found = interval(micro, ONE, resampled_means(ONE))
    mean, half = RIGHT.mean(), half_width(RIGHT.astype(float))
    assert found.mean == mean
    assert (found.low, found.high) == pytest.approx((mean - half, mean + half), abs=0.06 * 2 * half)


def test_samples_of_a_question_stay_together() -> None:
    """Thirty-two equal samples of a question carry no more information than one; the interval may not shrink."""
    found = interval(micro, ONE, resampled_means(ONE))
    pretended = {"all": np.repeat(ONE["all"], 32)}
    naive = interval(micro, pretended, resampled_means(pretended))
    assert naive.high - naive.low < (found.high - found.low) / 4


def test_micro_weighs_questions_and_macro_subjects() -> None:
    strata = {"law": np.array([1.0, 1.0, 1.0, 0.0]), "art": np.array([0.0, 1.0])}
    drawn = resampled_means(strata)
    assert interval(micro, strata, drawn).mean == pytest.approx(4 / 6)
    assert interval(macro, strata, drawn).mean == pytest.approx((0.75 + 0.5) / 2)


def test_subjects_are_strata() -> None:
    """Differences only between subjects are no uncertainty, because every resample has the same subjects."""
    strata = {"solved": np.ones(50), "not solved": np.zeros(50)}
    found = interval(micro, strata, resampled_means(strata))
    assert (found.low, found.mean, found.high) == (0.5, 0.5, 0.5)


@pytest.mark.parametrize("right", [0.0, 1.0])
def test_thirty_equal_answers_are_no_certainty(right: float) -> None:
    strata = {"all": np.full(30, right)}
    found = interval(micro, strata, resampled_means(strata))
    # Clopper and Pearson, two-sided 95 %: 0 of 30 is 0 to 0.1157.
    expected = (0.0, 0.1157) if right == 0 else (0.8843, 1.0)
    assert (found.low, found.high) == pytest.approx(expected, abs=5e-5)


def spread(strata: Strata) -> float:
    """Return the width of the interval of the mean over all questions, in standard errors of a normal interval."""
    found = interval(micro, strata, resampled_means(strata))
    return (found.high - found.low) / (2 * 1.959964)


def test_subjects_with_few_questions_keep_their_variance() -> None:
    """The variance of a mean over two questions of a subject is s^2 / 2, with s^2 from one degree of freedom."""
    rng = np.random.default_rng(7)
    pairs = {f"subject {number}": (rng.random(2) < 0.5).astype(float) for number in range(60)}
    expected = math.sqrt(sum(float(values.var(ddof=1)) / 2 for values in pairs.values())) / 60
    assert spread(pairs) == pytest.approx(expected, rel=0.1)


def test_subjects_with_one_question_vary_together() -> None:
    right = (np.random.default_rng(8).random(60) < 0.5).astype(float)
    single = {f"subject {number}": right[number : number + 1] for number in range(60)}
    assert spread(single) == pytest.approx(float(right.std(ddof=1)) / math.sqrt(60), rel=0.1)
    found = difference(micro, single, {name: np.ones(1) for name in single})
    assert found.low < 1 - right.mean() < found.high
    lone = {"many": np.tile([0.0, 1.0], 20), "one": np.ones(1)}
    found = interval(macro, lone, resampled_means(lone))
    assert found.high - found.low > 0.4, "one question tells little of its subject"


def test_equal_changes_are_no_certainty() -> None:
    """Of 30 questions none changes: at most 11.57 % of all change (Clopper and Pearson), in either direction."""
    wrong, right = {"all": np.zeros(30)}, {"all": np.ones(30)}
    found = difference(micro, wrong, wrong)
    assert (found.low, found.mean, found.high) == pytest.approx((-0.1157, 0.0, 0.1157), abs=5e-5)
    found = difference(micro, wrong, right)
    assert (found.low, found.mean, found.high) == pytest.approx((1 - 2 * 0.1157, 1.0, 1.0), abs=1e-4)
    half = {"all": np.full(30, 0.5)}
    found = interval(micro, half, resampled_means(half))
    assert found.low < 0.4 and found.high > 0.6, "thirty questions that are right every second time"


def test_pairs_are_compared_by_their_differences() -> None:
    """For two models that differ on few questions, the interval is that of the differences, not of two means."""
    after = ONE["all"].copy()
    after[np.flatnonzero(after == 0)[:20]] = 1.0
    found = difference(micro, ONE, {"all": after})
    assert found.mean == pytest.approx(20 / 400)
    half = half_width(after - ONE["all"])
    assert (found.low, found.high) == pytest.approx((0.05 - half, 0.05 + half), abs=0.1 * 2 * half)
    assert found.excludes_zero()


def test_the_exchange_test_agrees_with_counting_all_exchanges() -> None:
    """With six questions gained and one lost, 16 of the 128 exchanges change 5 or more questions in absolute value."""

    def p_value(before: list[float], after: list[float]) -> float:
        return exchange_test(micro, {"all": np.array(before)}, {"all": np.array(after)})

    assert p_value([0.0] * 6 + [1.0] * 11, [1.0] * 6 + [0.0] + [1.0] * 10) == pytest.approx(16 / 128, abs=0.015)
    assert p_value([1.0] * 7, [1.0] * 7) == p_value([0.0, 0.0], [0.0, 1.0]) == 1.0
    assert p_value([0.0] * 200, [1.0] * 200) == pytest.approx(1 / 10_000)


def test_each_score_has_a_test_of_its_own() -> None:
    """A gain on a large subject moves the mean over questions, but not a score dominated by a small subject."""
    before = {"large": np.repeat([1.0, 0.0], 100), "small": np.array([1.0, 0.0, 0.0, 0.0])}
    after = {"large": np.repeat([1.0, 0.0], [130, 70]), "small": np.array([0.0, 0.0, 0.0, 1.0])}
    assert exchange_test(micro, before, after) < 0.001
    assert exchange_test(harmonic, before, after) > 0.3
