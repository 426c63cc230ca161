"""Dates and years: of birth and death, approximate ones, of the old calendar, of a marriage."""

from __future__ import annotations

from typing import Final

from megatron_pz.wikitext.marks import DROPPED
from megatron_pz.wikitext.templates.parameters import Parameters, around, everything, first, renderers, second

MONTHS: Final = "January February March April May June July August September October November December".split()


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() else None


def _date(year: str, month: str = "", day: str = "", day_first: bool = False) -> str:
    number = _number(month)
    if number is not None and 1 <= number <= 12:
        month = MONTHS[number - 1]
    day = day.lstrip("0")
    if not month:
        return year
    if not day:
        return f"{month} {year}".strip()
    if not year:
        return f"{day} {month}" if day_first else f"{month} {day}"
    return f"{day} {month} {year}" if day_first else f"{month} {day}, {year}"


def _is_day_first(parameters: Parameters) -> bool:
    return parameters.get("df", "").casefold() in ("y", "yes", "true", "1")


def _year_month_day(parameters: Parameters) -> str:
    year = first(parameters)
    if year and _number(year) is None:
        return year  # free text: {{start date text|c. 1900}}
    return _date(year, second(parameters), parameters.get("3", ""), _is_day_first(parameters))


def _as_of(parameters: Parameters) -> str:
    date = _date(first(parameters), second(parameters), parameters.get("3", ""), _is_day_first(parameters))
    if alternative := parameters.get("alt"):
        return alternative
    words = "since" if parameters.get("since") else "as of"
    if parameters.get("lc", parameters.get("since lc", "")) == "":
        words = words[0].upper() + words[1:]
    return f"{words} {date}" if date else DROPPED


def _old_style_date(parameters: Parameters) -> str:
    """``{{OldStyleDate|2 February|1905|20 January}}`` -> 2 February [O.S. 20 January] 1905."""
    new, year, old = (parameters.get(str(number), "") for number in range(1, 4))
    return " ".join(part for part in (new, f"[O.S. {old}]" if old else "", year) if part)


def _marriage(parameters: Parameters) -> str:
    years = "–".join(value for value in (second(parameters), parameters.get("3", "")) if value)
    return f"{first(parameters)} ({years})" if years else first(parameters)


RENDERERS = renderers(
    (
        "birth date|birth date and age|death date|death date and age|start date|start date and age|end date|"
        "end date and age|film date|release date|bda|dob|date-mf|birth date and age2|launch date|dsd|start and end "
        "dates",
        _year_month_day,
    ),
    ("as of|asof", _as_of),
    ("circa|c.|ca|approx", around("c. ")),
    ("floruit|fl.|fl", around("fl. ")),
    ("reign|r.", lambda parameters: "r. " + everything("–")(parameters)),
    ("died in|died", around("d. ")),
    ("born in|born", around("b. ")),
    ("oldstyledate|oldstyledatedy|oldstyledateny|old style date", _old_style_date),
    ("marriage|married", _marriage),
)
