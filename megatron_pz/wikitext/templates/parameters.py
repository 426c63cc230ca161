"""Parameters of a template, the usual ways to show them, and raised and lowered text."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

Parameters = Mapping[str, str]
"""Positional parameters under "1", "2", …; named ones under their names. Values are stripped."""
Render = Callable[[Parameters], str]

_SUPERSCRIPTS = str.maketrans("0123456789+-−–=()n", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁻⁻⁼⁽⁾ⁿ")
_SUBSCRIPTS = str.maketrans("0123456789+-−–=()", "₀₁₂₃₄₅₆₇₈₉₊₋₋₋₌₍₎")
_RAISABLE = re.compile(r"[0-9+\-−–=()n]*$")
_LOWERABLE = re.compile(r"[0-9+\-−–=()]*$")


def renderers(*entries: tuple[str, Render]) -> dict[str, Render]:
    """Renderers by normalised name. An entry has several names with ``|`` between them."""
    return {name: render for names, render in entries for name in names.split("|")}


def superscript(text: str) -> str:
    """``10<sup>6</sup>`` must not become 106: digits and signs are raised, other text is left as it is."""
    return text.translate(_SUPERSCRIPTS) if _RAISABLE.match(text) else text


def subscript(text: str) -> str:
    return text.translate(_SUBSCRIPTS) if _LOWERABLE.match(text) else text


def positional(parameters: Parameters) -> list[str]:
    """The positional parameters up to the first that is missing."""
    values: list[str] = []
    while (value := parameters.get(str(len(values) + 1))) is not None:
        values.append(value)
    return values


def first(parameters: Parameters) -> str:
    return parameters.get("1", "")


def second(parameters: Parameters) -> str:
    return parameters.get("2", "")


def last(parameters: Parameters) -> str:
    return (positional(parameters) or [""])[-1]


def everything(separator: str) -> Render:
    return lambda parameters: separator.join(value for value in positional(parameters) if value)


def constant(text: str) -> Render:
    return lambda parameters: text


def around(before: str, after: str = "") -> Render:
    """The first parameter between two fixed strings; nothing where it is empty."""
    return lambda parameters: f"{before}{first(parameters)}{after}" if first(parameters) else ""


def either(*names: str) -> Render:
    """The first of these parameters that is not empty."""
    return lambda parameters: next((parameters[name] for name in names if parameters.get(name)), "")
