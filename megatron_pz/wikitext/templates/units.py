"""Show quantities as ``{{convert}}`` does, without the conversion in parentheses.

The template rounds the converted value by rules that depend on the input's digits. The number that the author wrote is
exact, and the parenthesis is no part of the sentence. Codes of units mind the case of letters (documentation:
https://en.wikipedia.org/wiki/Template:Convert/list_of_units); the table is ``data/units/en.toml``. A call that is not
understood to its end gives the mark of arguments that are not understood, never a part of the quantity.
"""

from __future__ import annotations

import functools
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from megatron_pz.wikitext.marks import FRACTION, UNREAD
from megatron_pz.wikitext.templates.parameters import Parameters, in_groups, knows, positional, superscript

_JOINTS: Final = {
    "to": " to ", "-": "–", "–": "–", "and": " and ", "&": " and ", "or": " or ", "x": " × ", "×": " × ", "by": " by ",
    "*": " × ", "to(-)": " to ", "and(-)": " and ", "+/-": " ± ", "±": " ± ", "+": " + ", "to about": " to about ",
    "xx": " × ", ",": ", ", ", and": ", and ", ",and": ", and ", ", or": ", or ", ",or": ", or ", "and(0)": " and ",
    "+/−": " ± ", "by(x)": " by ", "and ": " and ", "/": "/", "then": " then ",
}  # fmt: skip
_HYPHENATED: Final = (" to ", " by ", " or ")
_FRACTION: Final = r"(?:\d+(?:\+|\s|-)?)?\d+(?://?|⁄)\d+"
_WHOLE_FRACTION: Final = re.compile(_FRACTION)
_ONLY_FRACTION: Final = re.compile(r"\d+(?://?|⁄)\d+")
_POWER: Final = re.compile(r"(.*\d)[eE]\+?([-−]?\d+)")
_METRE_OR_LITRE: Final = re.compile(r"(?<=met)re|(?<=lit)re")
_NUMBER: Final = re.compile(rf"[+\-−–±~]?(?:{_FRACTION}|(?:\d[\d,]*(?:\.\d+)?|\.\d+)(?:[eE][+\-−]?\d+)?)$")
_JOINED_NUMBERS: Final = re.compile(r"([\d.,/+]+)\s*([-–x×±])\s*([\d.,/+]+)$")
_WHOLE_PART: Final = re.compile(r"(?<![\d.,/])\d{4,}(?![\d,/])")
_LONGEST: Final = 60
"""Characters of a number that is not all digits, and of a unit's code. Reading takes quadratic time or recurs."""
_SCALES: Final = {"3": "thousand", "6": "million", "9": "billion", "12": "trillion"}
_SHORT: Final = ("on", "in", "y", "yes")
_SPELLED: Final = ("", "off", "out", "none", "no")
_PARTS: Final = (
    "ft",
    "foot",
    "feet",
    "lb",
    "st",
    "mi",
    "yd",
    "lt",
    "LT",
    "cwt",
    "chain",
    "furlong",
    "mile",
    "h",
    "hour",
)
"""Units that a smaller unit may follow as a part of the same quantity: feet and inches, pounds and ounces."""
_SILENT_DISPLAYS: Final = (
    "",
    "or",
    "b",
    "sqbr",
    "comma",
    "/",
    "br",
    "br()",
    "semicolon",
    "s",
    "flip",
    "slash",
    "x",
    "cen",
)
_KNOWN: Final = frozenset(
    "abbr adj comma disp lk order sp sigfig round spell sing near cat sortable frac wiki nowrap qid link debug disp "
    "warn $ input opt stylein styleout tracking adj2 space".split()
)


_NOT_SHOWN: Final = ("0", "1", "<", "@")
"""Keys of the parameters that do not bear on what follows the number."""


@dataclass(frozen=True)
class Unit:
    """A unit's sign and its names."""

    sign: str
    one: str
    several: str
    is_temperature: bool = False


def quantity(parameters: Parameters) -> str:
    """``{{convert|10|to|15|km|mi}}`` -> 10 to 15 kilometres; ``{{convert|5|ft|6|in|m}}`` -> 5 feet 6 inches."""
    number = parameters.get("1", "")
    if not number.isdecimal():
        return _read(parameters)
    others = tuple([pair for pair in parameters.items() if pair[0] not in _NOT_SHOWN])
    behind = _behind_number(number == "1", others)
    return UNREAD if behind is None else grouped(number, behind.commas) + behind.text


@dataclass(frozen=True)
class _Behind:
    text: str
    commas: bool


@functools.lru_cache(maxsize=8192)
def _behind_number(is_one: bool, others: tuple[tuple[str, str], ...]) -> _Behind | None:
    """Render what follows a first whole number, which most calls have: the same few units over and over."""
    number = "1" if is_one else "2"
    parameters = {"1": number, **dict(others)}
    style, shown = _style_of(parameters), _read(parameters)
    return None if style is None or shown == UNREAD else _Behind(shown.removeprefix(number), style.commas)


def _read(parameters: Parameters) -> str:
    values = _positional(parameters)
    style = _style_of(parameters)
    if style is None or not values or not _is_number(values[0]):
        return UNREAD
    read = _read_numbers(values, style)
    if read is None:
        return UNREAD
    text, is_single, position = read
    last = values[position - 1]
    while True:
        unit = unit_of(values[position])
        if unit is None:
            return UNREAD
        if style.shows_units:
            text += _shown_unit(unit, style, (is_single and last in ("1", "-1", "−1")) or _is_below_one(last))
        rest = values[position + 1 : position + 3]
        compound = len(rest) == 2 and _is_number(rest[0]) and unit_of(rest[1]) is not None
        if not compound or values[position] not in _PARTS:
            break
        last, is_single = rest[0], True
        text += ("-" if style.is_adjective and not style.is_short else " ") + _shown_number(last, style)
        position += 2
    middle = values[position + 1 :]
    if style.adjective == "mid":
        if not middle or unit_of(middle[-1]) is not None or middle[-1].isdecimal():
            return UNREAD
        return f"{text}{middle[-1]}" if middle[-1][0] == "-" else f"{text} {middle[-1]}"
    return text if _is_output(middle) else UNREAD


@dataclass(frozen=True)
class _Style:
    is_short: bool
    shows_units: bool
    adjective: str
    commas: bool
    american: bool

    @property
    def is_adjective(self) -> bool:
        return self.adjective in ("on", "mid")


def _style_of(parameters: Parameters) -> _Style | None:
    """Read how the template is to show the quantity; None where a named parameter is not understood."""
    if not knows(parameters, _KNOWN):
        return None
    return _style(*[parameters.get(name, "") for name in ("abbr", "adj", "disp", "sing", "comma", "sp")])


@functools.lru_cache(maxsize=4096)
def _style(short: str, adjective: str, display: str, singular: str, comma: str, spelling: str) -> _Style | None:
    is_table = display.startswith("table")
    if (
        short not in (*_SHORT, *_SPELLED, "values")
        or adjective not in ("", "on", "off", "mid", "nocat", "flip")
        or not (display in _SILENT_DISPLAYS or is_table)
        or singular.casefold() == "pre"
    ):
        return None
    return _Style(
        is_short=short in _SHORT or is_table,
        shows_units=short != "values",
        adjective=adjective or ("on" if singular in ("on", "yes") else ""),
        commas=comma not in ("off", "gaps"),
        american=spelling.casefold() == "us",
    )


def _positional(parameters: Parameters) -> list[str]:
    values = [
        value if value.isalnum() else " ".join(value.replace(FRACTION, " ").split()) for value in positional(parameters)
    ]
    while values and not values[-1]:
        values.pop()
    return values


def _read_numbers(values: list[str], style: _Style) -> tuple[str, bool, int] | None:
    """Read the numbers in front of the unit: as shown, whether there is one only, and where the unit stands."""
    text, position = _shown_number(values[0], style), 1
    is_single = values[0].isdecimal() or _JOINED_NUMBERS.match(values[0]) is None
    while position < len(values) and values[position] in _JOINTS:
        joint = _JOINTS[values[position]]
        position += 1
        while position < len(values) and values[position] in _JOINTS:  # 3|,|4|,|and|5
            joint = joint.rstrip() + _JOINTS[values[position]]
            position += 1
        if position >= len(values) or not _is_number(values[position]):
            return None
        if style.is_adjective and not style.is_short and joint in _HYPHENATED:
            joint = joint.replace(" ", "-")
        text += joint + _shown_number(values[position], style)
        position += 1
        is_single = False
    return (text, is_single, position) if position < len(values) else None


def _is_number(text: str) -> bool:
    if text.isdecimal():
        return True
    if len(text) > _LONGEST:
        return False
    if joined := _JOINED_NUMBERS.match(text):
        return bool(_NUMBER.match(text)) or (_is_number(joined[1]) and _is_number(joined[3]))
    return bool(_NUMBER.match(text))


def _shown_number(number: str, style: _Style) -> str:
    if number.isdecimal():
        return grouped(number, style.commas) if len(number) > 3 else number
    if _WHOLE_FRACTION.fullmatch(number.lstrip("-−–+")):
        sign = number[0] if number[0] in "-−–" else ""
        return sign + re.sub(r"(?<=\d)[+-](?=\d)", " ", number[len(sign) :]).replace("//", "/").replace("⁄", "/")
    if joined := _JOINED_NUMBERS.match(number):
        joint = "–" if joined[2] in "-–" else f" {joined[2].replace('x', '×')} "
        return joint.join(_shown_number(joined[part], style) for part in (1, 3))
    if power := _POWER.fullmatch(number):
        return f"{power[1]}×10{superscript(power[2])}"
    return grouped(number, style.commas)


def _is_below_one(number: str) -> bool:
    return _ONLY_FRACTION.fullmatch(number) is not None


@functools.lru_cache(maxsize=4096)
def _shown_unit(unit: Unit, style: _Style, is_one: bool) -> str:
    if style.is_short or unit.is_temperature:
        return f" {unit.sign}" if not unit.sign.startswith("/") else unit.sign
    name = unit.one if is_one or style.is_adjective else unit.several
    if style.american:
        name = _METRE_OR_LITRE.sub("er", name).replace("tonne", "metric ton").replace("deca", "deka")
    return f"-{name.replace(' ', '-')}" if style.is_adjective else f" {name}"


def _is_output(arguments: list[str]) -> bool:
    """Return whether the arguments behind the input's unit are an output unit, which is not shown, and a precision."""
    return len(arguments) <= 2 and not any(map(_is_number, arguments[:-1]))


@functools.cache
def _table() -> Mapping[str, Mapping[str, Any]]:
    path = Path(__file__).parents[1] / "data" / "units" / "en.toml"
    return tomllib.loads(path.read_text(encoding="utf-8"))


@functools.lru_cache(maxsize=4096)
def unit_of(code: str) -> Unit | None:
    """Find the unit of a code, whose letters' case counts; None for an unknown one.

    >>> unit_of("kN").one, unit_of("kn").one, unit_of("e6m3").several
    ('kilonewton', 'knot', 'million cubic metres')
    """
    if len(code) > _LONGEST:
        return None
    table = _table()
    if sign := table["temperatures"].get(code):
        return Unit(sign, sign, sign, is_temperature=True)
    if names := table["others"].get(code):
        return Unit(*names)
    if scale := re.fullmatch(r"e(3|6|9|12)(.+)", code):
        if (unit := unit_of(scale[2])) is None or unit.is_temperature:
            return None
        word = _SCALES[scale[1]]
        return Unit(f"{word} {unit.sign}", f"{word} {unit.several}", f"{word} {unit.several}")
    if unit := _metric_unit(code) or _power_unit(code):
        return unit
    above, slash, below = code.partition("/")
    if slash and above and (upper := unit_of(above)) and (lower := unit_of(below)):
        if upper.is_temperature or lower.is_temperature:
            return None
        per = f" per {lower.one}"
        return Unit(f"{upper.sign}/{lower.sign}", upper.one + per, upper.several + per)
    return None


def _metric_unit(code: str) -> Unit | None:
    """Find a metric unit with or without a prefix."""
    table = _table()
    if names := table["metric"].get(code):
        return Unit(*names)
    for length in (1, 2):
        prefix, names = table["prefixes"].get(code[:length]), table["metric"].get(code[length:])
        if (
            prefix
            and names
            and code[length:] not in ("s", "tonne")
            and (code[length:] not in ("t",) or code[0] in "kMG")
        ):
            sign = "μ" if prefix == "micro" else code[:length]
            return Unit(sign + names[0], prefix + names[1], prefix + names[2])
    return None


def _power_unit(code: str) -> Unit | None:
    """Find a square or cubic length: ``km2``, ``sqmi``, ``cuft``, ``ft3``."""
    table = _table()
    if code[:2] in ("sq", "cu"):
        names = table["lengths"].get(code[2:])
        if names:
            word = "square" if code[0] == "s" else "cubic"
            return Unit(f"{code[:2]} {names[0]}", f"{word} {names[1]}", f"{word} {names[2]}")
    if code[-1:] in ("2", "3"):
        base = table["lengths"].get(code[:-1])
        word = "square" if code[-1] == "2" else "cubic"
        if base and base[0] != "m":
            short = "sq" if code[-1] == "2" else "cu"
            return Unit(f"{short} {base[0]}", f"{word} {base[1]}", f"{word} {base[2]}")
        unit = _metric_unit(code[:-1])
        if unit and unit.one.endswith("metre"):
            return Unit(unit.sign + "²³"[code[-1] == "3"], f"{word} {unit.one}", f"{word} {unit.several}")
    return None


def grouped(number: str, commas: bool) -> str:
    """1300 -> 1,300, as the template shows it."""
    if not commas or not number.isascii():
        return number
    return _WHOLE_PART.sub(lambda whole: in_groups(whole[0].lstrip("0") or "0"), number)
