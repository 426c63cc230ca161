"""The identity of held-out questions covers everything that determines the accuracy of the same answers."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from megatron_pz.config.question_schema import QuestionConfig
from megatron_pz.question_answering.question import Question
from megatron_pz.run.evaluation.held_out_questions import digest

QUESTION = Question("set", "0", "set", "Which?", "B", "file:1", ("one", "two"))
CONFIG = QuestionConfig(grader="letter")


@pytest.mark.parametrize("change", [{"text": "Who?"}, {"answer": "A"}, {"options": ("two", "one")}])
def test_other_texts_references_or_options_are_other_questions(change: dict[str, Any]) -> None:
    assert digest([dataclasses.replace(QUESTION, **change)], CONFIG) != digest([QUESTION], CONFIG)


@pytest.mark.parametrize("change", [{"source": "elsewhere:7"}, {"id": "train/0"}, {"extras": {"level": 1}}])
def test_the_place_of_a_question_does_not_count(change: dict[str, Any]) -> None:
    assert digest([dataclasses.replace(QUESTION, **change)], CONFIG) == digest([QUESTION], CONFIG)


def test_another_grader_or_verifier_judges_otherwise() -> None:
    exact, judge = QuestionConfig(grader="exact"), QuestionConfig(grader="verifier", verifier_model="judge")
    other = dataclasses.replace(judge, verifier_model="other")
    assert len({digest([QUESTION], each) for each in (CONFIG, exact, judge, other)}) == 4
    assert digest([QUESTION], dataclasses.replace(CONFIG, verifier_model="judge")) == digest([QUESTION], CONFIG)
