"""Comparisons of arms, against SciPy's paired tests and by hand; unfinished experiments are also compared."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from megatron_pz.experiment.comparison import (
    Difference,
    Measured,
    conclusion,
    difference_rows,
    differences_of_arms,
    differences_to_start,
    require_same_evaluation,
)
from megatron_pz.experiment.design import Experiment
from megatron_pz.experiment.progress import Evaluations
from megatron_pz.experiment.report import write_comparison
from megatron_pz.runtime.errors import BadInput
from tests.unit.experiment.conftest import checkpoint, evaluation

MEASURE = ["repeated_accuracy"]


def measured(name: str, accuracies: Sequence[float | None], seed: int = 11) -> Measured:
    return Measured(evaluation(name, accuracies, seed))


def arm(table: np.ndarray) -> dict[int, Measured]:
    """Return the results of seeds 1, 2, … with one row of accuracies each."""
    return {seed: measured(f"seed {seed}", list(row)) for seed, row in enumerate(table, 1)}


def only(differences: list[Difference]) -> Difference:
    (found,) = differences
    return found


def test_pairs_have_the_same_seed_and_passage() -> None:
    """Effects of passages and seeds cancel: both arms vary strongly, but the difference is exact."""
    common = np.random.default_rng(0).random((3, 5)) * 0.5
    found = only(differences_of_arms({"a": arm(common), "b": arm(common + 0.25)}, "a", MEASURE))
    assert found.estimate is not None
    assert (found.arm, found.reference, found.seeds) == ("b", "a", (1, 2, 3))
    assert found.estimate.mean == pytest.approx(0.25)
    assert found.estimate.half_width == pytest.approx(0.0, abs=1e-9)
    assert found.verdict == "significantly higher"


def test_without_passages_that_differ_it_is_scipys_paired_test_over_the_seeds() -> None:
    seeds = np.array([[0.2, 0.5], [0.3, 0.9], [0.1, 0.2]])
    arms = {name: arm(np.repeat(seeds[:, [column]], 4, axis=1)) for column, name in enumerate("ab")}
    found = only(differences_of_arms(arms, "a", MEASURE))
    truth = stats.ttest_rel(seeds[:, 1], seeds[:, 0])
    assert found.estimate is not None
    assert found.estimate.p_value == found.adjusted_p == pytest.approx(truth.pvalue)
    interval = truth.confidence_interval()
    assert found.estimate.half_width == pytest.approx((interval.high - interval.low) / 2)
    assert found.verdict == "not significant"


def test_p_values_account_for_the_number_of_comparisons() -> None:
    """A p-value of .03 is significant alone; among three comparisons it becomes .09."""
    shift = stats.t.ppf(1 - 0.03 / 2, 2) / math.sqrt(3)  # one-sample t over the seeds -1, 0, 1 with this mean
    base = np.full((3, 4), 0.5)
    moved = base + 0.1 * (np.array([[-1.0], [0.0], [1.0]]) + shift)
    alone = only(differences_of_arms({"a": arm(base), "b": arm(moved)}, "a", MEASURE))
    assert alone.adjusted_p == pytest.approx(0.03) and alone.verdict == "significantly higher"
    three = differences_of_arms({"a": arm(base), "b": arm(moved), "c": arm(base), "d": arm(base)}, "a", MEASURE)
    assert three[0].adjusted_p == pytest.approx(0.09)
    assert three[0].verdict == "not significant, once all are counted"
    said = conclusion(three)
    assert said[0] == "Not significant, with their number accounted for: all 3 differences."
    assert said[1] == "Beyond its own interval, but not significant among 3 tests: predictor: fixed repeated words, b."
    assert said[2].startswith("Not significant does not mean equal: the widest of these intervals")


def test_only_seeds_that_both_arms_have_are_compared() -> None:
    table = np.random.default_rng(1).random((3, 6))
    results = {"a": arm(table), "b": {3: arm(table + 1)[3], 2: arm(table + 1)[2]}, "c": {2: arm(table)[2]}, "d": {}}
    two, one, none = differences_of_arms(results, "a", MEASURE)
    assert two.seeds == (2, 3) and two.adjusted_p < 0.05
    assert one.seeds == (2,) and math.isnan(one.adjusted_p)
    assert one.verdict == "one seed: says nothing about others"
    assert none.estimate is None and none.verdict == "no common values"
    assert difference_rows([none])[0][2:7] == ["0", "0", "–", "–", "–"]
    assert conclusion([one, none]) == ["Nothing was tested: a comparison of methods needs at least two seeds of both."]


def test_passages_without_a_value_are_left_out_of_all_seeds() -> None:
    results = {"a": {1: measured("a", [0.0, 0.5, None])}, "b": {1: measured("b", [0.5, None, 0.5])}}
    found = only(differences_of_arms(results, "a", MEASURE))
    assert found.estimate is not None and (found.estimate.mean, found.estimate.passages) == (0.5, 1)


def test_arms_are_compared_with_their_start() -> None:
    start = measured("start", [0.1, 0.3])
    found = only(differences_to_start({"a": arm(np.array([[0.2, 0.4], [0.4, 0.6]]))}, start, MEASURE))
    assert found.estimate is not None
    assert (found.reference, found.estimate.mean) == ("start", pytest.approx(0.2))


def test_a_significant_difference_is_said_in_a_sentence() -> None:
    common = np.zeros((3, 4))
    found = differences_of_arms({"a": arm(common), "b": arm(common - 0.25), "c": arm(common)}, "a", MEASURE)
    assert conclusion(found)[:2] == [
        "Significant: predictor: fixed repeated words is lower with b than with a, by 0.250 ± 0.000 (p = < .001).",
        "Not significant: the other 1 of 2 differences.",
    ]


def test_other_questions_are_not_compared() -> None:
    with pytest.raises(BadInput, match=r"evaluations of b and a cannot be compared: settings differ"):
        require_same_evaluation({"a": {1: measured("a", [0.1])}}, measured("b", [0.1], seed=12))
    asked, same, other = (
        Measured(
            evaluation(name, [0.1]), {"gsm8k": np.zeros(3)}, {"gsm8k": {"questions": 3, "data": data, "context": 9}}
        )
        for name, data in (("a", "x"), ("b", "x"), ("c", "y"))
    )
    require_same_evaluation({"a": {1: asked}}, same)
    with pytest.raises(BadInput, match="gsm8k: c and a were not asked alike, they differ in data"):
        require_same_evaluation({"a": {1: asked}}, other)


def test_benchmarks_are_compared_question_by_question() -> None:
    arms = {
        name: {seed: Measured(evaluation("m", [0.5]), {"gsm8k": np.array([0.0, 1.0, right])}) for seed in (1, 2)}
        for name, right in (("a", 0.0), ("b", 1.0))
    }
    found = only(differences_of_arms(arms, "a", ["gsm8k"]))
    assert found.estimate is not None
    assert (found.estimate.mean, found.estimate.passages) == (pytest.approx(1 / 3), 3)
    assert difference_rows([found])[0][0] == "benchmark gsm8k"


def test_an_unfinished_experiment_is_compared_and_says_what_is_missing(
    read: Callable[..., Experiment], tmp_path: Path
) -> None:
    experiment = read()
    files = Evaluations(experiment, tmp_path / "out")
    with pytest.raises(BadInput, match="no run has done a step yet"):
        write_comparison(experiment, tmp_path / "out", "A study")
    checkpoint(experiment.cells[4], [4.0])
    (tmp_path / "out").mkdir(exist_ok=True)
    early = write_comparison(experiment, tmp_path / "out", "A study")
    assert early.endswith("No run is evaluated yet, so that nothing can be said of the arms.")
    assert "Work of the runs" in early and "Differences" not in early
    evaluation("start", [0.0, 0.25, 0.5, 0.5]).save(files.start)
    for cell in experiment.cells[:4]:  # seeds 1 and 2
        checkpoint(cell, [2.0, 4.0, 6.0, 8.0, 10.0 + cell.seed], idle=cell.seed == 2)
        gain = 0.25 if cell.arm == "active" else 0.0
        evaluation(cell.name, [gain, 0.25 + gain, 0.5, 0.5]).save(files.of(cell))

    text = write_comparison(experiment, tmp_path / "out", "A study")
    assert text == (tmp_path / "out/comparison.txt").read_text().rstrip("\n")
    assert "4 of 6 runs are evaluated. Every run was to end after the step that completes 10 operations." in text
    assert "  active, seed 3: begun, at step 1\n  random spans, seed 3: not begun\n" in text
    assert "  active, seed 2: predictor groups all alike: predictor/groups_mixed 0, 0, 0, 0, 0 in steps 1 to 5" in text
    assert "random spans − active" in text and "active − start" in text
    assert (tmp_path / "out/curves.png").read_bytes().startswith(b"\x89PNG")
    record = json.loads((tmp_path / "out/comparison.json").read_text())
    assert record["between"][0]["estimate"]["mean"] == pytest.approx(-0.125)
    assert [run["left"] for run in record["runs"]] == ["", "", "", "", "begun, at step 1", "not begun"]
