"""Graders of training questions by name, and the reward of a grade, on cases worked by hand."""

from __future__ import annotations

import doctest

import pytest

from megatron_pz.config.question_schema import QuestionConfig
from megatron_pz.question_answering import graders
from megatron_pz.question_answering.graders import GRADERS, Answered, AnswerGrader, Grade, make_grader, reward
from megatron_pz.question_answering.question import Question


def question(answer: str, options: tuple[str, ...] = ()) -> Question:
    return Question("set", "set/0", "set", "What is it?", answer, "file:1", options)


def score(grader: str, answer: str, response: str) -> float:
    (grade,) = GRADERS[grader].grade([Answered(question(answer), response, truncated=False)])
    assert grade.error is None
    return grade.score


@pytest.mark.parametrize(
    ("grader", "answer", "response", "expected"),
    [
        ("letter", "B", r"First \boxed{A}, no: \boxed{B}", 1.0),
        ("letter", "B", r"\boxed{(B): the second}", 1.0),
        ("letter", "B", "The answer is: C\n", 0.0),
        ("exact", "Café", "\\boxed{ Cafe\u0301 }", 1.0),
        ("exact", "Paris", r"\boxed{paris}", 0.0),
        ("exact", "[1, 2]", r"\boxed{[1, 2]}", 1.0),
        ("number", "1200.5", r"\boxed{\$1,200.50}", 1.0),
        ("number", "0.1", r"\boxed{1/10}", 1.0),
        ("number", "-7", r"\boxed{x = -7}", 1.0),
        ("number", "7", r"\boxed{-7}", 0.0),
        ("number", "7", r"\boxed{7 or 8}", 0.0),
        ("number", "-7", "\\boxed{\N{MINUS SIGN}7}", 1.0),
        ("number", "7", "\\boxed{x = \N{MINUS SIGN} 7}", 0.0),
        ("number", "-1200", r"\boxed{-\$1,200}", 1.0),
        ("number", "-5", r"\boxed{x = - 5}", 1.0),
        ("number", "-2", r"\boxed{3 - 5}", 0.0),
        ("number", "0.75", r"\boxed{\dfrac{3}{4}}", 1.0),
        ("number", "-0.75", r"\boxed{-\frac{3}{4}}", 1.0),
        ("number", "1.5", r"\boxed{1\frac{1}{2}}", 0.0),
        ("number", "5.5", r"\boxed{1\frac{1}{2}}", 0.0),
        ("number", "70000", r"\boxed{70{,}000}", 1.0),
        ("number", "1070000", r"\boxed{1\,070\,000}", 1.0),
        ("number", "70000", r"\boxed{70,\!000}", 1.0),
        ("number", "0.00001", r"\boxed{1e-5}", 1.0),
        ("number", "1500", r"\boxed{1.5E+3}", 1.0),
        ("number", "1", r"\boxed{1e999999999}", 0.0),
        ("number", "18", r"\boxed{18.}", 1.0),
        ("number", "0.3", r"\boxed{0.30000000000000004}", 0.0),
        ("number", "7", r"\boxed{seven}", 0.0),
        ("number", "7", r"\boxed{7/0}", 0.0),
        ("number", "12", r"\boxed{(1,2)}", 0.0),
        ("number", "1234567", r"\boxed{1,234,567.}", 1.0),
        ("math", r"\frac{1}{2}", r"\boxed{0.5}", 1.0),
        ("math", "(1, 2)", r"\boxed{(2, 1)}", 0.0),
        ("math", r"\frac{\sqrt{a^{2}+1}}{b}", r"\boxed{0} or rather \boxed{\frac{\sqrt{a^{2}+1}}{b}}", 1.0),
        ("exact", "{{{{1}}}}", r"\boxed{{{{{1}}}}}", 1.0),
    ],
)
def test_an_answer_by_hand(grader: str, answer: str, response: str, expected: float) -> None:
    assert score(grader, answer, response) == expected


@pytest.mark.parametrize("response", ["", "It is seven.", r"\boxed{", r"\boxed{  }"])
@pytest.mark.parametrize("grader", ["exact", "number", "math"])
def test_nothing_read_is_no_answer(grader: str, response: str) -> None:
    assert GRADERS[grader].grade([Answered(question("7"), response, truncated=False)]) == [Grade(None)]


def test_a_truncated_response_has_no_answer() -> None:
    assert GRADERS["number"].grade([Answered(question("7"), r"\boxed{7}", truncated=True)]) == [Grade(None)]


def test_a_grader_that_raises_counts_as_wrong_and_is_reported() -> None:
    def fails(question: Question, answer: str) -> float:
        raise RecursionError("too\ndeep")

    grader = AnswerGrader(lambda response: response, fails)
    (grade,) = grader.grade([Answered(question("7"), "7", truncated=False)])
    assert grade == Grade("7", 0.0, "RecursionError: too deep") and not grade.right
    (long,) = GRADERS["math"].grade([Answered(question("7"), f"\\boxed{{{'1+' * 2000}1}}", truncated=False)])
    assert long.error is not None and "not compared" in long.error and long.score == 0.0


@pytest.mark.parametrize(
    ("grade", "difference", "expected"),
    [
        (Grade("12", 1.0), 0, 1.0),
        (Grade("12", 1.0), -4, 0.8),
        (Grade("12", 1.0), 4, 0.8),
        (Grade("12", 1.0), 400, 0.5),
        (Grade("12", 0.0), 4, 0.0),
        (Grade("12", 0.25), 4, 0.25),
        (Grade(None), 0, -0.5),
    ],
)
def test_the_reward_of_general_reasoner_by_hand(grade: Grade, difference: int, expected: float) -> None:
    settings = QuestionConfig(no_answer_reward=-0.5, answer_length_penalty=0.05)
    assert reward(grade, difference, settings) == pytest.approx(expected)


def test_a_grader_is_made_by_its_name() -> None:
    assert make_grader(QuestionConfig(grader="letter")) is GRADERS["letter"]
    gym = make_grader(QuestionConfig(grader="reasoning_gym"), lambda question, answer: 0.01)
    assert gym.grade([Answered(question("7"), r"\boxed{8}", truncated=False)]) == [Grade("8", 0.01)]


def test_examples() -> None:
    assert doctest.testmod(graders).attempted == 5
