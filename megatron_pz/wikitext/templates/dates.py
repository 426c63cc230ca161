"""Render dates and years: of birth and death, approximate ones, of the old calendar, of a marriage."""

from __future__ import annotations

import re
from datetime import date
from typing import Final

from megatron_pz.wikitext.marks import UNREAD
from megatron_pz.wikitext.templates.parameters import (
    Parameters,
    Render,
    first,
    knows,
    positional,
    second,
    small_number,
    unless_empty,
)

MONTHS: Final = "January February March April May June July August September October November December".split()
_MONTH_NUMBERS: Final = {
    name[:length].casefold(): number for number, name in enumerate(MONTHS, 1) for length in (3, 20)
}
_ISO_DATE = re.compile(r"(\d{4})-(\d\d)-(\d\d)$")
_YES = ("y", "yes", "true", "1", "on")
_STYLE_NAMES = ("df", "mf", "lk", "link", "nowrap", "cat", "nolink", "lc", "abbr", "format", "addkey", "nowrap", "nbsp")


def _month(text: str) -> int | None:
    """Find the number of a month that is given as a number or by its English name."""
    if text.isascii() and text.isdigit():
        number = small_number(text) or 0
        return number if 1 <= number <= 12 else None
    return _MONTH_NUMBERS.get(text.casefold().rstrip(".")) or _MONTH_NUMBERS.get("sep" if text == "Sept" else "")


def _date(year: str, month: str = "", day: str = "", *, day_first: bool = False) -> str | None:
    """Write a date in words; return None if a part is not understood."""
    before_christ = re.fullmatch(r"[-−](\d{1,9})", year)
    if before_christ:
        year = f"{int(before_christ[1])} BC"
    elif not re.fullmatch(r"(?:AD )?\d{1,4}(?: ?(?:BC|BCE|AD|CE))?|", year):
        return None
    number = _month(month) if month else None
    day = day.lstrip("0")
    if (month and number is None) or (day and not ((small_number(day) or 32) <= 31 and month)):
        return None
    name = MONTHS[number - 1] if number else ""
    if day and year:
        return f"{day} {name} {year}" if day_first else f"{name} {day}, {year}"
    return " ".join(filter(None, [day, name] if day_first else [name, day])) if day else f"{name} {year}".strip()


def _is_day_first(parameters: Parameters) -> bool:
    return parameters.get("df", "").casefold() in _YES or parameters.get("format", "") == "dmy"


def year_month_day(parameters: Parameters) -> str:
    """Render ``{{birth date|1879|3|14}}`` -> March 14, 1879; free text is kept."""
    values = positional(parameters)
    if len(values) == 1 and not values[0].lstrip("-−").isdecimal():
        return unless_empty(values[0])
    if not knows(parameters, _STYLE_NAMES) or any(values[3:]):
        return UNREAD
    return _date(*([*values, "", "", ""])[:3], day_first=_is_day_first(parameters)) or UNREAD


def sortable_date(parameters: Parameters) -> str:
    """Render ``{{dts|2008|November|29}}`` -> November 29, 2008; ``{{dts|29 November 2008}}`` stays."""
    if iso := _ISO_DATE.match(first(parameters)):
        return _date(*iso.groups(), day_first=_is_day_first(parameters)) or UNREAD
    return year_month_day(parameters)


def date_in_words(parameters: Parameters) -> str:
    """Render ``{{date|2008-11-29|mdy}}`` -> November 29, 2008; a date in words stays."""
    if iso := _ISO_DATE.match(first(parameters)):
        style = second(parameters).casefold() or "dmy"
        return (_date(*iso.groups(), day_first=style == "dmy") if style in ("dmy", "mdy") else None) or UNREAD
    if second(parameters).casefold() not in ("", "dmy", "mdy", "iso", "ymd"):
        return UNREAD
    return unless_empty(first(parameters))


def date_of_death(parameters: Parameters) -> str:
    """Render ``{{death date and age|2000|1|2|1920|3|4}}`` -> January 2, 2000 (aged 79)."""
    values = positional(parameters)
    if len(values) != 6 or not knows(parameters, _STYLE_NAMES):
        return year_month_day(parameters)
    date = _date(*values[:3], day_first=_is_day_first(parameters))
    years = _years_between(values[3:], values[:3])
    return f"{date} (aged {years})" if date and years is not None else UNREAD


def years_of_death(parameters: Parameters) -> str:
    """Render ``{{death year and age|2000|1950}}`` -> 2000 (aged 49–50)."""
    values = positional(parameters)
    years = [number for value in values if (number := small_number(value)) is not None]
    if len(values) != 2 or len(years) != 2:
        return UNREAD
    age = years[0] - years[1]
    return f"{values[0]} (aged {age - 1}–{age})"


def age_between(parameters: Parameters) -> str:
    """Render ``{{age|1920|3|4|2000|1|2}}`` -> 79. With one date the age is today's, which is unknown here."""
    values = positional(parameters)
    years = _years_between(values[:3], values[3:]) if len(values) == 6 else None
    return UNREAD if years is None else str(years)


def _span_of(parameters: Parameters) -> tuple[date, date] | None:
    """Read two dates, each as year, month and day."""
    values = positional(parameters)
    numbers = [_month(value) if place % 3 == 1 else small_number(value) for place, value in enumerate(values)]
    if len(numbers) != 6 or not knows(parameters, ("0", "format", "sc", "duration", "df")):
        return None
    try:
        start, end = (date(*numbers[at : at + 3]) for at in (0, 3))  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return (start, end) if start <= end else None


def age_in_years_and_days(parameters: Parameters) -> str:
    """Render ``{{ayd|1990|1|1|2020|6|1}}`` -> 30 years, 152 days."""
    span = _span_of(parameters)
    if span is None or "29" in (parameters.get("3"), parameters.get("6")):  # the 29th of February has no anniversary
        return UNREAD
    start, end = span
    years = end.year - start.year - ((end.month, end.day) < (start.month, start.day))
    days = (end - start.replace(year=start.year + years)).days
    counts = ((years, "year"), (days, "day"))
    return ", ".join(f"{count} {unit}{'s' * (count != 1)}" for count, unit in counts if count) or "0 days"


def age_in_days(parameters: Parameters) -> str:
    """Render ``{{age in days|1990|1|1|1990|1|31}}`` -> 30."""
    span = _span_of(parameters)
    return UNREAD if span is None else str((span[1] - span[0]).days)


def _years_between(start: list[str], end: list[str]) -> int | None:
    numbers = [(_month(value) if place == 1 else small_number(value)) for date in (start, end)
               for place, value in enumerate(date)]  # fmt: skip
    if None in numbers:
        return None
    year, month, day, end_year, end_month, end_day = numbers
    return end_year - year - ((end_month, end_day) < (month, day))  # type: ignore[operator]


def as_of(parameters: Parameters) -> str:
    """Render ``{{as of|2010|1|15}}`` -> As of 15 January 2010; ``df=us`` puts the month first."""
    if alternative := parameters.get("alt"):
        return alternative + parameters.get("post", "")
    values = ([*positional(parameters), "", "", ""])[:3]
    day_first = parameters.get("df", "").casefold() not in ("us", "mdy")
    date = _date(*values, day_first=day_first)
    known = (*_STYLE_NAMES, "alt", "since", "bare", "post", "pre", "url", "reason", "since lc", "update", "date")
    if not date or not knows(parameters, known):
        return UNREAD
    date = " ".join(filter(None, [parameters.get("pre", ""), date])) + parameters.get("post", "")
    if parameters.get("bare"):
        return date
    words = "since" if parameters.get("since") else "as of"
    if not (parameters.get("lc") or parameters.get("since lc")):
        words = words[0].upper() + words[1:]
    return f"{words} {date}"


def _years(label: str, joint: str = "–", repeats: bool = False) -> Render:
    """Put a label before one or two dates, ``{{fl.|1200|1230}}`` -> fl. 1200–1230, or return it alone without dates."""

    def render(parameters: Parameters) -> str:
        dates = positional(parameters) or [parameters.get("single", "")]
        if len(dates) > 2 or not knows(parameters, ("lk", "cr", "link", "show", "single", "sortable")):
            return UNREAD
        start, end = ([*dates, "", ""])[:2]
        if not end:
            return f"{label} {start}".rstrip()
        if repeats:
            return f"{label} {start} – {label} {end}" if start else UNREAD
        spaced = f" {joint} " if " " in start + end else joint
        return f"{label} {start}{spaced}{end}"

    return render


def old_style_date(parameters: Parameters) -> str:
    """Render ``{{OldStyleDate|2 February|1905|20 January}}`` -> 2 February [O.S. 20 January] 1905."""
    new, year, old = (parameters.get(str(number), "") for number in range(1, 4))
    return unless_empty(" ".join(part for part in (new, f"[O.S. {old}]" if old else "", year) if part))


def married(parameters: Parameters) -> str:
    """Render ``{{marriage|Anna Smith|1900|1910}}`` -> Anna Smith (1900–1910)."""
    years = "–".join(value for value in (second(parameters), parameters.get("3", "")) if value)
    return f"{first(parameters)} ({years})" if years and first(parameters) else unless_empty(first(parameters))


FUNCTIONS: dict[str, Render] = {
    "year_month_day": year_month_day,
    "sortable_date": sortable_date,
    "date_in_words": date_in_words,
    "date_of_death": date_of_death,
    "years_of_death": years_of_death,
    "age_between": age_between,
    "age_in_years_and_days": age_in_years_and_days,
    "age_in_days": age_in_days,
    "as_of": as_of,
    "about": _years("c.", repeats=True),
    "flourished": _years("fl."),
    "reigned": _years("r."),
    "died": _years("d."),
    "born": _years("b."),
    "old_style_date": old_style_date,
    "married": married,
}
