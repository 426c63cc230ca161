r"""Compare two normalized mathematical answers by the rules of Qwen2.5-Math's grader.

Source: ``evaluation/grader.py`` of https://github.com/QwenLM/Qwen2.5-Math. Numbers are equal within a relative
difference of 1e-4, also if one of them is a percentage of the other. Tuples and matrices are compared entry by entry,
everything else as expressions. latex2sympy2-extended parses LaTeX.
"""

from __future__ import annotations

import math
import re
from typing import Any, Final

from latex2sympy2_extended import latex2sympy
from sympy import Eq, MatrixBase, N, simplify

RELATIVE_TOLERANCE: Final = 1e-4
_MATRIX: Final = re.compile(r"\\begin\{pmatrix\}(.*)\\end\{pmatrix\}")
_LETTER: Final = re.compile(r"\b[A-E]\b")
_DEEPEST: Final = 20


def qwen_equal(gold: str, answer: str) -> bool:
    r"""Return whether a normalized answer equals a normalized reference.

    >>> qwen_equal("50", "0.5"), qwen_equal("33.3", "\\frac{100}{3}"), qwen_equal("(1,2)", "(1,2.0)")
    (True, False, True)
    """
    return _equal(gold.strip(), answer.strip(), _DEEPEST)


def _equal(gold: str, answer: str, levels: int) -> bool:
    if not answer or levels == 0:
        return False
    if answer.lower() == gold.lower():
        return True
    if gold in tuple("ABCDE") and (letters := _LETTER.findall(answer.upper())) and letters[-1] == gold:
        return True
    gold_number, answer_number = _number(gold), _number(answer)
    if gold_number is not None and answer_number is not None:
        return any(_close(answer_number, value) for value in (gold_number / 100, gold_number, gold_number * 100))
    if _without_brackets(answer) == _without_brackets(gold):
        return True
    if (pairs := _entries(gold, answer)) is not None and all(_equal(*pair, levels - 1) for pair in pairs):
        return True
    return _as_equations(gold, answer, levels)


def _number(text: str) -> float | None:
    text = text.replace(",", "")
    percent = text.endswith("%")
    try:
        return float(text.removesuffix("%").removesuffix("\\")) / (100 if percent else 1)
    except ValueError:
        return None


def _close(answer: float, gold: float) -> bool:
    return math.isclose(answer, gold, rel_tol=RELATIVE_TOLERANCE)


def _without_brackets(text: str) -> str:
    return text.strip("[]").translate(str.maketrans("", "", "{}()")).lower()


def _entries(gold: str, answer: str) -> list[tuple[str, str]] | None:
    """Return the pairs of entries of two tuples or matrices of one shape; None for anything else."""
    matrices = [_MATRIX.fullmatch(text) for text in (gold, answer)]
    if matrices[0] and matrices[1]:
        rows = [[row.split("&") for row in found.group(1).split("\\\\") if row.strip()] for found in matrices if found]
        if [len(row) for row in rows[0]] != [len(row) for row in rows[1]]:
            return None
        parts = [[entry for row in matrix for entry in row] for matrix in rows]
    elif all(len(text) > 2 and text[0] in "([" and text[-1] in ")]" for text in (gold, answer)):
        parts = [text[1:-1].split(",") for text in (gold, answer)]
    else:
        return None
    if len(parts[0]) != len(parts[1]):
        return None
    return [(one.strip(), other.strip()) for one, other in zip(*parts, strict=True)]


def _as_equations(gold: str, answer: str, levels: int) -> bool:
    counts = gold.count("="), answer.count("=")
    if counts == (1, 1):
        difference, other = (f"{left.strip()} - ({right.strip()})" for left, right in _sides(gold, answer))
        return _symbolic(difference, other) or _symbolic(difference, f"-({other})")
    if counts == (0, 1) and len(answer.partition("=")[0].strip()) <= 2:
        return _equal(gold, answer.partition("=")[2].strip(), levels - 1)
    if counts == (1, 0) and len(gold.partition("=")[0].strip()) <= 2:
        return _equal(gold.partition("=")[2].strip(), answer, levels - 1)
    return _symbolic(gold, answer)


def _sides(*equations: str) -> list[tuple[str, str]]:
    return [(left, right) for left, _, right in (equation.partition("=") for equation in equations)]


def _symbolic(gold: str, answer: str) -> bool:
    one, other = _expression(gold), _expression(answer)
    if one is None or other is None:
        return False
    return any(_holds(test, one, other) for test in (_identical, _simplified, _equation, _numeric, _matrix))


def _expression(text: str) -> Any:
    try:
        return latex2sympy(text)
    except Exception:  # the parser may raise any exception
        return None


def _holds(test: Any, one: Any, other: Any) -> bool:
    try:
        return bool(test(one, other))
    except Exception:  # expressions of other kinds have no difference, no value or no sides
        return False


def _identical(one: Any, other: Any) -> bool:
    return one == other or str(one) == str(other)


def _simplified(one: Any, other: Any) -> bool:
    return bool(one.equals(other)) or simplify(one - other) == 0


def _equation(one: Any, other: Any) -> bool:
    return isinstance(one, Eq) and bool(abs(one.lhs - one.rhs).equals(abs(other.lhs - other.rhs)))


def _numeric(one: Any, other: Any) -> bool:
    return _close(float(N(other)), float(N(one)))


def _matrix(one: Any, other: Any) -> bool:
    return (
        isinstance(one, MatrixBase)
        and one.shape == other.shape
        and all(_numeric(*pair) for pair in zip(one, other, strict=True))
    )
