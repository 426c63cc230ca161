"""Render sums of money, shares, heights, gauges, ordinal and spelled numbers, and coordinates."""

from __future__ import annotations

import re
from typing import Final

from megatron_pz.wikitext.language_data import ENGLISH, language_file
from megatron_pz.wikitext.marks import DROPPED, UNREAD
from megatron_pz.wikitext.templates.expressions import value_of
from megatron_pz.wikitext.templates.parameters import Parameters, Render, first, knows, positional, second, unless_empty
from megatron_pz.wikitext.templates.quantities import NUMBER
from megatron_pz.wikitext.templates.units import grouped, in_words

_CURRENCY_SIGNS: Final = {name: sign for sign, names in language_file("en")["currencies"].items() for name in names}


def money(parameters: Parameters) -> str:
    """Render ``{{GBP|100}}`` -> £100; ``{{US$}}`` shows only the sign."""
    if second(parameters) or not knows(parameters, ("link", "long", "round", "year", "first", "about", "lk")):
        return UNREAD
    return (_CURRENCY_SIGNS[parameters["0"]] + grouped(first(parameters), parameters.get("@") in ENGLISH)).rstrip()


def money_in_currency(parameters: Parameters) -> str:
    """Render ``{{currency|100|GBP}}`` -> £100."""
    sign = _CURRENCY_SIGNS.get((second(parameters) or parameters.get("type", "")).casefold())
    amount = first(parameters) or parameters.get("amount", "")
    known = ("amount", "type", "linked", "link", "first", "passthrough", "fmt")
    if sign is None or not amount or not knows(parameters, known):
        return UNREAD
    return sign + grouped(amount, True)


_INDIAN_SCALES: Final = {"": "", "k": " thousand", "l": " lakh", "c": " crore", "lc": " lakh crore", "m": " million",
                         "b": " billion", "t": " trillion"}  # fmt: skip


def _indian_rupees(parameters: Parameters) -> str:
    """Render ``{{INRConvert|700|c}}`` -> ₹700 crore, without the conversion."""
    amount, scale = first(parameters), _INDIAN_SCALES.get(second(parameters))
    if scale is None or not NUMBER.match(amount):
        return UNREAD
    return f"₹{grouped(amount, True)}{scale}"


def height(parameters: Parameters) -> str:
    """Render ``{{height|ft=5|in=11}}`` -> 5 ft 11 in."""
    order = ("ft", "in", "m", "cm")
    shown = " ".join(f"{parameters[unit].replace('+', ' ')} {unit}" for unit in order if parameters.get(unit))
    ignored = ("precision", "wiki", "abbr", "out", "lk")
    return unless_empty(shown) if knows(parameters, (*order, *ignored)) else UNREAD


def musical_sign(parameters: Parameters) -> str:
    """Render ``{{music|sharp}}`` -> ♯."""
    signs = {"sharp": "♯", "flat": "♭", "natural": "♮", "#": "♯", "b": "♭", "doublesharp": "𝄪", "doubleflat": "𝄫",
             "##": "𝄪", "bb": "𝄫", "n": "♮", "dim": "o", "dimdeg": "o", "halfdim": "ø",
             "quarter": "♩", "eighth": "♪", "common-time": "𝄴", "cut-time": "𝄵", "segno": "𝄋", "coda": "𝄌",
             "fermata": "𝄐", "treble": "𝄞", "bass": "𝄢", "alto": "𝄡"}  # fmt: skip
    values = positional(parameters)
    if len(values) == 3 and values[0] == "time":
        return f"{values[1]}/{values[2]}"
    if len(values) != 1:
        return UNREAD
    return signs.get(values[0], UNREAD)


def rail_gauge(parameters: Parameters) -> str:
    """Render ``{{track gauge|1435mm}}`` -> 1,435 mm; ``{{track gauge|3ft6in}}`` -> 3 ft 6 in."""
    code = first(parameters).casefold().replace(" ", "")
    if code in ("sg", "std", "standard", "ussg", "uksg"):
        return "standard gauge" if "first" in parameters else "4 ft 8 1/2 in"
    if metric := re.fullmatch(r"([\d,.]+)mm", code):
        return f"{grouped(metric[1], True)} mm"
    feet = re.fullmatch(r"(?:(\d+)ft)?(?:(\d+)(?:\.5|(½))?in)?", code)
    if feet is None or not (feet[1] or feet[2]):
        return UNREAD
    half = " 1/2" if "½" in code or ".5" in code else ""
    return " ".join(filter(None, [feet[1] and f"{feet[1]} ft", feet[2] and f"{feet[2]}{half} in"]))


def ordinal(parameters: Parameters) -> str:
    """Render ``{{ordinal|22}}`` -> 22nd."""
    number = first(parameters)
    if not number.isdecimal():
        return UNREAD
    end = "th" if number[-2:] in ("11", "12", "13") else {"1": "st", "2": "nd", "3": "rd"}.get(number[-1], "th")
    return number + end


def percentage(parameters: Parameters) -> str:
    """Render ``{{percentage|1|3|1}}`` -> 33.3%."""
    part, whole = first(parameters), second(parameters)
    digits = parameters.get("3", "") or "0"
    if not re.fullmatch(r"\d", digits) or not knows(parameters, ()):
        return UNREAD
    value = value_of(f"100 * ({part}) / ({whole})") and value_of(f"100 * ({part}) / ({whole}) round {digits}")
    return f"{float(value):.{digits}f}%" if value else UNREAD


def spelled_number(parameters: Parameters) -> str:
    """Render ``{{spellnum|42}}`` -> forty-two."""
    return (in_words(first(parameters)) if knows(parameters, ()) else "") or UNREAD


def plus_minus(parameters: Parameters) -> str:
    """Render ``{{±|5}}`` -> ±5, ``{{±|5|2}}`` -> +5/−2."""
    values = positional(parameters)
    return f"+{values[0]}/−{values[1]}" if len(values) == 2 else f"±{first(parameters)}"


def coordinates(parameters: Parameters) -> str:
    """Render ``{{coord|13|19|N|169|9|W}}`` -> 13°19′N 169°9′W; nothing if they are shown only in the page's title."""
    display = parameters.get("display", "").replace(" ", "").casefold()
    if display in ("title", "titre", "t", "ti"):
        return DROPPED
    values = [part for part in positional(parameters) if ":" not in part and part]
    half = len(values) // 2
    if len(values) in (4, 6, 8) and values[half - 1] in ("N", "S") and values[-1] in ("E", "W", "O"):
        angles = [_angle(values[:half]), _angle(values[half:])]
    elif len(values) == 2:
        angles = [_signed_angle(values[0], "NS"), _signed_angle(values[1], "EW")]
    else:
        return UNREAD
    return UNREAD if None in angles else " ".join(filter(None, angles))


def _angle(parts: list[str]) -> str | None:
    *numbers, direction = parts
    if not all(re.fullmatch(r"\d+(?:\.\d+)?", number) for number in numbers):
        return None
    return "".join(number + sign for number, sign in zip(numbers, "°′″", strict=False)) + direction


def _signed_angle(number: str, directions: str) -> str | None:
    if not re.fullmatch(r"[+\-−]?\d+(?:\.\d+)?", number):
        return None
    return f"{number.lstrip('+-−')}°{directions[number[0] in '-−']}"


FUNCTIONS: dict[str, Render] = {
    "money": money,
    "money_in_currency": money_in_currency,
    "indian_rupees": _indian_rupees,
    "height": height,
    "musical_sign": musical_sign,
    "rail_gauge": rail_gauge,
    "ordinal": ordinal,
    "plus_minus": plus_minus,
    "percentage": percentage,
    "spelled_number": spelled_number,
    "coordinates": coordinates,
}
