"""Quantities as ``{{convert}}`` shows them, without the conversion in parentheses.

The template rounds the converted value by rules that depend on the input's digits; showing the number that the author
wrote is exact, and the parenthesis is no part of the sentence.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

_RANGES = {
    "to": " to ", "-": "–", "–": "–", "and": " and ", "&": " and ", "or": " or ", "x": " × ", "×": " × ", "by": " by ",
    "*": " × ", "to(-)": " to ", "and(-)": " and ", "+/-": " ± ", "±": " ± ", "to about": " to about ", "xx": " × ",
}  # fmt: skip

_NAMES = {
    "m": "metre|metres", "km": "kilometre|kilometres", "cm": "centimetre|centimetres", "mm": "millimetre|millimetres",
    "nm": "nanometre|nanometres", "μm": "micrometre|micrometres", "um": "micrometre|micrometres",
    "in": "inch|inches", "ft": "foot|feet", "foot": "foot|feet", "yd": "yard|yards", "mi": "mile|miles",
    "nmi": "nautical mile|nautical miles", "fathom": "fathom|fathoms", "furlong": "furlong|furlongs",
    "ly": "light-year|light-years", "au": "astronomical unit|astronomical units", "pc": "parsec|parsecs",
    "m2": "square metre|square metres", "km2": "square kilometre|square kilometres",
    "cm2": "square centimetre|square centimetres", "ha": "hectare|hectares", "acre": "acre|acres",
    "sqmi": "square mile|square miles", "sqft": "square foot|square feet", "sqyd": "square yard|square yards",
    "sqin": "square inch|square inches", "m3": "cubic metre|cubic metres", "km3": "cubic kilometre|cubic kilometres",
    "cm3": "cubic centimetre|cubic centimetres", "cuft": "cubic foot|cubic feet", "cumi": "cubic mile|cubic miles",
    "cuin": "cubic inch|cubic inches", "cc": "cubic centimetre|cubic centimetres", "l": "litre|litres",
    "ml": "millilitre|millilitres", "impgal": "imperial gallon|imperial gallons", "usgal": "US gallon|US gallons",
    "oilbbl": "barrel|barrels", "acre.ft": "acre-foot|acre-feet", "acre feet": "acre-foot|acre-feet",
    "kg": "kilogram|kilograms", "g": "gram|grams", "mg": "milligram|milligrams", "t": "tonne|tonnes",
    "lb": "pound|pounds", "oz": "ounce|ounces", "st": "stone|stone", "lt": "long ton|long tons",
    "st (short)": "short ton|short tons", "ston": "short ton|short tons", "tonne": "tonne|tonnes",
    "ton": "ton|tons", "km/h": "kilometres per hour|kilometres per hour", "mph": "mile per hour|miles per hour",
    "m/s": "metre per second|metres per second", "km/s": "kilometre per second|kilometres per second",
    "ft/s": "foot per second|feet per second", "kn": "knot|knots", "knot": "knot|knots",
    "hp": "horsepower|horsepower", "bhp": "brake horsepower|brake horsepower", "kw": "kilowatt|kilowatts",
    "mw": "megawatt|megawatts", "w": "watt|watts", "kj": "kilojoule|kilojoules", "j": "joule|joules",
    "kpa": "kilopascal|kilopascals", "mpa": "megapascal|megapascals", "bar": "bar|bars",
    "psi": "pound per square inch|pounds per square inch", "atm": "atmosphere|atmospheres",
    "kn (force)": "kilonewton|kilonewtons", "lbf": "pound-force|pounds-force", "n": "newton|newtons",
    "pd/sqmi": "inhabitant per square mile|inhabitants per square mile",
    "pd/km2": "inhabitant per square kilometre|inhabitants per square kilometre",
    "/sqmi": "per square mile|per square mile", "/km2": "per square kilometre|per square kilometre",
    "cuft/s": "cubic foot per second|cubic feet per second", "m3/s": "cubic metre per second|cubic metres per second",
    "kg/m3": "kilogram per cubic metre|kilograms per cubic metre",
    "g/cm3": "gram per cubic centimetre|grams per cubic centimetre", "oilbbl/d": "barrel per day|barrels per day",
    "moilbbl/d": "million barrels per day|million barrels per day", "moilbbl": "million barrels|million barrels",
    "goilbbl": "billion barrels|billion barrels", "musgal": "million US gallons|million US gallons",
    "b/d": "barrel per day|barrels per day", "kwh": "kilowatt-hour|kilowatt-hours",
}  # fmt: skip

_SYMBOLS = {
    "c": "°C", "f": "°F", "k": "K", "°c": "°C", "°f": "°F", "c-change": "°C", "f-change": "°F",
    "m2": "m²", "km2": "km²", "cm2": "cm²", "mm2": "mm²", "m3": "m³", "km3": "km³", "cm3": "cm³",
    "sqmi": "sq mi", "sqft": "sq ft", "sqyd": "sq yd", "sqin": "sq in", "cuft": "cu ft",
    "cumi": "cu mi", "cuin": "cu in", "um": "μm", "usgal": "US gal",
    "impgal": "imp gal", "oilbbl": "bbl", "kg/m3": "kg/m³", "g/cm3": "g/cm³", "m3/s": "m³/s", "cuft/s": "cu ft/s",
    "pd/sqmi": "/sq mi", "pd/km2": "/km²", "/sqmi": "/sq mi", "/km2": "/km²", "ft": "ft", "foot": "ft", "kn": "kn",
    "km/h": "km/h", "l": "L", "ml": "mL", "kw": "kW", "mw": "MW", "w": "W", "kj": "kJ", "j": "J", "kpa": "kPa",
    "mpa": "MPa", "n": "N", "pc": "pc",
}  # fmt: skip

_ALWAYS_SYMBOLS = frozenset(["c", "f", "k", "°c", "°f", "c-change", "f-change"])


_MILLIONS = re.compile(r"e([369])(.+)")
_MILLION_NAMES = {"3": "thousand ", "6": "million ", "9": "billion "}
_WHOLE_PART = re.compile(r"(?<![\d.,/])\d{4,}(?![\d,/])")


def _is_number(text: str) -> bool:
    return bool(text) and (text[0].isdigit() or (len(text) > 1 and text[0] in "-−–+.±~" and text[1:2].isdigit()))


def _unit(code: str, value: str, parameters: Mapping[str, str], short: bool) -> str:
    if match := _MILLIONS.match(code):  # e6m3: million cubic metres
        return _MILLION_NAMES[match[1]] + _unit(match[2], "0", parameters, short)
    key = code.casefold()
    singular = (value in ("1", "-1", "−1") and "adj" not in parameters) or parameters.get("adj") in ("on", "mid", "pre")
    if key in _ALWAYS_SYMBOLS:
        return _SYMBOLS[key]
    if short or key not in _NAMES:
        return _SYMBOLS.get(key, code)
    name = _NAMES[key].split("|")[0 if singular else 1]
    if parameters.get("sp") == "us":
        name = name.replace("metre", "meter").replace("litre", "liter")
    return name


def quantity(parameters: Mapping[str, str]) -> str:
    """``{{convert|10|to|15|km|mi}}`` -> 10 to 15 kilometres; ``{{convert|5|ft|6|in|m}}`` -> 5 feet 6 inches."""
    values: list[str] = []
    while (value := parameters.get(str(len(values) + 1))) is not None:
        values.append(value)
    if not values or not _is_number(values[0]):
        return values[0] if values else ""
    short = parameters.get("abbr", "") in ("on", "in", "y", "yes")
    adjective = parameters.get("adj") in ("on", "mid", "pre")
    commas = parameters.get("comma", "") not in ("off", "gaps")
    text, position = grouped(values[0], commas), 1
    while position + 1 < len(values) and values[position] in _RANGES and _is_number(values[position + 1]):
        text += _RANGES[values[position]] + grouped(values[position + 1], commas)
        position += 2
    if position >= len(values):
        return text
    last = values[position - 1]
    while True:
        code = values[position]
        joint = "-" if adjective and not short and code.casefold() in _NAMES else " "
        text += joint + _unit(code, last, parameters, short)
        rest = values[position + 1 : position + 3]
        # A further number with its own unit belongs to the input: feet and inches, pounds and ounces.
        compound = len(rest) == 2 and _is_number(rest[0]) and not _is_number(rest[1])
        if not (compound and code.casefold() in ("ft", "foot", "lb", "st", "mi", "yd", "lt")):
            return text
        last = rest[0]
        text += f" {last}"
        position += 2


def grouped(number: str, commas: bool) -> str:
    """1300 -> 1,300, as the template shows it."""
    return _WHOLE_PART.sub(lambda whole: f"{int(whole[0]):,}", number) if commas and number.isascii() else number
