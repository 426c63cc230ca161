"""Render quantities as ``{{convert}}`` does, without the conversion in parentheses.

The template rounds the converted value by rules that depend on the input's digits. The author's number is exact, and
the parenthesis is not part of the sentence. A call that is not fully understood gives the mark of arguments that are
not understood, never a part of the quantity.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass, replace
from typing import Final

from megatron_pz.wikitext.marks import FRACTION, UNREAD
from megatron_pz.wikitext.templates.numbers import localized
from megatron_pz.wikitext.templates.parameters import (
    Parameters,
    in_groups,
    knows,
    positional,
    small_number,
    superscript,
)
from megatron_pz.wikitext.templates.unit_codes import LONGEST, METRE_OR_LITRE, Unit, unit_of

_JOINTS: Final = {
    "to": " to ", "-": "–", "–": "–", "and": " and ", "&": " and ", "or": " or ", "x": " by ", "×": " by ",
    "by": " by ", "*": " × ", "xx": " × ", "to(-)": " to ", "and(-)": " and ", "+/-": " ± ", "+/−": " ± ", "±": " ± ",
    "+": " + ", "to about": " to about ", ",": ", ", ", and": ", and ", ",and": ", and ", ", or": ", or ",
    ",or": ", or ", "and(0)": " and ", "by(x)": " by ", "and ": " and ", "/": "/", "then": " then ",
}  # fmt: skip
_HYPHENATED: Final = (" to ", " by ", " or ")
_REPEATING: Final = ("x", "×")
"""Joints written as a word with a spelled unit; a short unit follows each number: 3 by 4 feet, 3 ft × 4 ft."""
_UNIT_TWICE: Final = "\0"
"""Placeholder for a short unit and the sign after it, until the unit is read."""
_FRACTION: Final = r"(?:\d+(?:\+|\s|-)?)?\d+(?://?|⁄)\d+"
_WHOLE_FRACTION: Final = re.compile(_FRACTION)
_ONLY_FRACTION: Final = re.compile(r"\d+(?://?|⁄)\d+")
_POWER: Final = re.compile(r"(.*\d)[eE]\+?([-−]?\d+)")
_WHOLE_NUMBER: Final = r"(?:\d+|\d{1,3}(?:,\d{2,3})*,\d{3})"
_NUMBER: Final = re.compile(rf"[+\-−–±~]?(?:{_FRACTION}|(?:{_WHOLE_NUMBER}(?:\.\d+)?|\.\d+)(?:[eE][+\-−]?\d+)?)$")
_JOINED_NUMBERS: Final = re.compile(r"([\d.,/+]+)\s*([-–x×±])\s*([\d.,/+]+)$")
_WHOLE_PART: Final = re.compile(r"(?<![\d.,/])\d{4,}(?![\d,/])")
_NUMBER_WORDS: Final = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
).split()
_TENS: Final = "twenty thirty forty fifty sixty seventy eighty ninety".split()
_CURRENCIES: Final = tuple("$£€¥₹")
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
"""Units that a smaller unit may follow in the same quantity: feet and inches, pounds and ounces."""
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
"""Keys of the parameters that do not affect the text after the number."""


_WORD_JOINTS: Final = {" to ": "–", " by ": " × "}
_ENGLISH_WORD: Final = re.compile(r"[a-z]{4,}| (?:and|or) ")


def local_quantity(parameters: dict[str, str], language: str) -> str:
    """Render a quantity on a wiki of another language, with a unit's sign instead of an English word."""
    if parameters.get("abbr") != "values":
        parameters["abbr"] = "on"
    shown = _read(parameters)
    for word, sign in _WORD_JOINTS.items():
        shown = shown.replace(word, sign)
    return UNREAD if _ENGLISH_WORD.search(shown) else localized(shown, language)


def quantity(parameters: Parameters) -> str:
    """Render ``{{convert|10|to|15|km|mi}}`` -> 10 to 15 kilometres; ``{{convert|5|ft|6|in|m}}`` -> 5 feet 6 inches."""
    if parameters.get("0") == "cvt" and not parameters.get("abbr"):
        parameters = {**parameters, "abbr": "on"}
    number = parameters.get("1", "")
    if not number.isdecimal() or parameters.get("spell"):
        return _read(parameters)
    others = tuple([pair for pair in parameters.items() if pair[0] not in _NOT_SHOWN])
    behind = _behind_number(number == "1", others)
    if behind is None:
        return UNREAD
    return grouped(number, behind.commas) + behind.text if behind.begins_with_number else _read(parameters)


@dataclass(frozen=True)
class _Behind:
    text: str
    commas: bool
    begins_with_number: bool


@functools.lru_cache(maxsize=8192)
def _behind_number(is_one: bool, others: tuple[tuple[str, str], ...]) -> _Behind | None:
    """Render the arguments after a first whole number; cached, because most calls use the same few units."""
    number = "1" if is_one else "2"
    parameters = {"1": number, **dict(others)}
    style, shown = _style_of(parameters), _read(parameters)
    if style is None or shown == UNREAD:
        return None
    return _Behind(shown.removeprefix(number), style.commas, shown.startswith(number))


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
    if values[position][:1] in _CURRENCIES:
        return _price(text, values[position:], parameters.get("$", ""), style)
    while True:
        unit = unit_of(values[position])
        if unit is None:
            return UNREAD
        if style.shows_units:
            shown = _shown_unit(unit, style, (is_single and last in ("1", "-1", "−1")) or _is_below_one(last))
            text = text.replace(_UNIT_TWICE, f"{shown} × ") + shown
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
    text = text[:1].upper() + text[1:] if parameters.get("spell", "")[:1].isupper() else text
    return text if _is_output(middle) else UNREAD


def _price(number: str, codes: list[str], sign: str, style: _Style) -> str:
    """Render money per unit: ``5|$/lb`` -> $5 per pound."""
    unit = unit_of(codes[0][2:])
    if unit is None or codes[0][1:2] != "/" or style.is_adjective or not (style.shows_units and _is_output(codes[1:])):
        return UNREAD
    return f"{sign or codes[0][0]}{number}" + (f"/{unit.sign}" if style.is_short else f" per {unit.one}")


@dataclass(frozen=True)
class _Style:
    is_short: bool
    shows_units: bool
    adjective: str
    commas: bool
    american: bool
    spells_numbers: bool = False

    @property
    def is_adjective(self) -> bool:
        return self.adjective in ("on", "mid")


def _style_of(parameters: Parameters) -> _Style | None:
    """Parse the display style of the quantity; return None if a named parameter is not understood."""
    if not knows(parameters, _KNOWN):
        return None
    return _style(*[parameters.get(name, "") for name in ("abbr", "adj", "disp", "sing", "comma", "sp", "spell")])


@functools.lru_cache(maxsize=4096)
def _style(
    short: str, adjective: str, display: str, singular: str, comma: str, spelling: str, spelled: str
) -> _Style | None:
    is_table = display.startswith("table")
    if (
        short not in (*_SHORT, *_SPELLED, "values")
        or adjective not in ("", "on", "off", "mid", "nocat", "flip")
        or not (display in _SILENT_DISPLAYS or is_table)
        or singular.casefold() == "pre"
        or spelled.casefold() not in ("", "in", "on", "us")
    ):
        return None
    return _Style(
        is_short=short in _SHORT or is_table,
        shows_units=short != "values",
        adjective=adjective or ("on" if singular in ("on", "yes") else ""),
        commas=comma not in ("off", "gaps"),
        american=spelling.casefold() == "us",
        spells_numbers=spelled != "" and short not in _SHORT,
    )


def _positional(parameters: Parameters) -> list[str]:
    values = [
        value if value.isalnum() else " ".join(value.replace(FRACTION, " ").split()) for value in positional(parameters)
    ]
    while values and not values[-1]:
        values.pop()
    return values


def _read_numbers(values: list[str], style: _Style) -> tuple[str, bool, int] | None:
    """Parse the numbers before the unit; return them as shown, whether there is only one, and the unit's index."""
    text, position = _shown_number(values[0], style), 1
    is_single = values[0].isdecimal() or _JOINED_NUMBERS.match(values[0]) is None
    while position < len(values) and values[position] in _JOINTS:
        joint = _UNIT_TWICE if style.is_short and values[position] in _REPEATING else _JOINTS[values[position]]
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
    if len(text) > LONGEST:
        return False
    if joined := _JOINED_NUMBERS.match(text):
        return bool(_NUMBER.match(text)) or (_is_number(joined[1]) and _is_number(joined[3]))
    return bool(_NUMBER.match(text))


def _shown_number(number: str, style: _Style) -> str:
    if style.spells_numbers and (words := in_words(number)):
        return words
    if number[:1] in "-–":
        return "−" + _shown_number(number[1:], style)
    if number[:1] == ".":
        return _shown_number(f"0{number}", style)
    if number.isdecimal():
        return grouped(number, style.commas) if len(number) > 3 else number
    if _WHOLE_FRACTION.fullmatch(number.lstrip("-−–+")):
        sign = number[0] if number[0] == "−" else ""
        return sign + re.sub(r"(?<=\d)[+-](?=\d)", " ", number[len(sign) :]).replace("//", "/").replace("⁄", "/")
    if joined := _JOINED_NUMBERS.match(number):
        joint = "–" if joined[2] in "-–" else f" {joined[2].replace('x', '×')} "
        return joint.join(_shown_number(joined[part], style) for part in (1, 3))
    if power := _POWER.fullmatch(number):
        return f"{power[1]}×10{superscript(power[2])}"
    return grouped(number, style.commas)


def in_words(number: str) -> str:
    """Spell out a whole number below 100; return an empty string for any other.

    >>> in_words("7"), in_words("42"), in_words("1.5")
    ('seven', 'forty-two', '')
    """
    value = small_number(number)
    if value is None or value >= 100:
        return ""
    if value < len(_NUMBER_WORDS):
        return _NUMBER_WORDS[value]
    tens, ones = divmod(value, 10)
    return _TENS[tens - 2] + (f"-{_NUMBER_WORDS[ones]}" if ones else "")


def _is_below_one(number: str) -> bool:
    return _ONLY_FRACTION.fullmatch(number.lstrip("-−–")) is not None


@functools.lru_cache(maxsize=4096)
def _shown_unit(unit: Unit, style: _Style, is_one: bool) -> str:
    if style.is_short and unit.is_word:
        style = replace(style, is_short=False)
    if style.is_short or unit.is_temperature:
        return f" {unit.sign}" if not unit.sign.startswith("/") else unit.sign
    name = unit.one if is_one or style.is_adjective else unit.several
    if style.is_adjective and unit.adjective:
        name = unit.adjective
    if style.american:
        name = METRE_OR_LITRE.sub("er", name).replace("tonne", "metric ton").replace("deca", "deka")
    return f"-{name.replace(' ', '-')}" if style.is_adjective else f" {name}"


def _is_output(arguments: list[str]) -> bool:
    """Return whether the arguments after the input's unit are an output unit, which is not shown, and a precision."""
    return len(arguments) <= 2 and not any(map(_is_number, arguments[:-1]))


def grouped(number: str, commas: bool) -> str:
    """Render 1300 as 1,300, as the template does."""
    if not commas or not number.isascii():
        return number
    return _WHOLE_PART.sub(lambda whole: in_groups(whole[0].lstrip("0") or "0"), number)
