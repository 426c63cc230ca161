"""Find units by their codes on English Wikipedia and by their names, in the table ``data/units/en.toml``.

Codes are case-sensitive (documentation: https://en.wikipedia.org/wiki/Template:Convert/list_of_units).
"""

from __future__ import annotations

import functools
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

_POWERS: Final = {"square": "2", "sq": "2", "cubic": "3", "cu": "3"}
_METER_OR_LITER: Final = re.compile(r"(?<=met)er|(?<=lit)er")
_SCALES: Final = {"3": "thousand", "6": "million", "9": "billion", "12": "trillion"}
METRE_OR_LITRE: Final = re.compile(r"(?<=met)re|(?<=lit)re")
_BYTES: Final = ("kilo", "mega", "giga", "tera", "peta")
_A_YEAR: Final = "a"
"""Code of a year after a slash; elsewhere it means an are."""
LONGEST: Final = 60
"""Longest unit code, or number with other signs than digits, in characters. Reading is quadratic or recursive."""


@dataclass(frozen=True)
class Unit:
    """A unit's sign and its names."""

    sign: str
    one: str
    several: str
    is_temperature: bool = False
    adjective: str = ""
    """Name in front of a noun, where that is not the name of one."""

    @property
    def is_word(self) -> bool:
        """Return whether the unit's sign is its name, which has a plural: 5 acres."""
        return self.sign == self.one != self.several and self.sign not in _table()["metric"]


@functools.cache
def _table() -> Mapping[str, Mapping[str, Any]]:
    path = Path(__file__).parents[1] / "data" / "units" / "en.toml"
    return tomllib.loads(path.read_text(encoding="utf-8"))


@functools.lru_cache(maxsize=4096)
def unit_of(code: str) -> Unit | None:
    """Find the unit of a case-sensitive code; return None for an unknown code.

    >>> unit_of("kN").one, unit_of("kn").one, unit_of("e6m3").several
    ('kilonewton', 'knot', 'million cubic metres')
    """
    if len(code) > LONGEST:
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
        several = f"{word} {unit.several}"
        return Unit(f"{word} {unit.sign}", several, several, adjective=f"{word} {unit.one}")
    if unit := _metric_unit(code) or _power_unit(code):
        return unit
    if unit := _named_unit(code):
        return unit
    above, slash, below = code.partition("/")
    lower = unit_of("year" if below == _A_YEAR else below) if slash else None
    if lower and not above and not lower.is_temperature:
        return Unit(f"/{lower.sign}", f"per {lower.one}", f"per {lower.one}")
    if lower and above and (upper := unit_of(above)):
        if upper.is_temperature or lower.is_temperature:
            return None
        per = f" per {lower.one}"
        return Unit(f"{upper.sign}/{lower.sign}", upper.one + per, upper.several + per)
    return None


@functools.cache
def _codes_by_name() -> Mapping[str, str]:
    """Return the codes by the names and long signs of their units: ``kilometres``, ``US gal``."""
    table = _table()
    codes: dict[str, str] = {}
    for code, (sign, one, several) in table["others"].items():
        signs = [sign] if " " in sign else []
        codes |= {name: code for name in (*signs, one, several) if name not in codes}
    for code in (f"{prefix}{code}" for code in table["metric"] for prefix in ("", *table["prefixes"])):
        if unit := _metric_unit(code):
            codes |= {name: code for name in (unit.one, unit.several) if name not in codes}
    return codes


def _named_unit(code: str) -> Unit | None:
    """Find the unit of a name that is used as a code: ``square kilometers``, ``cu ft``, ``km²``."""
    british = _METER_OR_LITER.sub("re", code)
    if "⋅" in code:
        return unit_of(code.replace("⋅", "·"))
    name = british.replace("U.S. ", "US ").replace("imp. ", "imp ")
    if name.endswith(("²", "³")):
        return unit_of(name[:-1] + "23"[name[-1] == "³"])
    word, _, rest = name.partition(" ")
    if rest and (power := _POWERS.get(word)):
        unit = unit_of(_codes_by_name().get(rest, rest) + power)
    else:
        found = _codes_by_name().get(name, name)
        unit = unit_of(found) if found != code else None
    if unit is None or british == code:
        return unit
    return Unit(unit.sign, METRE_OR_LITRE.sub("er", unit.one), METRE_OR_LITRE.sub("er", unit.several))


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
            and (code[length:] != "B" or prefix in _BYTES)
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
