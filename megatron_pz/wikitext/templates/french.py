"""Templates of the French Wikipedia that stand inside its sentences."""

from __future__ import annotations

from megatron_pz.wikitext.templates.parameters import (
    Parameters,
    Render,
    constant,
    everything,
    positional,
    renderers,
    superscript,
)


def _unit(parameters: Parameters) -> str:
    """``{{unité|10|km|2}}`` -> 10 km²: a number, and units each of which may have an exponent behind it."""
    values = [value for value in positional(parameters) if value]
    text = ""
    for number, value in enumerate(values):
        is_exponent = number > 1 and value.lstrip("-−").isdigit()
        text += superscript(value) if is_exponent else f" {value}" if text else value
    return text


def _centuries(word: str) -> Render:
    """``{{s|XIX|e}}`` -> XIXe siècle, ``{{sp|XVI|e|et|XVII|e}}`` -> XVIe et XVIIe siècles."""

    def render(parameters: Parameters) -> str:
        values = positional(parameters)
        if len(values) >= 5:
            return f"{values[0]}{values[1]} {values[2]} {values[3]}{values[4]} {word}".rstrip()
        return f"{''.join(values[:2])} {word}".rstrip() if values else ""

    return render


RENDERERS = renderers(
    ("unité|nombre|nb", _unit),
    ("siècle|-s|s2", _centuries("siècle")),
    ("s-|sp-|siècle-", _centuries("")),
    ("sp", _centuries("siècles")),
    ("1er", constant("1er")),
    ("1re", constant("1re")),
    ("ier", constant("Ier")),
    ("av jc|av. j.-c.|-jc", constant("av. J.-C.")),
    ("apr jc|ap jc", constant("apr. J.-C.")),
    ("date-|date de naissance-|date de naissance|date de décès", everything(" ")),
)

OF_FRENCH_WIKIS = renderers(("date", everything(" ")), ("s", _centuries("siècle")))
"""Names that mean something else in English."""
