r"""Ask and grade as General-Reasoner does; the PretrainZero paper follows its settings.

Zero-shot, greedy, up to 8192 tokens; the answer is read from the last ``\boxed{}``, then from "Final Answer:" or "The
answer is:". Source: ``evaluation/`` of https://github.com/TIGER-AI-Lab/General-Reasoner. Departures: mathematics is
graded by math-verify on the last box (there by a model behind an API on the first), AMC 2023 is sampled 32 times as in
the paper, and greedy responses count once.
"""

from __future__ import annotations

import re
from typing import Final

from megatron_pz.question_answering import bbeh
from megatron_pz.question_answering.boxed import last_boxed
from megatron_pz.question_answering.math_comparison import MATH_COMPARISONS
from megatron_pz.question_answering.protocol import Protocol, Tokens
from megatron_pz.question_answering.question import LETTERS, Question

SOURCE: Final = "https://github.com/TIGER-AI-Lab/General-Reasoner, evaluation/"
_CONTROL_TOKENS: Final = ("</s>", "<|im_end|>", "<|endoftext|>")
_NESTING: Final = 2
"""Levels of braces that the pattern for multiple choice and BBEH knows in a box."""
_UP_TO_LINE_END: Final = re.compile(r"(?:[^<\n]++|<[^<])*+")
"""The rest of a phrase, up to the line's end. A single ``<`` takes the next character with it, even a line break."""

_LETTER_INSTRUCTION: Final = (
    "Please reason step by step, and put your final answer option within \\boxed{{}}. Only put the {letter} in the "
    "box, e.g. \\boxed{{A}}. There is only one correct answer."
)


def extract(response: str, nesting: int | None = _NESTING) -> str | None:
    r"""Return the answer that a response gives: its last box, else its last "Final Answer:" or "The answer is:" line.

    A line counts only if a line break ends it. An empty box does not count.

    Args:
        response: The model's text.
        nesting: Levels of braces that a box may hold; a box with more is skipped. None: any number.

    >>> extract("The answer is: 4\nWait. \\boxed{5}")
    '5'
    >>> extract("The answer is: 4\n")
    ' 4'
    """
    text = _answer_part(response)
    if boxed := last_boxed(text, nesting):
        return boxed
    for phrase in ("Final Answer:", "The answer is:"):
        if (line := _last_line_after(phrase, text)) is not None:
            return line
    return None


def extract_letter(response: str) -> str | None:
    """Return the first letter from A to J, in the order of the alphabet, that occurs in the answer, or None."""
    answer = extract(response)
    return None if answer is None else next((letter for letter in LETTERS if letter in answer), None)


def _answer_part(response: str) -> str:
    """Return the response without the chat markup, turns and control tokens that base models write around it."""
    if "<|im_start|>user" in response:
        _, assistant, rest = response.partition("<|im_start|>assistant")
        text = assistant + rest if assistant else response
    elif "Assistant:" in response:
        text = response.rpartition("Assistant:")[2].strip()
    else:
        text = response
    for token in _CONTROL_TOKENS:
        if token in text:
            text = text.partition(token)[0].strip()
    return text


def _last_line_after(phrase: str, text: str) -> str | None:
    last, position = None, 0
    while (found := text.find(phrase, position)) >= 0:
        begin = found + len(phrase)
        match = _UP_TO_LINE_END.match(text, begin)
        assert match is not None
        position = match.end()
        if text[position : position + 1] == "\n":
            last = text[begin:position]
        # A phrase in a part without a final line break cannot end in one either, so skip it.
        position += 1
    return last


def _write_letters(question: Question, tokens: Tokens | None) -> str:
    options = "".join(f"({letter}): {option}\n" for letter, option in zip(LETTERS, question.options, strict=False))
    letter = "option letter" if question.benchmark == "mmlu_pro" else "letter"
    return f"{question.text}\nOptions are:\n{options}\n\n{_LETTER_INSTRUCTION.format(letter=letter)}"


def _write_bbeh(question: Question, tokens: Tokens | None) -> str:
    instruction = "Please reason step by step, and put your final answer option within \\boxed{}."
    return f"{question.text}\n\n{instruction}"


def _write_math(question: Question, tokens: Tokens | None) -> str:
    return f"{question.text}\n\nPlease reason step by step, and put your final answer within \\boxed{{}}."


def _extract_bbeh(question: Question, response: str) -> str | None:
    answer = extract(response)
    return None if answer is None else bbeh.extract(answer)


def protocol(benchmark: str) -> Protocol:
    """Return the protocol of a benchmark."""
    if benchmark in ("mmlu_pro", "supergpqa"):
        return Protocol(
            "general_reasoner",
            benchmark,
            SOURCE,
            write=_write_letters,
            extract=lambda question, response: extract_letter(response),
            graders={"letter": lambda question, answer: answer == question.answer},
            guess=lambda question: LETTERS,
        )
    if benchmark in ("bbeh", "bbeh_mini"):
        return Protocol(
            "general_reasoner",
            benchmark,
            SOURCE,
            write=_write_bbeh,
            extract=_extract_bbeh,
            graders={"bbeh": lambda question, answer: bbeh.matches(answer, question.answer)},
        )
    sampled = benchmark in ("aime24", "amc23")
    return Protocol(
        "general_reasoner",
        benchmark,
        SOURCE,
        write=_write_math,
        extract=lambda question, response: extract(response, nesting=None),
        graders={name: MATH_COMPARISONS[name] for name in ("math_verify", "qwen")},
        system="You are a helpful assistant.",
        temperature=1.0 if sampled else 0.0,
        samples=32 if sampled else 1,
    )
