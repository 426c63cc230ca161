"""Render templates of the French Wikipedia that occur inside its sentences."""

from __future__ import annotations

import re
from typing import Final

from megatron_pz.wikitext.marks import UNREAD
from megatron_pz.wikitext.templates.numbers import local_number
from megatron_pz.wikitext.templates.parameters import (
    Parameters,
    Render,
    first,
    knows,
    positional,
    second,
    small_number,
    superscript,
    unless_empty,
)

_MONTHS: Final = "janvier février mars avril mai juin juillet août septembre octobre novembre décembre".split()
_JOINTS: Final = {"à": " à ", "et": " et ", "ou": " ou ", "–": "–", "-": "–", "x": " × ", "×": " × ", "±": "±",
                  "/": "/",                  "par": " par "}  # fmt: skip
_DIGIT = re.compile(r"\d")
_ROMAN = re.compile(r"[IVXLCDM]+$", re.IGNORECASE)
_CENTURY_JOINTS: Final = ("et", "ou", "à", "au", "-", "–", "/", ",", "et du", "ou du", "jusqu'au", "et le", "et au")
_ERA = re.compile(r"(?:av|apr|avant|après)\b")
_WRITTEN_DATE = re.compile(r"(\d{1,2}|1er)\s+(\d{1,2}|[^\W\d]+)\s+(\d{1,4})$")
_DAY = re.compile(r"\d{1,2}|1er|")
_YEAR = re.compile(r"(-?)(\d{1,4})( av\. J\.-C\.)?")
_WEEKDAYS: Final = ("lundi", "mardi", "mercredi", "jeudi", "vendredi", "samedi", "dimanche")
_METRES = re.compile(r"(?<![^\W\d_])([kcmdµ]?m)([23])\b")
_PARENTHESIS = re.compile(r"\s*\([^()]*\)$")


def french_quantity(parameters: Parameters) -> str:
    """Render ``{{unité|5,5|e=3|m}}`` -> 5,5×10³ m, ``{{unité|10|km|2}}`` -> 10 km²: a unit may have an exponent."""
    values = positional(parameters)
    if not values or not _DIGIT.search(values[0]) or not knows(parameters, ("e", *_JOINTS)):
        return UNREAD
    text = local_number(values[0], "fr")
    for name, joint in _JOINTS.items():
        if end := parameters.get(name):
            text += joint + local_number(end, "fr")
    if exponent := parameters.get("e") or (parameters.get("10") if len(values) < 10 else ""):
        raised = superscript(exponent)
        if raised == exponent:
            return UNREAD
        text += f"×10{raised}"
    if any(value in _JOINTS and value != "/" for value in values[1:]):
        return UNREAD
    for place, unit in enumerate(values[1:]):
        if re.fullmatch(r"[+\-−]?\d+", unit) and place:
            text += superscript(unit)
        elif unit.isdecimal():
            return UNREAD
        elif unit:
            text += "⋅" if place > 1 else " "
            text += _METRES.sub(lambda power: power[1] + superscript(power[2]), unit)
    return text


def french_date(parameters: Parameters) -> str:
    """Render ``{{date|1|janvier|1900}}`` -> 1er janvier 1900; a topic after the year is not shown."""
    fields = positional(parameters)
    weekday = fields.pop(0) if fields and fields[0].casefold() in _WEEKDAYS else ""
    if fields and (written := _WRITTEN_DATE.match(fields[0])):
        fields = list(written.groups())
    elif len(fields) == 1:
        return unless_empty(" ".join(filter(None, [weekday, fields[0]])))
    day, month, year = ([*fields, "", "", ""])[:3]
    if 1 <= (number := small_number(month) or 0) <= 12:
        month = _MONTHS[number - 1]
    if not _DAY.fullmatch(day) or (month and month.casefold() not in _MONTHS):
        return UNREAD
    if year:
        written_year = _YEAR.fullmatch(year)
        if written_year is None:
            return UNREAD
        year = written_year[2] + (" av. J.-C." if written_year[1] or written_year[3] else "")
    day = "1er" if day in ("1", "01") else day.lstrip("0")
    return " ".join(filter(None, [weekday, day, month, year])) or UNREAD


def _numbered(numeral: str, end: str) -> str:
    return numeral + (end or ("er" if numeral.upper() in ("I", "1") else "e"))


def french_century(parameters: Parameters) -> str:
    """Render ``{{s|XIX|e}}`` -> XIXe siècle; ``{{-sp|V|e|et|IV|e}}`` -> Ve et IVe siècles av. J.-C."""
    name = parameters["0"]
    values = [value for value in positional(parameters) if value]
    shown: list[str] = []
    era = "av. J.-C." if name.startswith("-") else ""
    ending = {"s": "s", "siècles": "s", "siècle": ""}.get(values[-1]) if values else None
    if ending is not None:
        values.pop()
    count = 0
    while values:
        value = values.pop(0)
        if _ROMAN.match(value) or value.isdecimal():
            end = values.pop(0) if values and values[0] in ("e", "er", "ère", "re", "ᵉ", "ème") else ""
            joint = [] if not count or shown[-1] in _CENTURY_JOINTS else ["et"]
            shown += [*joint, _numbered(value, end)]
            count += 1
        elif value in _CENTURY_JOINTS and count:
            shown.append(value)
        elif _ERA.match(value) and not values:
            era = value
        else:
            return UNREAD
    if not count or shown[-1] in _CENTURY_JOINTS or not knows(parameters, ("lien", "siècle")):
        return UNREAD
    noun = "millénaire" if "millénaire" in name or name.strip("-").startswith("m") else "siècle"
    text = re.sub(r" (,)|(?: ([–/-]) )", r"\1\2", " ".join(shown))
    return " ".join(filter(None, [text, noun + ("s" * (count > 1) if ending is None else ending), era]))


_NAMED = re.compile(
    r"(?P<number>[ivx]+|\d+)(?P<end>er|re|ère|e|nd|nde)(?P<noun> (?:siècle|millénaire)s?)?(?P<era> av\. j\.-c\.)?$"
)


def named_ordinal(name: str) -> str:
    """Render ``{{XXe siècle}}``, whose normalised name is the text -> XXe siècle; empty for another name."""
    found = _NAMED.match(name)
    if found is None or (found["era"] and not found["noun"]):
        return ""
    era = " av. J.-C." if found["era"] else ""
    return f"{found['number'].upper()}{found['end']}{found['noun'] or ''}{era}"


def french_ordinal(parameters: Parameters) -> str:
    """Render ``XX{{e}}`` -> XXe; ``{{e|siècle}}`` -> e siècle."""
    if second(parameters):
        return UNREAD
    name = {"ième": "e", "eme": "e"}.get(parameters["0"], parameters["0"])
    return " ".join(filter(None, [name, first(parameters)]))


def french_aside(parameters: Parameters) -> str:
    """Render ``{{incise|texte}}`` -> — texte —; with ``stop`` the second dash is missing."""
    text = first(parameters)
    if not text:
        return UNREAD
    return f"— {text}" if "stop" in (second(parameters), parameters.get("fin")) else f"— {text} —"


def french_ruler(parameters: Parameters) -> str:
    """Render ``{{souverain2|Joseph II (empereur)}}`` -> Joseph II."""
    return unless_empty(second(parameters) or _PARENTHESIS.sub("", first(parameters)))


def french_hour(parameters: Parameters) -> str:
    """Render ``{{heure|14|30}}`` -> 14 h 30."""
    values = [value for value in positional(parameters) if value]
    if not values or len(values) > 3 or not all(value.isdecimal() for value in values):
        return UNREAD
    units = [" h", " min" if len(values) > 2 else "", " s"]
    return " ".join(value + unit for value, unit in zip(values, units, strict=False))


FUNCTIONS: dict[str, Render] = {
    "french_quantity": french_quantity,
    "french_date": french_date,
    "french_century": french_century,
    "french_ordinal": french_ordinal,
    "french_hour": french_hour,
    "french_aside": french_aside,
    "french_ruler": french_ruler,
}
