"""Render templates of other wikis that a pattern cannot express: dates, places and units."""

from __future__ import annotations

import re
from datetime import date, timedelta
from typing import Final

from megatron_pz.wikitext.marks import DROPPED, UNREAD
from megatron_pz.wikitext.templates.numbers import local_number
from megatron_pz.wikitext.templates.parameters import (
    Parameters,
    Render,
    first,
    knows,
    second,
    small_number,
    superscript,
)
from megatron_pz.wikitext.templates.quantities import unit_sign

_GERMAN_MONTHS: Final = "Januar Februar März April Mai Juni Juli August September Oktober November Dezember".split()


def _german_date(parameters: Parameters) -> str:
    """Render ``{{Datum|3|10|1990}}`` -> 3. Oktober 1990; the year may also come first."""
    fields = [parameters.get(str(number), "") for number in range(1, 4)]
    numbers = [number for field in fields if (number := small_number(field)) is not None]
    if len(numbers) < 3:
        return UNREAD
    day, month, year = numbers if len(fields[0]) < 3 else numbers[::-1]
    if not (1 <= month <= 12 and 1 <= day <= 31):
        return UNREAD
    return f"{day}. {_GERMAN_MONTHS[month - 1]} {year}"


def _german_coordinate(parameters: Parameters) -> str:
    """Render ``{{Coordinate|NS=52/31/12/N|EW=13.4|text=DMS}}`` -> 52° 31′ 12″ N, 13.4° O; nothing if in the title."""
    form = parameters.get("text", "")
    if not form or form.startswith("ICON"):
        return DROPPED
    if form not in ("DMS", "DM", "DEC", "/"):
        return UNREAD
    angles = [_german_angle(parameters.get(name, ""), signs) for name, signs in (("NS", "NS"), ("EW", "OW"))]
    return ", ".join(angles) if all(angles) else UNREAD


def _german_angle(text: str, directions: str) -> str:
    if re.fullmatch(r"[+-]?\d+(?:\.\d+)?", text):
        return f"{text.lstrip('+-').replace('.', ',')}° {directions[text[0] == '-']}"
    *numbers, direction = text.split("/")
    direction = direction.replace("E", "O")
    if direction not in tuple(directions) or not 1 <= len([number for number in numbers if number]) <= 3:
        return ""
    return " ".join(number + sign for number, sign in zip(numbers, "°′″", strict=False) if number) + f" {direction}"


_HEIGHT_SYSTEMS: Final = {"DE-NN": "ü. NN", "DE-NHN": "ü. NHN", "AT": "ü. A.", "CH": "ü. M."}


def _german_height(parameters: Parameters) -> str:
    """Render ``{{Höhe|500|DE-NHN|link=true}}`` -> 500 m ü. NHN."""
    system = _HEIGHT_SYSTEMS.get(second(parameters))
    return (
        f"{first(parameters).replace('-', '−').replace('.', ',')} m {system}"
        if first(parameters) and system
        else UNREAD
    )


def _unit_with_power(parameters: Parameters) -> str:
    """Render ``{{unidad|10|km|2}}`` -> 10 km²."""
    power = parameters.get("3", "")
    is_power = not power or power.lstrip("-−").isdecimal()
    if not first(parameters) or not is_power or parameters.get("4") or not knows(parameters, ("0",)):
        return UNREAD
    number = local_number(first(parameters), parameters["@"])
    return f"{number} {second(parameters)}{superscript(power)}".strip()


_IBERIAN_MONTHS: Final = {
    "es": "enero febrero marzo abril mayo junio julio agosto septiembre octubre noviembre diciembre".split(),
    "pt": "janeiro fevereiro março abril maio junho julho agosto setembro outubro novembro dezembro".split(),
}


def _iberian_date(parameters: Parameters) -> str:
    """Render ``{{dtlink|1|1|1950}}`` -> 1 de janeiro de 1950; a day or a year may be missing."""
    day, month, year = (parameters.get(str(number), "") for number in range(1, 4))
    if not (day or month):
        return year if year.isdecimal() else UNREAD
    months = _IBERIAN_MONTHS[parameters["@"]]
    number = months.index(month.casefold()) + 1 if month.casefold() in months else small_number(month) or 0
    if not 1 <= number <= 12 or (day and not 1 <= (small_number(day) or 0) <= 31) or (year and not year.isdecimal()):
        return UNREAD
    return " de ".join(filter(None, [day.lstrip("0"), months[number - 1], year]))


_RUSSIAN_MONTHS: Final = "января февраля марта апреля мая июня июля августа сентября октября ноября декабря".split()
_UKRAINIAN_MONTHS: Final = (
    "січня лютого березня квітня травня червня липня серпня вересня жовтня листопада грудня".split()
)


def _east_slavic_date(parameters: Parameters) -> str:
    """Render ``{{ДР|1|2|1931}}`` -> 1 февраля 1931, ``{{ДН|20|2|1889|8}}`` -> 8 (20) лютого 1889.

    The fourth and fifth parameter are the day and the month of the Julian calendar. The year may also come first.
    """
    fields = [parameters.get(str(number), "") for number in range(1, 6)]
    if len(fields[0]) > 2:
        fields[:3] = fields[2::-1]
    day, month, year, old_day, old_month = (small_number(field) or 0 for field in fields)
    is_complete = 1 <= day <= 31 and 1 <= month <= 12 and year and old_day <= 31 and old_month <= 12
    is_in_month_before = old_day > day and not old_month
    is_other_date = bool(parameters.get("6")) or old_month not in (0, month, month - 1 or 12)
    if not is_complete or is_in_month_before or is_other_date or any(fields[3:]) != bool(old_day):
        return UNREAD
    months = _UKRAINIAN_MONTHS if parameters["@"] == "uk" else _RUSSIAN_MONTHS
    if not old_day:
        return f"{day} {months[month - 1]} {year}"
    if old_month in (0, month):
        return f"{old_day} ({day}) {months[month - 1]} {year}"
    if old_month > month:
        return f"{old_day} {months[old_month - 1]} {year - 1} ({day} {months[month - 1]} {year})"
    return f"{old_day} {months[old_month - 1]} ({day} {months[month - 1]}) {year}"


def _gregorian(old: date) -> date:
    """Convert a day of the Julian calendar. Raise :class:`ValueError` after the year 9999."""
    counted = old.year - (
        (old.month, old.day) < (3, 1)
    )  # the calendars diverge at a 29th of February that only one of them has
    try:
        return old + timedelta(days=counted // 100 - counted // 400 - 2)
    except OverflowError:
        raise ValueError("a day behind the year 9999") from None


def _day_of(parameters: Parameters) -> date:
    """Read a date from day, month and year. Raise :class:`ValueError` if it is invalid."""
    day, month, year = (small_number(parameters.get(str(number), "")) or 0 for number in range(1, 4))
    return date(year, month, day)


def _german_julian_date(parameters: Parameters) -> str:
    """Render ``{{JULGREGDATUM|15|2|1564}}`` -> 15. Februar jul. / 25. Februar 1564 greg."""
    try:
        old = _day_of(parameters)
        new = _gregorian(old)
    except ValueError:
        return UNREAD
    names = [f"{which.day}. {_GERMAN_MONTHS[which.month - 1]}" for which in (old, new)]
    year = f" {old.year}" if old.year != new.year else ""
    return f"{names[0]}{year} jul. / {names[1]} {new.year} greg."


def _russian_old_style_date(parameters: Parameters) -> str:
    """Render ``{{СС3|9|1|1905}}``, a day of the Julian calendar -> 9 (22) января 1905."""
    try:
        old = _day_of(parameters)
        new = _gregorian(old)
    except ValueError:
        return UNREAD
    names = [_RUSSIAN_MONTHS[which.month - 1] for which in (old, new)]
    if old.year != new.year:
        return f"{old.day} {names[0]} {old.year} ({new.day} {names[1]} {new.year})"
    if old.month != new.month:
        return f"{old.day} {names[0]} ({new.day} {names[1]}) {old.year}"
    return f"{old.day} ({new.day}) {names[0]} {old.year}"


_PARTS_OF_A_DATE: Final = {"ko": ("년", "월", "일", " "), "ja": ("年", "月", "日", ""), "zh": ("年", "月", "日", "")}
_LIMITS_OF_A_DATE: Final = (9999, 12, 31)


def _east_asian_date(parameters: Parameters) -> str:
    """Render ``{{birth date|1950|1|5}}`` -> 1950年1月5日; the day, or the month too, may be missing."""
    values = [parameters.get(str(number), "") for number in range(1, 4)]
    numbers = [small_number(value) or 0 for value in values if value]
    limits = zip(numbers, _LIMITS_OF_A_DATE, strict=False)
    if not numbers or not all(values[: len(numbers)]) or not all(1 <= number <= limit for number, limit in limits):
        return UNREAD
    *names, between = _PARTS_OF_A_DATE[parameters["@"]]
    return between.join(f"{number}{name}" for number, name in zip(numbers, names, strict=False))


def _japanese_age_at_death(parameters: Parameters) -> str:
    """Render ``{{没年齢|1900|1|1|1950|2|2}}``, with the birth first -> 50歳没."""
    numbers = [small_number(parameters.get(str(number), "")) or 0 for number in range(1, 7)]
    try:
        birth, death = date(*numbers[:3]), date(*numbers[3:])
    except ValueError:
        return UNREAD
    return f"{death.year - birth.year - ((death.month, death.day) < (birth.month, birth.day))}歳没"


def _japanese_date_of_death(parameters: Parameters) -> str:
    """Render ``{{死亡年月日と没年齢|1900|1|1|1950|2|2}}``, with the birth first -> 1950年2月2日（50歳没）."""
    age = _japanese_age_at_death(parameters)
    year, month, day = (small_number(parameters.get(str(number), "")) for number in range(4, 7))
    return UNREAD if age == UNREAD else f"{year}年{month}月{day}日（{age}）"


_JAPANESE_ERAS: Final = ((2019, "令和"), (1989, "平成"), (1926, "昭和"), (1912, "大正"), (1868, "明治"))
"""Eras by the year in which they began; that year belongs to two."""


def _japanese_era(parameters: Parameters) -> str:
    """Render ``{{和暦|2021}}`` -> 令和3年; a year of two eras, or one of the lunar calendar, is not understood."""
    year = small_number(first(parameters)) or 0
    if second(parameters) or year < 1873:
        return UNREAD
    begin, era = next(row for row in _JAPANESE_ERAS if row[0] <= year)
    return UNREAD if begin == year else f"{era}{year - begin + 1}年"


_SPANISH_CENTURY: Final = {"": "", "s": "siglo ", "S": "Siglo "}
_SPANISH_ERA: Final = {"": "", "a": " a. C.", "d": " d. C."}


def _spanish_century(parameters: Parameters) -> str:
    """Render ``{{siglo|XX||s}}`` -> siglo XX, ``{{siglo|V|a|S}}`` -> Siglo V a. C.; the fourth parameter links."""
    word, era = _SPANISH_CENTURY.get(parameters.get("3", "")), _SPANISH_ERA.get(second(parameters))
    is_roman = bool(first(parameters)) and set(first(parameters).upper()) <= set("IVXL")
    return UNREAD if not is_roman or word is None or era is None else f"{word}{first(parameters)}{era}"


def _italian_measure(parameters: Parameters) -> str:
    """Render ``{{M|10|k|m}}`` -> 10 km; ``{{M|1,5|e=6|ul=km}}`` -> 1,5×10⁶ km."""
    known = {"0", "<", "@", "1", "2", "3", "u", "ul", "e"}
    power = parameters.get("e", "")
    if not first(parameters) or not known.issuperset(parameters) or (power and not power.lstrip("-−").isdecimal()):
        return UNREAD
    if any(map(str.isdecimal, second(parameters) + parameters.get("3", ""))) or second(parameters) in ("-", "–"):
        return UNREAD  # the second number is an error, or the end of a range
    unit = second(parameters) + parameters.get("3", "") or parameters.get("ul", "") or parameters.get("u", "")
    raised = f"×10{superscript(power)}" if power else ""
    return f"{local_number(first(parameters), 'it')}{raised} {unit_sign(unit)}".strip()


FUNCTIONS: Final[dict[str, Render]] = {
    "german_date": _german_date,
    "german_coordinate": _german_coordinate,
    "german_height": _german_height,
    "unit_with_power": _unit_with_power,
    "spanish_century": _spanish_century,
    "iberian_date": _iberian_date,
    "east_asian_date": _east_asian_date,
    "japanese_date_of_death": _japanese_date_of_death,
    "japanese_age_at_death": _japanese_age_at_death,
    "japanese_era": _japanese_era,
    "east_slavic_date": _east_slavic_date,
    "german_julian_date": _german_julian_date,
    "russian_old_style_date": _russian_old_style_date,
    "italian_measure": _italian_measure,
}
