"""Templates of other wikis that a pattern cannot render: dates, units, countries by code, labelled languages."""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from megatron_pz.wikitext.marks import DROPPED, UNREAD
from megatron_pz.wikitext.templates.parameters import Parameters, Render, first, second, superscript

_GERMAN_MONTHS: Final = "Januar Februar März April Mai Juni Juli August September Oktober November Dezember".split()
_KOREAN_LANGUAGES: Final = dict(
    pair.replace("_", " ").split("=")
    for pair in """
ar=아랍어 cs=체코어 da=덴마크어 de=독일어 el=그리스어
en=영어 eo=에스페란토 es=스페인어 fa=페르시아어 fi=핀란드어
fr=프랑스어 grc=고대_그리스어 he=히브리어 hi=힌디어 hu=헝가리어
id=인도네시아어 it=이탈리아어 ja=일본어 la=라틴어 mn=몽골어
ms=말레이어 nl=네덜란드어 no=노르웨이어 pl=폴란드어 pt=포르투갈어
ro=루마니아어 ru=러시아어 sa=산스크리트어 sr=세르비아어 sv=스웨덴어
th=태국어 tr=튀르키예어 uk=우크라이나어 vi=베트남어 zh=중국어
""".split()
)


@functools.cache
def _countries() -> Mapping[str, Any]:
    path = Path(__file__).parents[1] / "data" / "countries.toml"
    return tomllib.loads(path.read_text(encoding="utf-8"))


def _german_date(parameters: Parameters) -> str:
    """``{{Datum|3|10|1990}}`` -> 3. Oktober 1990; with the year first, it is the same day."""
    fields = [parameters.get(str(number), "") for number in range(1, 4)]
    if not all(field.isdecimal() for field in fields):
        return UNREAD
    day, month, year = map(int, fields if len(fields[0]) < 3 else fields[::-1])
    if not (1 <= month <= 12 and 1 <= day <= 31):
        return UNREAD
    return f"{day}. {_GERMAN_MONTHS[month - 1]} {year}"


def _german_country(parameters: Parameters) -> str:
    """``{{DEU}}`` -> Deutschland; with ``#`` it shows the flag alone."""
    return DROPPED if first(parameters) == "#" else _countries()["de"].get(parameters.get("0", ""), UNREAD)


def _country_of_team(parameters: Parameters) -> str:
    """``{{fb|ENG}}`` -> England."""
    country = first(parameters)
    return _countries()["en"].get(country.casefold(), country if len(country) > 3 else UNREAD)


def _spanish_unit(parameters: Parameters) -> str:
    """``{{unidad|10|km|2}}`` -> 10 km²."""
    power = parameters.get("3", "")
    if not first(parameters) or (power and not power.lstrip("-−").isdecimal()) or parameters.get("4"):
        return UNREAD
    return f"{first(parameters)} {second(parameters)}{superscript(power)}".strip()


def _italian_measure(parameters: Parameters) -> str:
    """``{{M|10|k|m}}`` -> 10 km; ``{{M|1,5|e=6|ul=km}}`` -> 1,5×10⁶ km."""
    known = {"0", "<", "1", "2", "3", "u", "ul", "e"}
    power = parameters.get("e", "")
    if not first(parameters) or not known.issuperset(parameters) or (power and not power.lstrip("-−").isdecimal()):
        return UNREAD
    unit = second(parameters) + parameters.get("3", "") or parameters.get("ul", "") or parameters.get("u", "")
    raised = f"×10{superscript(power)}" if power else ""
    return f"{first(parameters)}{raised} {unit}".strip()


def _korean_labelled(parameters: Parameters) -> str:
    """``{{llang|en|word}}`` -> 영어: word."""
    name, text = _KOREAN_LANGUAGES.get(first(parameters)), second(parameters)
    if not text:
        return UNREAD
    return f"{name}: {text}" if name else UNREAD


FUNCTIONS: Final[dict[str, Render]] = {
    "german_date": _german_date,
    "german_country": _german_country,
    "country_of_team": _country_of_team,
    "spanish_unit": _spanish_unit,
    "italian_measure": _italian_measure,
    "korean_labelled": _korean_labelled,
}
