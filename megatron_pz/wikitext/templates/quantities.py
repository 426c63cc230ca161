"""Render numbers: fractions, powers, measured values, chemical formulas, sums of money, heights, coordinates."""

from __future__ import annotations

import re
from typing import Final

from megatron_pz.wikitext.language_data import ENGLISH, language_file
from megatron_pz.wikitext.marks import DROPPED, FRACTION, UNREAD
from megatron_pz.wikitext.templates.expressions import value_of
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
from megatron_pz.wikitext.templates.units import grouped, in_words, quantity

_NUMBER = re.compile(r"[+\-−–]?(?:\d[\d,   ]*(?:\.\d+)?|\.\d+)(?:\(\d+\))?(?:\.\.\.|…)?$")
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
_CURRENCY_SIGNS: Final = {name: sign for sign, names in language_file("en")["currencies"].items() for name in names}


def fraction(parameters: Parameters) -> str:
    """Render ``{{frac|1|2}}`` -> 1/2, ``{{frac|3|1|4}}`` -> 3 1/4, ``{{frac|3}}`` -> 1/3."""
    values = positional(parameters)
    if not 1 <= len(values) <= 3 or not all(values[-2:]):
        return UNREAD
    whole, above, below = ["", "1", "", *values][-3:] if len(values) > 1 else ["", "1", values[0]]
    part = f"{_grouped_term(above)}/{_grouped_term(below)}"
    return f"{FRACTION}{whole} {part}" if len(values) == 3 and whole else FRACTION + part


def _grouped_term(text: str) -> str:
    """Write a numerator or denominator, in parentheses if it has several terms."""
    return f"({text})" if _COMPOUND.search(text.strip()) else text


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
    unit, per = parameters.get("u") or parameters.get("ul"), parameters.get("up") or parameters.get("upl")
    if unit or per:
        sign = unit_sign(unit) if unit else ""
        if per:
            sign += (
                f"/{unit_sign(per)}"
                if not _UNIT_POWER.sub("", per).strip(".*⋅· ") or "." not in per
                else f"/({unit_sign(per)})"
            )
        text += sign if sign in ("%", "°", "′", "″") else f" {sign}" if not sign.startswith("/") else sign
    return f"{parameters.get('p', '')}{text}{parameters.get('s', '')}{parameters.get('end', '')}"


def _measured(values: list[str]) -> str | None:
    """Write a number with its uncertainty, or a range of numbers."""
    if not values or not _NUMBER.match(values[0]):
        return None
    joints = {"-": "–", "–": "–", "to": " to ", "x": " × ", "×": " × ", "and": " and ", "or": " or ", "by": " by ",
              ",": ", ", "/": "/"}  # fmt: skip
    if len(values) > 1 and values[1] in joints:
        if len(values) % 2 == 0 or not all(map(_NUMBER.match, values[::2])) or set(values[1::2]) - joints.keys():
            return None
        return values[0] + "".join(
            joints[joint] + number for joint, number in zip(values[1::2], values[2::2], strict=True)
        )
    if len(values) == 1:
        return values[0]
    if len(values) == 2 and re.fullmatch(r"\(\d+\)", values[1]):
        return values[0] + values[1]
    if len(values) == 2 and _NUMBER.match(values[1]):
        return f"{values[0]}±{values[1].lstrip('+')}"
    if len(values) == 3 and all(map(_NUMBER.match, values)) and values[1][0] != "−" and values[2][0] != "+":
        above, below = values[1].lstrip("+"), values[2].lstrip("-−–")
        return f"{values[0]} +{above}/−{below}"
    return None


def digits_in_groups(parameters: Parameters) -> str:
    """Render ``{{gaps|1|234|567|e=3|u=m}}`` -> 1234567×10³ m."""
    number = "".join(positional(parameters))
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
    return _UNIT_POWER.sub(lambda power: superscript(power[1]), code).replace(".", "⋅").replace("*", "⋅")


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
    r"|(?P<sign>[+\-−])(?=$|\()|(?P<text>[A-Za-z]+|[()\[\]{}\d.,'=≡–·→⇌←−:/-]|[^\x00-\x7f])"
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
    if not element or parameters.get("3"):
        return UNREAD
    return f"{element.capitalize()}-{mass}" if len(element) > 2 and mass else f"{superscript(mass)}{element}"


def money(parameters: Parameters) -> str:
    """Render ``{{GBP|100}}`` -> £100; ``{{US$}}`` shows only the sign."""
    if second(parameters) or not knows(parameters, ("link", "long", "round", "year", "first", "about", "lk")):
        return UNREAD
    return (_CURRENCY_SIGNS[parameters["0"]] + grouped(first(parameters), parameters.get("@") in ENGLISH)).rstrip()


def money_in_currency(parameters: Parameters) -> str:
    """Render ``{{currency|100|GBP}}`` -> £100."""
    sign = _CURRENCY_SIGNS.get((second(parameters) or parameters.get("type", "")).casefold())
    amount = first(parameters) or parameters.get("amount", "")
    known = ("amount", "type", "linked", "link", "first", "passthrough", "fmt")
    if sign is None or not amount or not knows(parameters, known):
        return UNREAD
    return sign + grouped(amount, True)


_INDIAN_SCALES: Final = {"": "", "k": " thousand", "l": " lakh", "c": " crore", "lc": " lakh crore", "m": " million",
                         "b": " billion", "t": " trillion"}  # fmt: skip


def _indian_rupees(parameters: Parameters) -> str:
    """Render ``{{INRConvert|700|c}}`` -> ₹700 crore, without the conversion."""
    amount, scale = first(parameters), _INDIAN_SCALES.get(second(parameters))
    if scale is None or not _NUMBER.match(amount):
        return UNREAD
    return f"₹{grouped(amount, True)}{scale}"


def height(parameters: Parameters) -> str:
    """Render ``{{height|ft=5|in=11}}`` -> 5 ft 11 in."""
    order = ("ft", "in", "m", "cm")
    shown = " ".join(f"{parameters[unit].replace('+', ' ')} {unit}" for unit in order if parameters.get(unit))
    ignored = ("precision", "wiki", "abbr", "out", "lk")
    return unless_empty(shown) if knows(parameters, (*order, *ignored)) else UNREAD


def musical_sign(parameters: Parameters) -> str:
    """Render ``{{music|sharp}}`` -> ♯."""
    signs = {"sharp": "♯", "flat": "♭", "natural": "♮", "#": "♯", "b": "♭", "doublesharp": "𝄪", "doubleflat": "𝄫",
             "##": "𝄪", "bb": "𝄫", "n": "♮", "dim": "o", "dimdeg": "o", "halfdim": "ø",
             "quarter": "♩", "eighth": "♪", "common-time": "𝄴", "cut-time": "𝄵", "segno": "𝄋", "coda": "𝄌",
             "fermata": "𝄐", "treble": "𝄞", "bass": "𝄢", "alto": "𝄡"}  # fmt: skip
    values = positional(parameters)
    if len(values) == 3 and values[0] == "time":
        return f"{values[1]}/{values[2]}"
    if len(values) != 1:
        return UNREAD
    return signs.get(values[0], UNREAD)


def rail_gauge(parameters: Parameters) -> str:
    """Render ``{{track gauge|1435mm}}`` -> 1,435 mm; ``{{track gauge|3ft6in}}`` -> 3 ft 6 in."""
    code = first(parameters).casefold().replace(" ", "")
    if code in ("sg", "std", "standard", "ussg", "uksg"):
        return "standard gauge" if "first" in parameters else "4 ft 8 1/2 in"
    if metric := re.fullmatch(r"([\d,.]+)mm", code):
        return f"{grouped(metric[1], True)} mm"
    feet = re.fullmatch(r"(?:(\d+)ft)?(?:(\d+)(?:\.5|(½))?in)?", code)
    if feet is None or not (feet[1] or feet[2]):
        return UNREAD
    half = " 1/2" if "½" in code or ".5" in code else ""
    return " ".join(filter(None, [feet[1] and f"{feet[1]} ft", feet[2] and f"{feet[2]}{half} in"]))


def ordinal(parameters: Parameters) -> str:
    """Render ``{{ordinal|22}}`` -> 22nd."""
    number = first(parameters)
    if not number.isdecimal():
        return UNREAD
    end = "th" if number[-2:] in ("11", "12", "13") else {"1": "st", "2": "nd", "3": "rd"}.get(number[-1], "th")
    return number + end


def percentage(parameters: Parameters) -> str:
    """``{{percentage|1|3|1}}`` -> 33.3%."""
    part, whole = first(parameters), second(parameters)
    digits = parameters.get("3", "") or "0"
    if not re.fullmatch(r"\d", digits) or not knows(parameters, ()):
        return UNREAD
    value = value_of(f"100 * ({part}) / ({whole})") and value_of(f"100 * ({part}) / ({whole}) round {digits}")
    return f"{float(value):.{digits}f}%" if value else UNREAD


def spelled_number(parameters: Parameters) -> str:
    """``{{spellnum|42}}`` -> forty-two."""
    return (in_words(first(parameters)) if knows(parameters, ()) else "") or UNREAD


def plus_minus(parameters: Parameters) -> str:
    """Render ``{{±|5}}`` -> ±5, ``{{±|5|2}}`` -> +5/−2."""
    values = positional(parameters)
    return f"+{values[0]}/−{values[1]}" if len(values) == 2 else f"±{first(parameters)}"


def coordinates(parameters: Parameters) -> str:
    """Render ``{{coord|13|19|N|169|9|W}}`` -> 13°19′N 169°9′W; nothing if they are shown only in the page's title."""
    display = parameters.get("display", "").replace(" ", "").casefold()
    if display in ("title", "titre", "t", "ti"):
        return DROPPED
    values = [part for part in positional(parameters) if ":" not in part and part]
    half = len(values) // 2
    if len(values) in (4, 6, 8) and values[half - 1] in ("N", "S") and values[-1] in ("E", "W", "O"):
        angles = [_angle(values[:half]), _angle(values[half:])]
    elif len(values) == 2:
        angles = [_signed_angle(values[0], "NS"), _signed_angle(values[1], "EW")]
    else:
        return UNREAD
    return UNREAD if None in angles else " ".join(filter(None, angles))


def _angle(parts: list[str]) -> str | None:
    *numbers, direction = parts
    if not all(re.fullmatch(r"\d+(?:\.\d+)?", number) for number in numbers):
        return None
    return "".join(number + sign for number, sign in zip(numbers, "°′″", strict=False)) + direction


def _signed_angle(number: str, directions: str) -> str | None:
    if not re.fullmatch(r"[+\-−]?\d+(?:\.\d+)?", number):
        return None
    return f"{number.lstrip('+-−')}°{directions[number[0] in '-−']}"


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
    "formula_of_elements": formula_of_elements,
    "inline_formula": inline_formula,
    "nuclide": nuclide,
    "money": money,
    "money_in_currency": money_in_currency,
    "indian_rupees": _indian_rupees,
    "height": height,
    "musical_sign": musical_sign,
    "rail_gauge": rail_gauge,
    "ordinal": ordinal,
    "plus_minus": plus_minus,
    "percentage": percentage,
    "spelled_number": spelled_number,
    "coordinates": coordinates,
}
