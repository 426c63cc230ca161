"""Read and compare answers by the rules of BIG-Bench Extra Hard.

Source: ``bbeh/evaluate.py`` of https://github.com/google-deepmind/bbeh, and arXiv:2502.19187 for the prompt.
"""

from __future__ import annotations

from typing import Final

from megatron_pz.question_answering.question import Question

PREFIXES: Final = ("The answer is:", "The final answer is ", "The final answer is: ", "The answer is ")
"""Phrases before an answer, in search order."""


_INSTRUCTION: Final = (
    'Think step by step, and when you provide the final answer, please use the prefix "The answer is:" without any '
    "modification, and provide the answer directly, with no formatting, no bolding, and no markup. For instance: "
    '"The answer is: 42" or "The answer is: yes". If the question is multiple choice with a single correct answer, the '
    "final answer must only be the letter corresponding to the correct answer. For example, "
    '"The answer is: (a)".'
)


def write(question: Question) -> str:
    """Return the user's text, with the instruction of the paper's appendix."""
    return f"{question.text}\n\n{_INSTRUCTION}"


def extract(response: str) -> str:
    r"""Return the answer of a response in the form for comparison: lower case, one line, no full stop at the end.

    For each prefix in turn, the text after its last occurrence is kept. A response without a prefix is its own answer.

    >>> extract("So, The answer is: **(A)**.\nHere is why.")
    '(a)'
    >>> extract("The final answer is: \\boxed{2, 3}.")
    '2,3'
    """
    answer = response.strip()
    for prefix in PREFIXES:
        _, found, rest = answer.rpartition(prefix)
        answer = rest.strip() if found else answer
    answer = _without_latex(answer.removesuffix(".")).lower()
    return answer.replace(", ", ",").replace("**", "").partition("\n")[0].removesuffix(".")


def matches(answer: str, target: str) -> bool:
    """Return whether an answer in the form of :func:`extract` matches the target.

    >>> matches("a", "(A)"), matches("25", "25.0"), matches("[x]", "x"), matches("yes?", "yes"), matches("b", "(A)")
    (True, True, True, True, False)
    """
    reference = target.strip().lower().replace(", ", ",")
    if answer == reference:
        return True
    if _is_parenthesized_letter(answer):
        return answer[1] == reference
    if _is_parenthesized_letter(reference):
        return reference[1] == answer
    return (
        _same_number(answer, reference)
        or answer.replace("'", "") == reference.replace("'", "")
        or answer == f"[{reference}]"
        or reference == f"[{answer}]"
        or answer == f"{reference}?"
    )


def _is_parenthesized_letter(text: str) -> bool:
    return len(text) == 3 and text[0] == "(" and text[-1] == ")"


def _same_number(answer: str, reference: str) -> bool:
    try:
        return float(answer) == float(reference)
    except ValueError:
        return False


def _without_latex(answer: str) -> str:
    r"""Return the answer without dollar signs, ``\boxed{}``, ``\text{}`` and ``\texttt{}`` around it."""
    if answer.startswith("$") and answer.endswith("$"):
        answer = answer[1:-1]
    for command in ("boxed{", "text{", "texttt{"):
        if command in answer and answer.endswith("}"):
            answer = answer[:-1].split(command, 2)[1]
    return answer
