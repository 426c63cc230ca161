"""BIG-Bench Extra Hard: the authors' examples, and other forms of models' answers."""

from __future__ import annotations

import pytest

from megatron_pz.question_answering.bbeh import extract, matches
from megatron_pz.question_answering.question import Question
from megatron_pz.question_answering.recipes import recipe
from megatron_pz.question_answering.scores import aggregate


@pytest.mark.parametrize(
    ("response", "target", "right"),
    [
        ("Ok The final answer is: \\boxed{4}.", "4", True),
        ("[Reasoning] The final answer is: \\boxed{4}.", "3", False),
        ("Alright! The final answer is: 2, 3, 4", "2,3,4", True),
        ("blah blah The final answer is: 2, 3, 4", "2,3,5", False),
        ("Ok The answer is: (A)", "a", True),
        ("Ok The answer is: (A)", "b", False),
        ("Ok The answer is: **25**\nHere's why.", "25.0", True),
        ("Ok The answer is: **25**\nHere's why.", "26.0", False),
        ("The answer is: B", "(B)", True),
        ("The answer is: $\\text{pen}$", "pen", True),
        ("The answer is: \\boxed{\\texttt{pen}}", "pen", True),
        ("The answer is: 1, The answer is: 2", "2", True),
        ("The answer is: The final answer is 7", "7", True),
        ("The answer is: [1, 2]", "1, 2", True),
        ("The answer is: 1, 2", "[1,2]", True),
        ("The answer is: dogs'", "dog's", True),
        ("The answer is: unknown?", "unknown", True),
        ("The answer is: unknown", "unknown?", False),
        ("The answer is: (AB)", "(a)", False),
        ("The answer is: 1e3", "1000", True),
        ("pen", "Pen", True),
        ("It may be a pen", "pen", False),
        ("", "0", False),
    ],
)
def test_answers_match_by_the_authors_rules(response: str, target: str, right: bool) -> None:
    assert matches(extract(response), target) is right


def test_general_reasoner_reads_the_box_first() -> None:
    protocol = recipe("general_reasoner").protocol("bbeh")
    question = Question("bbeh", "nycc/0", "nycc", "Which caption?", "(A)", "nycc.json:row 1")
    assert protocol.grade(question, r"So \boxed{\text{(a)}}. The answer is: (B)", seed=0).correct
    verdict = protocol.grade(question, "It is (A).", seed=0)
    assert (verdict.extracted, verdict.correct, verdict.guessed) == (None, False, False)


def test_the_harmonic_mean_adds_a_point_to_every_task() -> None:
    scores = aggregate(["a", "a", "b", "b", "c"], [1.0, 0.0, 0.0, 0.0, 1.0])
    assert scores.by_subject == {"a": 0.5, "b": 0.0, "c": 1.0}
    assert scores.micro == pytest.approx(0.4)
    assert scores.macro == pytest.approx(0.5)
    assert scores.harmonic == pytest.approx(3 / (1 / 0.51 + 1 / 0.01 + 1 / 1.01))
