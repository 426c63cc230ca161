"""Each sign of collapse occurs on a history made for it, and none on a run that learns."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from megatron_pz.config.schema import CollapseConfig
from megatron_pz.monitoring.collapse import COUNT, CollapseWatch, first_collapse, signs_of_collapse
from megatron_pz.monitoring.metrics import METRICS_FILE, StepMetrics

CONFIG = CollapseConfig(collapse_window=3)
HEALTHY = {
    "generator/groups_equal": 0.25,
    "generator/valid_masks": 0.8,
    "generator/entropy": 1.0,
    "generator/truncated": 0.02,
    "predictor/groups_mixed": 0.3,
    "predictor/groups_all_zero": 0.6,
    "predictor/format": 0.9,
    "predictor/entropy": 0.5,
    "predictor/truncated": 0.05,
}


def history(*values: float, metric: str = "", **fixed: float) -> list[StepMetrics]:
    """Return a run of healthy steps, except for one metric with given values."""
    return [
        StepMetrics(step, HEALTHY | {name.replace("__", "/"): value for name, value in fixed.items()} | {metric: value})
        for step, value in enumerate(values, 1)
    ]


def test_a_run_that_learns_shows_nothing() -> None:
    assert signs_of_collapse(history(*[0.1, 0.4, 0.2] * 9, metric="predictor/accuracy"), CONFIG) == []


@pytest.mark.parametrize(
    ("metric", "values", "evidence"),
    [
        (
            "predictor/groups_mixed",
            (0.3, 0.0, 0.01, 0.0),
            "predictor groups all 0: predictor/groups_mixed 0, 0.01, 0 in steps 2 to 4, at most 0.01",
        ),
        (
            "generator/groups_equal",
            (0.5, 1.0, 0.99, 1.0),
            "generator groups all alike: generator/groups_equal 1, 0.99, 1 in steps 2 to 4, at least 0.99",
        ),
        (
            "generator/entropy",
            (1.0, 0.02, 0.01, 0.0),
            "generator entropy gone: generator/entropy 0.02, 0.01, 0 in steps 2 to 4, at most 0.02",
        ),
        (
            "predictor/entropy",
            (0.4, 0.5, 0.6, 2.0, 2.5, 9.0),
            "predictor entropy runs away: predictor/entropy 2, 2.5, 9 in steps 4 to 6, at least 2, 4 times the 0.5 of "
            "the first steps",
        ),
        (
            "predictor/truncated",
            (0.1, 0.0, 0.2, 0.5, 0.9, 1.0),
            "predictor length runs away: predictor/truncated 0.5, 0.9, 1 in steps 4 to 6, at least 0.5, 0.1 in the "
            "first steps",
        ),
        (
            "generator/valid_masks",
            (0.1, 0.1, 0.1, 0.7, 0.8, 0.9, 0.4, 0.3, 0.2),
            "valid masks fall: generator/valid_masks 0.4, 0.3, 0.2 in steps 7 to 9, at most 0.4, 0.5 of the 0.8 before",
        ),
        (
            "predictor/format",
            (0.9, 0.9, 0.9, 0.1, 0.2, 0.1),
            "readable answers fall: predictor/format 0.1, 0.2, 0.1 in steps 4 to 6, at most 0.45, 0.5 of the 0.9 "
            "before",
        ),
    ],
)
def test_each_sign_is_named_with_its_evidence(metric: str, values: tuple[float, ...], evidence: str) -> None:
    (sign,) = signs_of_collapse(history(*values, metric=metric), CONFIG)
    assert str(sign) == evidence
    inside = history(*values[:-1], HEALTHY[metric], metric=metric)
    assert signs_of_collapse(inside, CONFIG) == [], "every step of the window has to show it"


def test_groups_that_are_all_right_are_told_from_groups_that_are_all_wrong() -> None:
    right = {"predictor__groups_all_one": 1.0, "predictor__groups_all_zero": 0.0}
    (sign,) = signs_of_collapse(history(0.0, 0.0, 0.0, metric="predictor/groups_mixed", **right), CONFIG)
    assert sign.sign == "predictor groups all 1"


def test_too_few_steps_or_steps_without_the_value_show_nothing() -> None:
    assert signs_of_collapse(history(0.0, 0.0, metric="predictor/groups_mixed"), CONFIG) == []
    assert signs_of_collapse(history(0.0, math.nan, 0.0, metric="predictor/groups_mixed"), CONFIG) == []
    passive = [StepMetrics(step, {"predictor/groups_mixed": 0.5}) for step in range(1, 9)]
    assert signs_of_collapse(passive, CONFIG) == []


def test_a_length_that_began_at_its_limit_has_not_run_away() -> None:
    assert signs_of_collapse(history(*[0.8] * 8, metric="predictor/truncated"), CONFIG) == []


def test_an_entropy_that_was_zero_from_the_first_step_does_not_run_away() -> None:
    (sign,) = signs_of_collapse(history(*[0.0] * 6, metric="predictor/entropy"), CONFIG)
    assert sign.sign == "predictor entropy gone"


def test_a_sign_is_new_once_and_again_after_it_went_away() -> None:
    watch = CollapseWatch(CONFIG)
    seen = [watch.examine(step) for step in history(0, 0, 0, 0, 0.5, 0, 0, 0, metric="predictor/groups_mixed")]
    assert [len(signs) for signs, _ in seen] == [0, 0, 1, 1, 0, 0, 0, 1]
    assert [len(new) for _, new in seen] == [0, 0, 1, 0, 0, 0, 0, 1]


def test_a_resumed_run_remembers_the_steps_before_it_and_no_others(tmp_path: Path) -> None:
    steps = history(0.9, 0.9, 0.9, 0.1, 0.1, 0.1, metric="predictor/format")
    (tmp_path / METRICS_FILE).write_text("".join(step.to_json() + "\n" for step in steps))
    resumed = CollapseWatch.resumed(CONFIG, str(tmp_path), 5)
    signs, new = resumed.examine(steps[5])
    assert [sign.sign for sign in signs] == [sign.sign for sign in new] == ["readable answers fall"]
    assert CollapseWatch.resumed(CONFIG, str(tmp_path), 6).examine(steps[5])[1] == [], "that was known before"
    assert CollapseWatch.resumed(CONFIG, str(tmp_path / "none"), 5).examine(steps[5])[0] == []


def test_the_first_collapse_of_a_finished_run_is_found_by_its_metric() -> None:
    steps = [
        StepMetrics(step.iteration, {**step.values, COUNT: float(step.iteration in (4, 5))})
        for step in history(0.3, 0, 0, 0, 0, 0.3, metric="predictor/groups_mixed")
    ]
    (sign,) = first_collapse(steps, CONFIG)
    assert sign.steps == (2, 3, 4)
    assert first_collapse(steps[:3], CONFIG) == []
