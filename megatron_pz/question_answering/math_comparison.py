"""Compare an answer with a question's reference under each of the mathematics graders."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from megatron_pz.question_answering.math_grader import MATH_GRADER
from megatron_pz.question_answering.protocol import Compare
from megatron_pz.question_answering.question import Question
from megatron_pz.question_answering.qwen_math import normalize


def _math_verify(question: Question, answer: str) -> bool:
    return MATH_GRADER.equal("math_verify", question.answer, answer)


def _qwen(question: Question, answer: str) -> bool:
    keep_units = question.benchmark == "minerva_math"
    return MATH_GRADER.equal("qwen", normalize(question.answer, keep_units), normalize(answer, keep_units))


MATH_COMPARISONS: Final[Mapping[str, Compare]] = {"math_verify": _math_verify, "qwen": _qwen}
"""Comparisons by the grader's name: math-verify, and the rules of Qwen2.5-Math's evaluation."""
