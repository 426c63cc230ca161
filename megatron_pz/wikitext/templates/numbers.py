"""Format numbers as ``{{formatnum:…}}`` does on a wiki, by ``data/number_formats.toml``."""

from __future__ import annotations

import functools
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from megatron_pz.wikitext.marks import UNREAD
from megatron_pz.wikitext.templates.parameters import Parameters, Render, in_groups, knows, positional

_SIGNS: Final = {"space": (" ", ","), "dot": (".", ","), "comma": (",", ".")}
_NUMBER: Final = re.compile(r"([-−+]?)(\d+)(?:([.,])(\d+))?", re.ASCII)
_ENGLISH_NUMBER: Final = re.compile(r"\d+(?:,\d{3})*(?:\.\d+)?", re.ASCII)


@functools.cache
def _formats() -> Mapping[str, str]:
    path = Path(__file__).parents[1] / "data" / "number_formats.toml"
    return tomllib.loads(path.read_text(encoding="utf-8"))


@functools.cache
def _format(language: str) -> tuple[str, str, int] | None:
    """Return a wiki's group separator, its decimal separator, and the number of digits that are not grouped."""
    for name, signs in _SIGNS.items():
        if language in _formats()[name].split():
            return *signs, 4 if language in _formats()["four_together"].split() else 3
    return None


def local_number(text: str, language: str) -> str:
    """Group the digits of a number as a wiki does; return any other text unchanged.

    >>> local_number("12345.6", "de"), local_number("1234", "es"), local_number("1234", "en"), local_number("x", "en")
    ('12.345,6', '1234', '1,234', 'x')
    >>> local_number("12345,6", "de"), local_number("12345,6", "en")
    ('12.345,6', '12345,6')
    """
    number = _NUMBER.fullmatch(text)
    style = _format(language)
    if number is None or style is None or number[3] not in (None, ".", style[1]):
        return text
    group, decimal, together = style
    sign, whole, _, fraction = number.groups()
    if len(whole) > together:
        whole = in_groups(whole, group)
    sign = sign.replace("-", "−")
    return f"{sign}{whole}{decimal}{fraction}" if fraction else sign + whole


def formatted(text: str, form: str, language: str) -> str:
    """Render ``{{formatnum:text|form}}``: ``NOSEP`` groups no digits, ``R`` reads a number that was shown.

    >>> formatted("1234.5", "", "de"), formatted("1234.5", "NOSEP", "de"), formatted("1.234,5", "R", "de")
    ('1.234,5', '1234,5', '1234.5')
    """
    if not form:
        return local_number(text, language)
    style = _format(language)
    if style is None or form not in ("NOSEP", "R"):
        return ""
    group, decimal, _ = style
    return text.replace(".", decimal) if form == "NOSEP" else text.replace(group, "").replace(decimal, ".")


def localized(text: str, language: str) -> str:
    """Write the numbers of an English text as a wiki does: ``1,300.5 km`` -> ``1.300,5 km`` in German."""
    return _ENGLISH_NUMBER.sub(lambda number: local_number(number[0].replace(",", ""), language), text)


def _number_with_unit(parameters: Parameters) -> str:
    """Render ``{{num|5000|кг}}`` -> 5000 кг, ``{{formatnum|12345}}`` -> 12.345 in German."""
    values = positional(parameters)
    if not values or not values[0] or any(values[2:]) or not knows(parameters, ("0", "format", "prefix")):
        return UNREAD
    return parameters.get("prefix", "") + " ".join(
        filter(None, [local_number(values[0], parameters.get("@", "en")), *values[1:2]])
    )


FUNCTIONS: Final[dict[str, Render]] = {"number_with_unit": _number_with_unit}
