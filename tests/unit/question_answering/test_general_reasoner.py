"""General-Reasoner's recipe: prompts, extraction from responses, and the random guess."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_pz.question_answering.general_reasoner import extract, extract_letter
from megatron_pz.question_answering.question import Question
from megatron_pz.question_answering.recipes import recipe
from tests.support.cpu_time import cpu_seconds

DUCKS = Question("gsm8k", "0", "gsm8k", "How many ducks?", "18", "test.jsonl:1")


@pytest.mark.parametrize(
    ("response", "read"),
    [
        (r"First \boxed{A}, but then \boxed{B}.", "B"),
        (r"\boxed{\frac{1}{\sqrt{2}}}", r"\frac{1}{\sqrt{2}}"),
        (r"\boxed{a \boxed{b} c}", r"a \boxed{b} c"),
        (r"\boxed{{{{1}}}}", None),  # more levels than the pattern supports
        (r"\boxed{{{{\boxed{1}}}}}", "1"),
        (r"\boxed{1} and \boxed{2", "1"),
        ("\\boxed{}\nFinal Answer: 7\n", " 7"),
        ("The answer is: 5\nFinal Answer: 6\n", " 6"),
        ("Final Answer: 6", None),  # no line break ends it
        ("Final Answer: a <b> c\n", " a <b> c"),
        ("Final Answer: a << c\n", None),
        ("Final Answer: a <\nb\n", " a <\nb"),
        (r"\boxed{1}<|im_end|>\boxed{2}", "1"),
        (r"User: \boxed{1} Assistant: \boxed{2} Assistant: three", None),
        (r"\boxed{1}<|im_start|>user <|im_start|>assistant \boxed{2}", "2"),
        ("", None),
    ],
)
def test_answers_are_read_from_the_last_box_then_from_a_phrase(response: str, read: str | None) -> None:
    assert extract(response) == read


BOX = re.compile(r"\\boxed\{((?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*)\}")
LINES = [re.compile(rf"{phrase}((?:[^<]|<[^<])*?)\n") for phrase in ("Final Answer:", "The answer is:")]


@given(st.lists(st.sampled_from(["\\boxed{", "{", "}", "Final Answer:", "The answer is:", "<", "\n", "x", "7"])))
def test_reading_agrees_with_the_patterns_that_define_it(parts: list[str]) -> None:
    text = "".join(parts)
    found = [pattern.findall(text) for pattern in (BOX, *LINES)]
    boxed = found[0][-1] if found[0] and found[0][-1] else None
    assert extract(text) == (boxed or next((lines[-1] for lines in found[1:] if lines), None))


@pytest.mark.parametrize(
    ("response", "letter"),
    [(r"\boxed{C}", "C"), (r"\boxed{\text{(J)}}", "J"), (r"\boxed{D or B}", "B"), (r"\boxed{42}", None)],
)
def test_the_first_letter_of_the_alphabet_in_the_answer_counts(response: str, letter: str | None) -> None:
    assert extract_letter(response) == letter


@pytest.mark.parametrize(
    "piece", ["\\boxed{", "\\boxed{{}", "{", "Final Answer:", "Final Answer: <<", "The answer is:<\n", "}{", "<"]
)
def test_a_megabyte_is_read_in_linear_time(piece: str) -> None:
    text = piece * (1_000_000 // len(piece))
    assert cpu_seconds(lambda: extract(text)) < 5


def test_gsm8k_is_asked_and_graded() -> None:
    protocol = recipe("general_reasoner").protocol("gsm8k")
    assert protocol.messages(DUCKS) == [
        {"role": "system", "content": "You are a helpful assistant."},
        {
            "role": "user",
            "content": "How many ducks?\n\nPlease reason step by step, and put your final answer within \\boxed{}.",
        },
    ]
    assert protocol.completion(DUCKS) == protocol.prompt(DUCKS), "a completion knows no assistant"
    assert (protocol.temperature, protocol.samples, protocol.max_tokens) == (0.0, 1, 8192)
    right = protocol.grade(DUCKS, r"9 \cdot 2 = \boxed{\$18.00}", seed=0)
    assert (right.extracted, right.correct, right.graders) == (r"\$18.00", True, {"math_verify": True, "qwen": True})
    assert not protocol.grade(DUCKS, r"\boxed{17}", seed=0).correct
    for response in ("18", "Final Answer:\n", r"\boxed{ }", r"The answer is: \boxed{}"):
        unread = protocol.grade(DUCKS, response, seed=0)
        assert (unread.extracted, unread.correct, unread.guessed) == (None, False, False), response


def test_multiple_choice_is_asked_and_guessed() -> None:
    protocol = recipe("general_reasoner").protocol("mmlu_pro")
    question = Question("mmlu_pro", "70", "law", "Which?", "B", "test.jsonl:1", options=("one", "two", "three"))
    assert protocol.prompt(question) == (
        "Which?\nOptions are:\n(A): one\n(B): two\n(C): three\n\n\nPlease reason step by step, and put your final "
        "answer option within \\boxed{}. Only put the option letter in the box, e.g. \\boxed{A}. There is only one "
        "correct answer."
    )
    guesses = [protocol.grade(question, "I do not know", seed) for seed in range(400)]
    assert all(verdict.guessed and verdict.extracted is None for verdict in guesses)
    right = sum(verdict.correct for verdict in guesses)
    assert 20 <= right <= 65, "a guess is one of ten letters"
    assert guesses == [protocol.grade(question, "Neither do I", seed) for seed in range(400)]
    assert protocol.grade(question, r"\boxed{B}", seed=0).correct
