"""Numbers: quantities with units, fractions, powers, formulas of chemistry, sums of money, heights."""

from __future__ import annotations

import re

from megatron_pz.wikitext.templates.parameters import (
    Parameters,
    Render,
    constant,
    everything,
    first,
    positional,
    renderers,
    second,
    subscript,
    superscript,
)
from megatron_pz.wikitext.units import quantity

_CURRENCIES = (
    "a$=A$ aud=A$ ca$=C$ cad=C$ nz$=NZ$ nzd=NZ$ eur=€ €=€ gbp=£ £=£ jpy=¥ ¥=¥ inr=₹ ₹=₹ cny=CN¥ krw=₩ "
    "won=₩ php=₱ rub=₽ hk$=HK$ peso=₱ euro=€"
)


def _fraction(parameters: Parameters) -> str:
    values = positional(parameters)
    if len(values) == 1:
        return f"1/{values[0]}"
    if len(values) == 2:
        return f"{values[0]}/{values[1]}"
    return f"{values[0]} {values[1]}/{values[2]}" if values else ""


def _value(parameters: Parameters) -> str:
    """``{{val|6.24|0.01|e=18|u=m}}`` -> 6.24±0.01×10¹⁸ m."""
    text = first(parameters)
    if uncertainty := second(parameters):
        text += f"±{uncertainty.lstrip('+')}"
    if exponent := parameters.get("e"):
        text += f"×10{superscript(exponent)}"
    unit = parameters.get("u") or parameters.get("ul") or parameters.get("up") or ""
    return f"{text} {unit}".strip()


def _formula(parameters: Parameters) -> str:
    """``{{chem|H|2|O}}`` -> H₂O. Numbers after an element are counts; a last sign is the charge."""
    pieces: list[str] = []
    for value in positional(parameters):
        charge = value[-1:] in ("+", "-", "−", "–")
        pieces.append(superscript(value) if charge else subscript(value) if pieces else value)
    return "".join(pieces)


def _inline_formula(parameters: Parameters) -> str:
    """``{{chem2|CO3(2-)}}`` in the template's own short notation: digits after a letter or bracket are counts."""
    return re.sub(r"(?<=[A-Za-z)\]])\d+", lambda digits: subscript(digits[0]), first(parameters))


def _nuclide(parameters: Parameters) -> str:
    return f"{superscript(second(parameters))}{first(parameters)}"


def _money(sign: str) -> Render:
    return lambda parameters: f"{sign}{first(parameters)}"


def _height(parameters: Parameters) -> str:
    order = ("ft", "in", "m", "cm")
    return " ".join(f"{parameters[unit]} {unit}" for unit in order if parameters.get(unit))


def _music(parameters: Parameters) -> str:
    signs = {"sharp": "♯", "flat": "♭", "natural": "♮", "#": "♯", "b": "♭", "doublesharp": "𝄪", "doubleflat": "𝄫"}
    return signs.get(first(parameters), "")


RENDERERS = renderers(
    ("convert|cvt|convinfobox|conv", quantity),
    ("frac|fraction|sfrac|tfrac|mfrac|fract", _fraction),
    ("val|val/sandbox", _value),
    ("e|10^|×10^|esp|x10^", lambda parameters: f"×10{superscript(first(parameters))}" if first(parameters) else ""),
    ("sup", lambda parameters: superscript(first(parameters))),
    ("sub", lambda parameters: subscript(first(parameters))),
    ("pow", lambda parameters: f"{first(parameters)}{superscript(second(parameters))}"),
    ("gaps", everything("")),
    ("chem|chemical formula", _formula),
    ("chem2|chem/sandbox", _inline_formula),
    ("nuclide|simplenuclide|simplenuclide2|nuclide2|physics particle", _nuclide),
    ("co2|carbon dioxide", constant("CO₂")),
    ("h2o|water", constant("H₂O")),
    ("height", _height),
    ("music|audio music", _music),
    ("us$|usd|us dollar|currency|$", _money("US$")),
    *((name, _money(sign)) for name, _, sign in (pair.partition("=") for pair in _CURRENCIES.split())),
)
