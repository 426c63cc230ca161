"""SuperGPQA as its authors ask and read it, compared with their original patterns."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_pz.question_answering.question import Question
from megatron_pz.question_answering.recipes import recipe
from megatron_pz.question_answering.supergpqa import read
from tests.support.cpu_time import cpu_seconds

OPTIONS = ("foo bar", "x", "10", "1", "-5", "5", "$x$", "(1", "\\frac{1}{2}")


@pytest.mark.parametrize(
    ("response", "letter"),
    [
        ("Answer: B", "B"),
        ("**Answer: (C)**", "C"),
        ("ANSWER: $\\boxed{\\text{D}}$.", "D"),
        ("The correct answer is\n\n$\\mathbf{E}$", "E"),
        ("Answer: A\nSurely.", "A"),  # the last line gives none
        ("Answer: A\nB", "B"),  # the last line begins with one
        ("Answer: A\nAnswer: C", "C"),
        ("Answer: a", "a"),
        ("(J)", "J"),
        ("The answer is because", None),
        ("The answers  are B", None),
        ("The answer is foo bar.", "A"),
        ("The answer is 10", "C"),  # and not D, whose "1" ends inside it
        ("answer \\boxed{$x$}", "G"),
        ("-5", "F"),  # punctuation is skipped, but an option may begin within it
        ("The option is $\\frac{1}{2}$.", "I"),
        ("nothing", None),
        ("", None),
    ],
)
def test_letters_then_options_are_read_from_the_last_line_then_from_all(response: str, letter: str | None) -> None:
    assert read(response, OPTIONS) == letter


OPEN = r"(?:[*${(\[\\]*?(?:(?:\\boxed|\\mathbf|\\mathrm|\\text){)?)*\s*"
CLOSE = r"(?:\\?}?\$?\)?]?}?)*(?:[\s:.*)]|$)"
SENTENCE = r"[Tt]he\s+(?:\w+\s+)?(?:answer|option)(?:\w+\s+)?\s+"


def naive(response: str, options: tuple[str, ...]) -> str | None:
    """Apply the definition with its nested repetitions, in time exponential in the markup."""
    text = response.rstrip()
    letter, content = "([A-J])", f"({'|'.join(map(re.escape, options))})"
    starts = {
        letter: (rf"{SENTENCE}is?:?\s*", r"(?i:answer)[*\s]*:\s*"),
        content: (rf"{SENTENCE}is:?\s*", r"(?i:answer)\s*"),
    }
    for wanted, flags in ((letter, re.IGNORECASE), (content, 0)):
        for part in (text.split("\n")[-1], text):
            for start in (*starts[wanted], r"^[^\w\r\n]*"):
                if found := re.search(f"{start}{OPEN}{wanted}{CLOSE}", part, flags):
                    return found[1] if wanted == letter else "ABCDEFGHI"[options.index(found[1])]
    return None


PIECES = [
    "The ",
    "the\t",
    "correct ",
    "answer",
    "option",
    "s ",
    " is",
    ":",
    "i",
    " ",
    "\n",
    "\r\n",
    "*",
    "$",
    "{",
    "(",
    "[",
]
PIECES += [
    "\\",
    "\\boxed{",
    "\\text{",
    "A",
    "B",
    "j",
    "I",
    "a",
    ")",
    "}",
    "]",
    ".",
    "Answer: ",
    "The answer is ",
    "é",
    "-",
]


@given(st.lists(st.sampled_from([*PIECES, *OPTIONS]), max_size=10))
def test_reading_agrees_with_the_definition(parts: list[str]) -> None:
    text = "".join(parts)
    assert read(text, OPTIONS) == naive(text, OPTIONS)


@pytest.mark.parametrize("piece", ["$\\", " ", "the ", "The answer is ((", "answer   "])
def test_a_long_response_is_read_in_linear_time(piece: str) -> None:
    """A quadratic algorithm takes half a minute for 200,000 characters, this one 0.1 to 0.5 s."""
    text = piece * (200_000 // len(piece)) + "!"
    assert cpu_seconds(lambda: read(text, OPTIONS)) < 5


def test_supergpqa_is_asked_and_nothing_is_guessed() -> None:
    question = Question("supergpqa", "u", "Science", "Which?", "B", "f:1", options=("one", "two"))
    protocol = recipe("authors").protocol("supergpqa")
    assert protocol.prompt(question) == (
        "Answer the following multiple choice question. There is only one correct answer. The last line of your "
        "response should be in the format 'Answer: $LETTER' (without quotes), where LETTER is one of A, B, C, D, E, F, "
        "G, H, I, or J.\n\nWhich?\nA) one\nB) two\n"
    )
    assert protocol.grade(question, "Answer: B", 0).correct
    assert protocol.grade(question, "The answer is two.", 0).extracted == "B"
    assert not protocol.grade(question, "Answer: b", 0).correct, "the authors compare the letter as it is written"
    unread = [protocol.grade(question, "who knows", seed) for seed in range(50)]
    assert not any(verdict.correct or verdict.guessed for verdict in unread)
