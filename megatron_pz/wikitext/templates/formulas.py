"""Render chemical formulas, nuclides and particles."""

from __future__ import annotations

import re
from typing import Final

from megatron_pz.wikitext.language_data import language_file
from megatron_pz.wikitext.marks import UNREAD
from megatron_pz.wikitext.templates.parameters import (
    Parameters,
    Render,
    first,
    knows,
    lowered,
    positional,
    raised,
    second,
    subscript,
    superscript,
)

_CHARGE = re.compile(r"(\d*)([+\-−–])$")


def formula_of_elements(parameters: Parameters) -> str:
    """Render ``{{chem|SO|4|2-}}`` -> SO₄²⁻: numbers after an element are counts, a final sign is the charge."""
    values = positional(parameters)
    if not any(values[:1]) or not knows(parameters, ("link", "nolink")):
        return UNREAD
    shown = ""
    for place, part in enumerate(values):
        if _CHARGE.fullmatch(part):
            shown += superscript(part)
        elif part[:1].isdigit() or re.fullmatch(r"[nmxyk](?:[+\-−]\d+)?", part):
            if place < 2 and not any(any(map(str.isalpha, earlier)) for earlier in values[:place]):
                shown += superscript(part) if place == 0 else subscript(part)
            else:
                shown += subscript(part)
        else:
            shown += part
    return shown


_ARROWS = {"->": "→", "<-": "←", "<->": "⇌", "<=>": "⇌", "<==>": "⇌", "=>": "⇒"}
_FORMULA_TOKEN = re.compile(
    r"(?P<above>\^(?:\{(?P<raised>[^{}]+)\}|[0-9n+\-−]+))|(?P<below>_(?:\{(?P<lowered>[^{}]+)\}|[0-9n+\-−]+))"
    r"|\((?P<charge>\d*[+\-−])\)|(?P<bond>\\[sdt])|(?P<dot>\*)|(?P<count>(?<=[A-Za-z)\]}])\d+(?:\.\d+)?)"
    r"|(?P<sign>[+\-−](?=$|\()|\+(?=[A-Z\[]))|(?P<text>[A-Za-z]+|[()\[\]{}\d.,'=≡–·→⇌←−:/-]|[^\x00-\x7f])"
)


def inline_formula(parameters: Parameters) -> str:
    """Render ``{{chem2|CO3(2-)}}`` -> CO₃²⁻, in the template's own short notation."""
    source = first(parameters)
    if not source or not knows(parameters, ("link", "auto", "nolink")) or second(parameters):
        return UNREAD
    words = []
    for word in source.split():
        shown = word if word == "+" else _ARROWS.get(word) or _one_formula(word)
        if shown is None:
            return UNREAD
        words.append(shown)
    return " ".join(words)


def _one_formula(word: str) -> str | None:
    shown, start, is_behind_script = "", 0, False
    for token in _FORMULA_TOKEN.finditer(word):
        if token.start() != start:
            return None
        if token["count"] and is_behind_script:  # 1s^{2}2s^{2}
            shown, start = shown + token["count"], token.end()
            continue
        is_behind_script = bool(token["above"] or token["below"])
        start = token.end()
        if token["charge"] or token["sign"]:
            shown += superscript(token["charge"] or token["sign"])
        elif token["above"]:
            shown += raised("X", token["raised"] or token["above"][1:])
        elif token["below"] or token["count"]:
            shown += lowered("X", token["count"] or token["lowered"] or token["below"][1:])
        elif token["bond"]:
            shown += {"s": "–", "d": "=", "t": "≡"}[token["bond"][1]]
        else:
            shown += "·" if token["dot"] else token["text"]
    return shown if start == len(word) else None


def nuclide(parameters: Parameters) -> str:
    """Render ``{{nuclide|carbon|14}}`` -> ¹⁴carbon."""
    element, mass = first(parameters), second(parameters)
    if not element or parameters.get("3") or not knows(parameters, ("link", "anchor")):
        return UNREAD
    return f"{element.capitalize()}-{mass}" if len(element) > 2 and mass else f"{superscript(mass)}{element}"


_PARTICLES: Final = {name: sign for sign, names in language_file("en")["particles"].items() for name in names}


def subatomic_particle(parameters: Parameters) -> str:
    """Render ``{{subatomic particle|electron|link=yes}}`` -> e⁻."""
    if second(parameters) or not knows(parameters, ("link",)):
        return UNREAD
    return _PARTICLES.get(first(parameters).casefold(), UNREAD)


FUNCTIONS: dict[str, Render] = {
    "subatomic_particle": subatomic_particle,
    "formula_of_elements": formula_of_elements,
    "inline_formula": inline_formula,
    "nuclide": nuclide,
}
