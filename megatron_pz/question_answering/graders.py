"""Grade responses to training questions, by a grader's name, and turn a grade into a reward.

If a grader fails on an answer, the answer counts as wrong and the failure is reported. Only an unreachable verifier
ends the run.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

from megatron_pz.config.question_schema import QuestionConfig
from megatron_pz.question_answering.general_reasoner import extract, extract_letter
from megatron_pz.question_answering.math_grader import MATH_GRADER
from megatron_pz.question_answering.question import Question
from megatron_pz.runtime.errors import brief

_FRACTION = re.compile(r"(?<![\d}])\\[dt]?frac\{(\d+)\}\{(\d+)\}")
_GROUPING = re.compile(r"(?<=\d)(?:\{,\}|,?\\[!,])(?=\d{3})")
"""Separators of thousands in LaTeX."""
_SIGN = re.compile(r"(^|[=≈:(])\s*([+-])\s*(?:\\?[$€£])?\s*(?=\.?\d)")
"""A sign that white space or a currency separates from its number."""
_NUMBER = re.compile(r"[+-]?(?:(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d{1,3}(?!\d))?(?:/\d+)?")
"""An exponent has at most three digits, so that no answer takes the memory of a process."""


@dataclass(frozen=True)
class Answered:
    """A question with one response to it."""

    question: Question
    response: str
    truncated: bool


@dataclass(frozen=True)
class Grade:
    """The answer read from a response, and its score."""

    answer: str | None
    """Answer as read; None if nothing was read or the response was truncated."""
    score: float = 0.0
    """0 for wrong to 1 for right; between them only if the grader has partial scores."""
    error: str | None = None
    """One line from a grader that could not judge the answer, which then counts as wrong."""

    @property
    def right(self) -> bool:
        """Return whether the score is full."""
        return self.score >= 1.0


class Grader(Protocol):
    """Grades the responses of one rank's share of a step."""

    def grade(self, answered: Sequence[Answered]) -> list[Grade]:
        """Return the grade of each response, in order."""


Score = Callable[[Question, str], float]
"""Scores an answer from 0 to 1; may raise on a strange one."""


@dataclass(frozen=True)
class AnswerGrader:
    """Reads the answer of each response and scores it in this process."""

    read: Callable[[str], str | None]
    score: Score

    def grade(self, answered: Sequence[Answered]) -> list[Grade]:
        """Return the grade of each response, in order."""
        return [self._grade(each) for each in answered]

    def _grade(self, answered: Answered) -> Grade:
        answer = read_answer(answered, self.read)
        if answer is None:
            return Grade(None)
        try:
            return Grade(answer, self.score(answered.question, answer))
        except Exception as failure:  # an unusual answer must not end a long run
            return Grade(answer, error=f"{type(failure).__name__}: {brief(failure)}")


def free_answer(response: str) -> str | None:
    r"""Return the answer to a question without options; a box may nest braces to any depth.

    >>> free_answer(r"\boxed{\frac{\sqrt{a^{2}}}{b}}")
    '\\frac{\\sqrt{a^{2}}}{b}'
    """
    return extract(response, nesting=None)


def read_answer(answered: Answered, read: Callable[[str], str | None] = free_answer) -> str | None:
    """Return the answer of a response without outer white space; None if it is truncated or has no answer."""
    answer = None if answered.truncated else read(answered.response)
    return answer.strip() or None if answer else None


def exact(question: Question, answer: str) -> float:
    """Compare texts after Unicode NFC normalization, ignoring outer white space."""
    return float(_composed(answer) == _composed(question.answer))


def number(question: Question, answer: str) -> float:
    """Compare values exactly: ``1,200.50``, ``$1200.5`` and ``2401/2`` are equal."""
    value = number_in(answer)
    return float(value is not None and value == number_in(question.answer))


def math(question: Question, answer: str) -> float:
    """Compare by math-verify (:mod:`.math_grader`)."""
    return float(MATH_GRADER.equal("math_verify", question.answer, answer))


def letter(question: Question, answer: str) -> float:
    """Compare an option's letter."""
    return float(answer == question.answer)


def number_in(text: str) -> Fraction | None:
    """Return the value of the only number in a text; None if there is none or more than one.

    >>> number_in("$1,200.50"), number_in("x = -3/4"), number_in("2 or 3"), number_in("1/0")
    (Fraction(2401, 2), Fraction(-3, 4), None, None)
    >>> number_in("-$1,200"), number_in("x = - 5"), number_in(r"\\frac{3}{4}"), number_in("1.5e3")
    (Fraction(-1200, 1), Fraction(-5, 1), Fraction(3, 4), Fraction(1500, 1))
    """
    plain = _FRACTION.sub(r"\1/\2", _GROUPING.sub(",", text.replace("\N{MINUS SIGN}", "-").strip()))
    found = _NUMBER.findall(_SIGN.sub(r"\1\2", plain))
    if len(found) != 1:
        return None
    numerator, _, denominator = found[0].replace(",", "").partition("/")
    try:
        return Fraction(numerator) / Fraction(denominator or 1)
    except (ValueError, ZeroDivisionError):
        return None


def _composed(text: str) -> str:
    return unicodedata.normalize("NFC", text.strip())


GRADERS: dict[str, AnswerGrader] = {
    "letter": AnswerGrader(extract_letter, letter),
    "exact": AnswerGrader(free_answer, exact),
    "number": AnswerGrader(free_answer, number),
    "math": AnswerGrader(free_answer, math),
}
"""Graders that need nothing but the answer and the reference."""


def make_grader(config: QuestionConfig, gym_score: Score | None = None) -> Grader:
    """Return the configured grader.

    Args:
        config: names the grader and the endpoint of a verifier.
        gym_score: scores the answers to generated tasks, for the grader ``reasoning_gym``.

    Raises:
        BadInput: the verifier's prompt cannot be used.
    """
    if config.grader == "verifier":
        from megatron_pz.question_answering.verifier import ModelVerifier

        return ModelVerifier(config)
    if config.grader == "reasoning_gym":
        assert gym_score is not None, "config.validate requires the tasks"
        return AnswerGrader(free_answer, gym_score)
    return GRADERS[config.grader]


def reward(grade: Grade, length_difference: int, config: QuestionConfig) -> float:
    """Return the reward of a grade.

    Args:
        grade: the grade of a response.
        length_difference: number of tokens of the answer minus that of the reference.
        config: sets the reward without an answer and the penalty for a length difference.

    With General-Reasoner's settings, for a right answer that is three tokens too long and for a missing answer:

    >>> settings = QuestionConfig(no_answer_reward=-0.5, answer_length_penalty=0.05)
    >>> reward(Grade("12", 1.0), 3, settings), reward(Grade(None), 0, settings)
    (0.85, -0.5)
    """
    if grade.answer is None:
        return config.no_answer_reward
    counted = min(abs(length_difference), config.answer_length_cap) if grade.right else 0
    return grade.score - config.answer_length_penalty * counted
