"""Render templates that show a flag and a country's name: ``{{ESP}}``, ``{{flagcountry|ESP}}``, French ``{{Espagne}}``.

The names are in ``data/countries/``, one file per language.
"""

from __future__ import annotations

import functools
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from megatron_pz.wikitext.language_data import ENGLISH
from megatron_pz.wikitext.marks import DROPPED, UNREAD
from megatron_pz.wikitext.templates.parameters import Parameters, Render, first, second

DIRECTORY: Final = Path(__file__).parents[1] / "data" / "countries"
PREFIX: Final = "#country:"
"""Prefix of the name of a country whose template is called by the country's name."""
_WITHOUT_CODES: Final = ("ru",)
"""Wikis without templates named by country codes."""
_BY_NAME: Final = ("fr", "ru")
"""Wikis with templates named by countries: ``{{Allemagne}}``."""
_CODE: Final = re.compile(r"[A-Z]{3}")
_TEAMS: Final = {"IRL": "Republic of Ireland"}
"""Names of football teams that differ from the country's name, by code."""


@functools.cache
def _codes() -> Mapping[str, str]:
    """Return the two-letter codes by the three-letter codes."""
    rows = tomllib.loads((DIRECTORY / "codes.toml").read_text(encoding="utf-8"))
    return {code: country for country, codes in rows.items() for code in codes.split()}


@functools.cache
def names(language: str) -> Mapping[str, str]:
    """Return the names of countries on a wiki by their codes, empty if there is no file."""
    path = DIRECTORY / f"{language if language != 'simple' else 'en'}.toml"
    return tomllib.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def of_code(code: str, language: str) -> str:
    """Return the country of a code of two or three capitals, empty for an unknown code."""
    rows = names(language)
    return rows.get(code) or rows.get(_codes().get(code, ""), "")


def of_template(text: str, language: str) -> str:
    """Return the country that a template of this name, as written, shows; empty if it shows none."""
    text = text.strip()
    if _CODE.fullmatch(text):
        return "" if language in _WITHOUT_CODES else of_code(text, language)
    text = text[:1].upper() + text[1:]
    return text if language in _BY_NAME and text in names(language).values() else ""


def render(name: str, parameters: Parameters) -> str:
    """Render a country, whose name follows :data:`PREFIX`; with ``#`` the template shows only the flag.

    A year selects the flag of that time.
    """
    values = [value for value in parameters.values() if value]
    if values == ["#"]:
        return DROPPED
    return name.removeprefix(PREFIX) if len(values) < 2 and all(map(str.isdecimal, values)) else UNREAD


def _named_country(parameters: Parameters) -> str:
    """Render ``{{flagcountry|ESP}}`` -> Spain, ``{{flag|Spain|name=Team A}}`` -> Team A."""
    if shown := parameters.get("name"):
        return shown
    name = first(parameters)
    if name.isascii() and name.isupper() and len(name) <= 3:
        return of_code(name, parameters.get("@", "en")) or UNREAD
    return name or UNREAD


def _country_of_team(parameters: Parameters) -> str:
    """Render ``{{fb|ENG}}`` -> England."""
    team = _TEAMS.get(first(parameters)) if parameters.get("@") in ENGLISH else ""
    return team or _named_country({**parameters, "name": ""})


def _country_of_selection(parameters: Parameters) -> str:
    """Render ``{{Naz|CA|ITA}}``, with a sport before the country -> Italia."""
    return _named_country({**parameters, "1": second(parameters)})


def _flag_with_name(parameters: Parameters) -> str:
    """Render ``{{bandiera|ITA|nome}}`` -> Italia; without ``nome`` the template shows only the flag."""
    return _named_country(parameters) if second(parameters) == "nome" else DROPPED


FUNCTIONS: Final[dict[str, Render]] = {
    "named_country": _named_country,
    "country_of_team": _country_of_team,
    "country_of_selection": _country_of_selection,
    "flag_with_name": _flag_with_name,
}
