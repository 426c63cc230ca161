"""Intervals and comparisons, against numbers computed by hand or by NumPy."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from megatron_pz.config.schema import GameConfig
from megatron_pz.evaluation.results import (
    Evaluation,
    EvaluationSettings,
    MaskPredictions,
    OwnMask,
    PassageResult,
    rules_of,
)
from megatron_pz.evaluation.statistics import estimate, paired_difference
from megatron_pz.evaluation.summary import MAIN_MEASURES, compare, rows

SETTINGS = EvaluationSettings(max_prompt_length=100, max_response_length=10)


def passage(name: str, valid: bool, repeated: float | None) -> PassageResult:
    predictions = MaskPredictions("span", 0.5, 1.0, 4.0) if valid else None
    own = OwnMask("ok" if valid else "empty", predictions, 0.5 * valid, False, False, 5, 1.0)
    return PassageResult(name, (own,), None if repeated is None else MaskPredictions("w", repeated, 1.0, 4.0), None)


def evaluation(name: str, valid: list[bool], repeated: list[float | None]) -> Evaluation:
    results = [passage(f"passage {i}", v, r) for i, (v, r) in enumerate(zip(valid, repeated, strict=True))]
    return Evaluation(name, SETTINGS, tuple(results))


def test_the_interval_is_the_normal_one() -> None:
    values = np.random.default_rng(0).random(57)
    found = estimate([*values, None])
    assert found.units == 57
    assert found.mean == pytest.approx(values.mean())
    assert found.half_width == pytest.approx(1.96 * values.std(ddof=1) / math.sqrt(57), rel=1e-4)


def test_too_few_units_have_no_interval_and_prove_nothing() -> None:
    assert math.isnan(estimate([None, None]).mean)
    single = estimate([3.0])
    assert single.mean == 3.0
    assert math.isnan(single.half_width)
    assert not single.excludes_zero()
    assert not estimate([]).excludes_zero()


def test_pairs_need_both_sides() -> None:
    difference = paired_difference([1.0, None, 3.0, 4.0], [2.0, 9.0, None, 8.0])
    assert (difference.mean, difference.units) == (2.5, 2)


def test_pairing_finds_a_gain_that_separate_intervals_hide() -> None:
    before = [0.0, 0.2, 0.4, 0.6, 0.8]
    after = [0.1, 0.3, 0.5, 0.7, 0.95]
    change = compare(evaluation("b", [True] * 5, list(before)), evaluation("a", [True] * 5, list(after)))
    repeated = change["repeated_accuracy"]
    assert repeated.difference.mean == pytest.approx(0.11)
    assert repeated.beyond_interval
    assert repeated.before.mean + repeated.before.half_width > repeated.after.mean - repeated.after.half_width
    assert not change["valid_masks"].beyond_interval


def test_only_like_is_compared_with_like() -> None:
    one = evaluation("one", [True, True], [0.0, 0.0])
    with pytest.raises(ValueError, match="passages"):
        compare(one, evaluation("two", [True], [0.0]))
    with pytest.raises(ValueError, match="settings"):
        compare(one, dataclasses.replace(one, settings=dataclasses.replace(SETTINGS, seed=12)))
    ruled = [dataclasses.replace(one, rules=rules_of(GameConfig(span_policy=rule))) for rule in ("default", "words")]
    with pytest.raises(ValueError, match=r"the rules of the game differ: .*policy default.* and .*policy words"):
        compare(*ruled)
    assert compare(ruled[0], ruled[0]) == compare(one, ruled[1]), "a file of an earlier version does not tell its rules"


def test_the_table_marks_what_moved_and_leaves_out_what_never_happened() -> None:
    base = evaluation("base", [False] * 6, [0.0] * 5 + [None])
    trained = evaluation("trained", [True] * 6, [0.5, 0.75, 0.5, 0.75, 0.5, None])
    lines = {line[0]: [cell.split() for cell in line[1:]] for line in rows([base, trained])}
    assert lines[MAIN_MEASURES["valid_masks"][0]] == [["0.000", "±", "0.000"], ["1.000", "±", "0.000", "▲"]]
    assert lines[MAIN_MEASURES["repeated_accuracy"][0]][1][-1] == "▲"
    assert lines[MAIN_MEASURES["own_accuracy"][0]] == [["–"], ["0.500", "±", "0.000"]]
    assert lines["not valid: empty"][1][-1] == "▼"
    assert "not valid: truncated" not in lines
