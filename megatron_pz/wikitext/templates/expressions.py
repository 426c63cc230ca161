"""Compute ``{{#expr: 5 * 300}}`` as MediaWiki's ParserFunctions do.

Only numbers, signs and parentheses are understood; functions, constants and numbers that PHP would write with an
exponent are not. See https://www.mediawiki.org/wiki/Help:Extension:ParserFunctions for the order of operators.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping
from typing import Final

_LONGEST: Final = 80
_MOST_PARENTHESES: Final = 10
"""Each one takes several frames of Python's stack, whose depth at the call is unknown."""
_TOKEN: Final = re.compile(
    r"\s*(?:(\d+(?:\.\d*)?|\.\d+)|(<=|>=|!=|<>|[-+*/^=<>()−]|\b(?:div|mod|round|and|or|not)\b))", re.I
)
_LARGEST: Final = 1e15
"""PHP writes numbers from here on, and below :data:`_SMALLEST`, with an exponent."""
_SMALLEST: Final = 1e-4


def _rounded(number: float, digits: float) -> float:
    """Round half away from zero, as PHP does."""
    scale = 10.0 ** int(digits)
    return math.copysign(math.floor(abs(number) * scale + 0.5), number) / scale


def _remainder(dividend: float, divisor: float) -> float:
    """Divide whole numbers; the remainder has the dividend's sign."""
    return math.fmod(int(dividend), int(divisor))


_Operator = Callable[[float, float], float]
_LEVELS: Final[tuple[Mapping[str, _Operator], ...]] = (
    {"or": lambda left, right: bool(left) or bool(right)},
    {"and": lambda left, right: bool(left) and bool(right)},
    {
        "=": operator.eq, "!=": operator.ne, "<>": operator.ne, "<": operator.lt, ">": operator.gt,
        "<=": operator.le, ">=": operator.ge,
    },
    {"round": _rounded},
    {"+": operator.add, "-": operator.sub},
    {"*": operator.mul, "/": operator.truediv, "div": operator.truediv, "mod": _remainder},
    {"^": lambda base, power: math.pow(base, power)},
)  # fmt: skip
"""Binary operators by increasing precedence; all are left-associative."""


class _Expression:
    """Parser of one expression by levels of precedence. Raises :class:`ValueError` if it is not understood."""

    def __init__(self, text: str) -> None:
        self._tokens: list[str] = []
        position = 0
        while position < len(text):
            token = _TOKEN.match(text, position)
            if token is None:
                raise ValueError(text)
            self._tokens.append((token[1] or token[2]).casefold().replace("−", "-"))
            position = token.end()
        self._tokens.append("")
        self._next = 0

    def value(self) -> float:
        """Compute the whole expression."""
        value = self._level(0)
        if self._tokens[self._next]:
            raise ValueError(self._tokens[self._next])
        return value

    def _take(self) -> str:
        self._next += 1
        return self._tokens[self._next - 1]

    def _level(self, level: int) -> float:
        if level == len(_LEVELS):
            return self._operand()
        value = self._level(level + 1)
        while (function := _LEVELS[level].get(self._tokens[self._next])) is not None:
            self._next += 1
            value = float(function(value, self._level(level + 1)))
        return value

    def _operand(self) -> float:
        token = self._take()
        if token == "(":
            value = self._level(0)
            if self._take() != ")":
                raise ValueError("a parenthesis without its partner")
            return value
        if token == "not":
            return float(not self._operand())
        if token in ("+", "-"):
            return self._operand() * (-1 if token == "-" else 1)
        return float(token)


def value_of(text: str) -> str:
    """Return the value of an expression, or an empty string if it is not understood.

    >>> value_of("5 * 300"), value_of("10 / 4 round 0"), value_of("1/3"), value_of("1 > 2"), value_of("2 apples")
    ('1500', '3', '0.33333333333333', '0', '')
    """
    if len(text) > _LONGEST or text.count("(") > _MOST_PARENTHESES or not text.strip():
        return ""
    try:
        number = _Expression(text.rstrip()).value()
    except (ValueError, ArithmeticError):
        return ""
    if not math.isfinite(number) or (number and not _SMALLEST <= abs(number) < _LARGEST):
        return ""
    return f"{number:.14g}" if number else "0"
