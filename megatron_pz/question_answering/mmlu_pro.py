"""Ask MMLU-Pro with worked examples and read the answers as its authors do.

Source: ``evaluate_from_local.py`` and ``compute_accuracy.py`` of https://github.com/TIGER-AI-Lab/MMLU-Pro. This module
matches their patterns in time linear in the response; the authors' second and third take minutes on a long response.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from megatron_pz.question_answering.question import LETTERS, Question

_INSTRUCTION: Final = (
    "The following are multiple choice questions (with answers) about {subject}. Think step by step and then finish "
    'your answer with "the answer is (X)" where X is the correct letter choice.'
)
_COT_BEGIN: Final = "Answer: Let's think step by step."

_SENTENCE: Final = re.compile(r"answer is \(?([A-J])\)?")
_LABEL: Final = re.compile(r"[aA]nswer:(?=\s*([A-J]))")
_LETTER: Final = re.compile(r"\b[A-J]\b")


def read_sentence(response: str) -> str | None:
    """Return the letter of the first "answer is (X)", the only pattern of the authors' first version, or None."""
    found = _SENTENCE.search(response)
    return found and found.group(1)


def read(response: str) -> str | None:
    """Return the letter that the authors' later version reads, or None.

    If :func:`read_sentence` finds nothing, read the last "Answer: X" of the first line that has one, otherwise the last
    isolated letter from A to J.

    >>> read("Answer: A or Answer: B"), read("It is B, not C."), read("Five")
    ('B', 'C', None)
    """
    return read_sentence(response) or _last_label_of_first_line(response) or _last_letter(response)


def _last_label_of_first_line(response: str) -> str | None:
    letter, line_end = None, len(response)
    for label in _LABEL.finditer(response):
        if label.start() > line_end:
            break
        if letter is None and (end := response.find("\n", label.start())) >= 0:
            line_end = end
        letter = label.group(1)
    return letter


def _last_letter(response: str) -> str | None:
    letter = None
    for found in _LETTER.finditer(response):
        letter = found.group()
    return letter


def write(question: Question, examples: Sequence[Question]) -> str:
    """Return the prompt of a plain completion: the instruction, worked examples, and the question."""
    parts = [_INSTRUCTION.format(subject=question.subject), "\n\n\n\n"]
    for example in examples:
        solution = str(example.extras["cot_content"]).replace("A: Let's think step by step.", _COT_BEGIN)
        parts += [_question_and_options(example), solution, "\n\n"]
    return "".join([*parts, _question_and_options(question), _COT_BEGIN])


def _question_and_options(question: Question) -> str:
    options = "".join(f"{letter}. {option}\n" for letter, option in zip(LETTERS, question.options, strict=False))
    return f"Question:\n{question.text}\nOptions:\n{options}"
