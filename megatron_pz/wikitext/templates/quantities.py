"""Render numbers: fractions, powers, roots, measured values."""

from __future__ import annotations

import re
from typing import Final

from megatron_pz.wikitext.marks import FRACTION, UNREAD
from megatron_pz.wikitext.templates.parameters import (
    Parameters,
    Render,
    first,
    in_groups,
    knows,
    lowered,
    positional,
    raised,
    second,
    subscript,
    superscript,
    unless_empty,
)
from megatron_pz.wikitext.templates.units import quantity

NUMBER: Final = re.compile(r"[+\-−–]?(?:\d[\d,   ]*(?:\.\d+)?|\.\d+)(?:\(\d+\))?(?:\.\.\.|…)?$")
"""Matches a number as editors write it: with a sign, groups, a decimal fraction, an uncertainty, an ellipsis."""
_HYPHEN = re.compile(r"^[-–](?=[\d.])")
"""Matches a hyphen before a number, which is a minus."""
_COMPOUND = re.compile(r"[^\w.)\]}π∞°'’′]|(?<=\w)[+\-−*/](?=\w)")
_UNIT_POWER = re.compile(r"(?<=[^\W\d_])([−-]?\d+)(?=$|[./⋅·* ])")
_UNIT_NAMES: Final = {
    "degC": "°C",
    "degF": "°F",
    "arcsec": "″",
    "arcmin": "′",
    '"': "″",
    "'": "′",
    "M_Solar": "M☉",
    "M_Sun": "M☉",
    "Solar mass": "M☉",
    "solar mass": "M☉",
    "L_Solar": "L☉",
    "R_Solar": "R☉",
    "M_Earth": "M⊕",
    "Solar radius": "R☉",
    "solar radius": "R☉",
    "R_Sun": "R☉",
    "deg": "°",
    "Ohm": "Ω",
    "ohm": "Ω",
    "um": "μm",
    "Msun": "M☉",
    "Lsun": "L☉",
}


def fraction(parameters: Parameters) -> str:
    """Render ``{{frac|1|2}}`` -> 1/2, ``{{frac|3|1|4}}`` -> 3 1/4, ``{{frac|3}}`` -> 1/3."""
    values = positional(parameters)
    if not 1 <= len(values) <= 3 or not all(values[-2:]):
        return UNREAD
    values = [_HYPHEN.sub("−", value) for value in values]
    whole, above, below = ["", "1", "", *values][-3:] if len(values) > 1 else ["", "1", values[0]]
    part = f"{_grouped_term(above)}/{_grouped_term(below)}"
    return f"{FRACTION}{whole} {part}" if len(values) == 3 and whole else FRACTION + part


def _grouped_term(text: str) -> str:
    """Write a numerator or denominator, in parentheses if it has several terms."""
    return f"({text})" if _COMPOUND.search(text.strip().removeprefix("−")) else text


def named_fraction(name: str) -> str:
    """Render ``{{1/2}}``, whose name is the fraction."""
    return FRACTION + name


def value(parameters: Parameters) -> str:
    """Render ``{{val|6.24|0.01|e=18|u=m}}`` -> (6.24±0.01)×10¹⁸ m; ``{{val|5|-|10|u=kg}}`` -> 5–10 kg."""
    known = ("e", "u", "ul", "up", "upl", "fmt", "p", "s", "end", "errend", "nospan", "sortable", "9", "debug")
    values = [_HYPHEN.sub("−", value) for value in positional(parameters)]
    number = _measured(values) if knows(parameters, known) else None
    if number is None and not (not values and parameters.get("e")):
        return UNREAD
    text = number or ""
    if parameters.get("fmt") == "commas":
        text = re.sub(r"(?<![\d.])\d{4,}", lambda whole: in_groups(whole[0].lstrip("0") or "0"), text)
    if exponent := parameters.get("e"):
        if not re.fullmatch(r"[+\-−]?\d+", exponent):
            return UNREAD
        power = f"10{superscript(exponent.lstrip('+'))}"
        text = f"({text})" if text and len(values) > 1 and not values[1].startswith("(") else text
        text = f"{text}×{power}" if text else power
    if sign := _sign_of_value(parameters):
        text = (text if exponent else text.replace(" × ", f"{sign} × ")) + sign
    return f"{parameters.get('p', '')}{text}{parameters.get('s', '')}{parameters.get('end', '')}"


def _sign_of_value(parameters: Parameters) -> str:
    """Write the unit of ``{{val|5|ul=km|up=s}}`` as it stands behind the number -> " km/s", empty if there is none."""
    unit, per = parameters.get("u") or parameters.get("ul"), parameters.get("up") or parameters.get("upl")
    sign = unit_sign(unit) if unit else ""
    if per:
        is_one = not _UNIT_POWER.sub("", per).strip(".*⋅· ") or "." not in per
        sign += f"/{unit_sign(per)}" if is_one else f"/({unit_sign(per)})"
    return sign if not sign or sign in ("%", "°", "′", "″") or sign.startswith("/") else f" {sign}"


def _measured(values: list[str]) -> str | None:
    """Write a number with its uncertainty, or a range of numbers."""
    if not values or not NUMBER.match(values[0]):
        return None
    joints = {"-": "–", "–": "–", "to": " to ", "x": " × ", "×": " × ", "and": " and ", "or": " or ", "by": " by ",
              ",": ", ", "/": "/"}  # fmt: skip
    if len(values) > 1 and values[1] in joints:
        if len(values) % 2 == 0 or not all(map(NUMBER.match, values[::2])) or set(values[1::2]) - joints.keys():
            return None
        return values[0] + "".join(
            joints[joint] + number for joint, number in zip(values[1::2], values[2::2], strict=True)
        )
    if len(values) == 1:
        return values[0]
    if len(values) == 2 and re.fullmatch(r"\(\d+\)", values[1]):
        return values[0] + values[1]
    if len(values) == 2 and NUMBER.match(values[1]):
        return f"{values[0]}±{values[1].lstrip('+')}"
    if len(values) == 3 and all(map(NUMBER.match, values)) and values[1][0] != "−" and values[2][0] != "+":
        above, below = values[1].lstrip("+"), values[2].lstrip("-−–")
        return f"{values[0]} +{above}/−{below}"
    return None


def digits_in_groups(parameters: Parameters) -> str:
    """Render ``{{gaps|1|234|567|e=3|u=m}}`` -> 1234567×10³ m."""
    number = _HYPHEN.sub("−", "".join(positional(parameters)))
    exponent, unit = parameters.get("e", ""), parameters.get("u", "")
    power = superscript(exponent)
    if not number or not knows(parameters, ("e", "u")) or (exponent and power == exponent):
        return UNREAD
    return number + (f"×10{power}" if power else "") + (f" {unit_sign(unit)}" if unit else "")


def unit_sign(code: str) -> str:
    """Render ``m/s2`` -> m/s², the sign of a unit in the short notation of {{val}}."""
    code = code.strip()
    if code in _UNIT_NAMES:
        return _UNIT_NAMES[code]
    shown = _UNIT_POWER.sub(lambda power: superscript(power[1]), code)
    return shown if shown.endswith(".") else shown.replace(".", "⋅").replace("*", "⋅")  # m s.l.m. is abbreviated


def power_of_ten(parameters: Parameters) -> str:
    """Render ``{{e|24}}`` -> ×10²⁴."""
    exponent = first(parameters)
    if not exponent or superscript(exponent) == exponent:
        return UNREAD
    return ("10" if parameters.get("0") == "10^" else "×10") + superscript(exponent)


def power(parameters: Parameters) -> str:
    """Render ``{{pow|2|10}}`` -> 2¹⁰."""
    base, exponent = first(parameters), second(parameters)
    if not base or not exponent:
        return UNREAD
    above = superscript(exponent)
    return base + above if above != exponent else f"{base}^({exponent})"


def _raised_and_lowered(parameters: Parameters) -> str:
    """Render ``x{{su|p=2|b=1}}`` -> x₁²; ``{{subsup|x|1|2}}`` also has its base."""
    if parameters["0"] == "su":
        base, below, above = "", parameters.get("b", ""), parameters.get("p", "")
    else:
        base, below, above = ([*positional(parameters), "", "", ""])[:3]
    shown = base + (lowered(base or parameters["<"], below) if below else "")
    return unless_empty(shown + (raised(base or parameters["<"], above) if above else ""))


_INTEGRALS: Final = {"": "∫", "int": "∫", "iint": "∬", "iiint": "∭", "oint": "∮", "oiint": "∯", "oiiint": "∰"}


def _integral(parameters: Parameters) -> str:
    """Render ``{{intmath|int|0|1}}`` -> ∫₀¹."""
    sign, below, above = ([*positional(parameters), "", "", ""])[:3]
    if sign not in _INTEGRALS:
        return UNREAD
    return _INTEGRALS[sign] + _limit("_", below, subscript(below)) + _limit("^", above, superscript(above))


def _limit(sign: str, text: str, script: str) -> str:
    """Write a limit of an integral in small digits, or after a sign."""
    if not text or script != text:
        return script
    return f"{sign}{text}" if len(text) == 1 else f"{sign}({text})"


def root(parameters: Parameters) -> str:
    """Render ``{{sqrt|2}}`` -> √2, ``{{sqrt|a + b}}`` -> √(a + b), ``{{radic|2|3}}`` -> ³√2."""
    under, degree = first(parameters), second(parameters)
    if not under:
        return "√"
    if degree and superscript(degree) == degree:
        return UNREAD
    return f"{superscript(degree)}√{_grouped_term(under)}"


FUNCTIONS: dict[str, Render] = {
    "quantity": quantity,
    "fraction": fraction,
    "split_fraction": fraction,
    "value": value,
    "digits_in_groups": digits_in_groups,
    "power_of_ten": power_of_ten,
    "raised": lambda parameters: raised(parameters["<"], first(parameters)),
    "lowered": lambda parameters: lowered(parameters["<"], first(parameters)),
    "power": power,
    "root": root,
    "raised_and_lowered": _raised_and_lowered,
    "integral": _integral,
}
