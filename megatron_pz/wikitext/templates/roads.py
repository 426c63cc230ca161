"""Render the numbers of roads as ``{{jct}}`` does."""

from __future__ import annotations

import re
from typing import Final

from megatron_pz.wikitext.language_data import language_file
from megatron_pz.wikitext.marks import UNREAD
from megatron_pz.wikitext.templates.parameters import Parameters, Render, knows, positional

_NUMBER: Final = re.compile(r"\d{1,4}[A-Z]?")
_DIRECTIONS: Final = ("north", "south", "east", "west")
_SILENT: Final = ("state", "country", "noshield", "nolink", "sep", "jctsep", "county", "dir", "to")
_SHOWN_PLACES: Final = 4


def _name(parameters: Parameters, kind: str, number: str) -> str:
    """Write a road of this kind, empty if its form is not known in this state."""
    rows = language_file("en")["roads"]
    country, state = parameters.get("country", "").upper(), parameters.get("state", "").upper()
    for place in (state, country or "USA"):
        if place and (form := rows.get(place, {}).get(kind)):
            return str(form).format(number)
    return ""


def junction(parameters: Parameters) -> str:
    """Render ``{{jct|state=NY|I|90|dir1=east|NY|17}}`` -> I-90 east / NY 17."""
    values = positional(parameters)
    names = [f"{name}{place}" for name in _SILENT for place in ("", *range(1, _SHOWN_PLACES + 1))]
    if len(values) % 2 or not 2 <= len(values) <= 2 * _SHOWN_PLACES or not knows(parameters, ("0", *names)):
        return UNREAD
    shown = []
    for place, (kind, number) in enumerate(zip(values[::2], values[1::2], strict=True), 1):
        name = _name(parameters, kind, number) if _NUMBER.fullmatch(number) else ""
        direction = parameters.get(f"dir{place}", "")
        if not name or direction not in ("", *_DIRECTIONS):
            return UNREAD
        to = "To " if parameters.get(f"to{place}") else ""
        shown.append(" ".join(filter(None, [to + name, direction])))
    return " / ".join(shown)


FUNCTIONS: Final[dict[str, Render]] = {"junction": junction}
