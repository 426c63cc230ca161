"""Access a template's parameters, and render common forms of them and raised and lowered text."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Collection, Mapping

from megatron_pz.wikitext.marks import FRACTION, MARKS, UNKNOWN, UNREAD

Parameters = Mapping[str, str]
"""Positional parameters under "1", "2", …; named ones under their names; the template's name under "0", a
few characters in front of it under "<", and the wiki's language under "@". Values are stripped."""
Render = Callable[[Parameters], str]

_SUPERSCRIPTS = str.maketrans("0123456789+-−–=()n", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁻⁻⁼⁽⁾ⁿ")
_SUBSCRIPTS = str.maketrans("0123456789+-−–=()n", "₀₁₂₃₄₅₆₇₈₉₊₋₋₋₌₍₎ₙ")
RAISED_NUMERATOR = re.compile(r"(?:^|(?<=[\s\d(\-–—~≈$£€]))[⁰¹²³⁴⁵⁶⁷⁸⁹]+[/⁄]$")
"""Matches the numerator of a fraction that is written with raised and lowered digits; m² is none."""
_RAISABLE = re.compile(r"[0-9+\-−–=()n]+$")
_ENDINGS = frozenset(
    "st nd rd th er re ère ème eme me mes es lle lles te ier ière iers nde nds os as to vo mo ra ro ta ma va na da ño "
    "ña ie gr ts tm sm ste º ª".split()
)
"""Superscript endings (more than one letter) of ordinals and abbreviations, read as part of the word: 1st, Mme."""
_NUMBER_ENDINGS = "eoadrh"
_CAPITAL_ENDINGS = "rte"
_SMALL_ENDINGS = ("no", "vo", "fo", "ro")
_TIME = re.compile(r"\dh ?\d+$|\dm ?[\d.]+$")
"""Matches the text before the superscript m or s of a right ascension or a duration: 5h 35m 17s."""
_PUNCTUATION = ",;:"
_LONGEST_SCRIPT = 48
_FRACTION_MARK = re.compile(rf"(?<=\d){FRACTION}")


def small_number(text: str) -> int | None:
    """Parse decimal digits; return None for other text, and for more digits than a date or an age has.

    Python refuses to parse more than 4300 digits.
    """
    return int(text) if len(text) <= 9 and text.isdecimal() else None


def in_groups(digits: str, sign: str = ",") -> str:
    """Put a separator between groups of three digits.

    >>> in_groups("12345"), in_groups("123", "."), in_groups("123456", ".")
    ('12,345', '123', '123.456')
    """
    first_group = len(digits) % 3 or 3
    return sign.join([digits[:first_group], *(digits[at : at + 3] for at in range(first_group, len(digits), 3))])


def superscript(text: str) -> str:
    """Convert digits and signs to superscripts; leave other text unchanged."""
    return text.translate(_SUPERSCRIPTS) if _RAISABLE.match(text) else text


def subscript(text: str) -> str:
    """Convert digits and signs to subscripts; leave other text unchanged."""
    return text.translate(_SUBSCRIPTS) if _RAISABLE.match(text) else text


def raised(before: str, content: str) -> str:
    """Render raised text after ``before``, so that ``10<sup>6</sup>`` never becomes 106.

    >>> raised("10", "6"), raised("2", "1/2"), raised("3", "k"), raised("1", "st"), raised("10", "12 ")
    ('⁶', '^(1/2)', '^k', 'st', '¹² ')
    """
    return _scripted(before, content, "^", _SUPERSCRIPTS)


def lowered(before: str, content: str) -> str:
    """Render lowered text after ``before``.

    >>> lowered("H", "2"), lowered("x", "i"), lowered("T", "max")
    ('₂', '_i', '_max')
    """
    return _scripted(before, content, "_", _SUBSCRIPTS)


def fraction_of(numerator: str, denominator: str) -> str:
    """Render a fraction written with raised and lowered digits; a number in front of it is a whole number.

    >>> fraction_of("³/", "8").removeprefix(FRACTION)
    '3/8'
    """
    return f"{FRACTION}{unicodedata.normalize('NFKC', numerator[:-1])}/{denominator}"


def _scripted(before: str, content: str, sign: str, table: dict[int, int]) -> str:
    if content.isdecimal():
        return content.translate(table) if content.isascii() else content
    if FRACTION in content:
        content = _FRACTION_MARK.sub(" ", content).replace(FRACTION, "")
    text = content.strip()
    white = " " if content[len(content.rstrip()) :] else ""
    base = before[-1:]
    if not text or MARKS.search(text):
        return UNREAD if UNKNOWN in text else content
    if len(text) > 1 and text[-1] in _PUNCTUATION:
        return _scripted(before, text[:-1], sign, table) + text[-1] + white
    if _RAISABLE.match(text) and not (text in "n()" and not base.strip()):
        return text.translate(table) + white
    is_base = base.isalnum() or base in ")]}²³′π∑∏∫∮⋃⋂"
    is_part_of_word = sign == "^" and _is_ending(before, text)
    if not base or not is_base or is_part_of_word or not _is_formula(text):
        return content
    is_short = len(text) == 1 or (sign == "_" and text.isalnum()) or (text[0] == "(" and text[-1] == ")")
    return f"{sign}{text}{white}" if is_short else f"{sign}({text}){white}"


def _is_ending(before: str, text: str) -> bool:
    """Return whether raised text is the end of an ordinal or abbreviation, rather than an exponent."""
    word = re.search(r"\w*$", before)
    base = word[0] if word else ""
    if base == "M" and text in ("c", "ac"):  # McDonald
        return True
    if len(text.rstrip(".")) > 1:
        return text.casefold().rstrip(".") in _ENDINGS or (text.isalpha() and len(base) > 1 and base.isalpha())
    if text in "ms" and _TIME.search(before):
        return True
    if base[-1:].isdigit():
        return text in _NUMBER_ENDINGS
    if len(base) > 1:
        return text in "eorast" and base.isalpha()
    return text in _CAPITAL_ENDINGS or base + text == "No" if base.isupper() else base + text in _SMALL_ENDINGS


def _is_formula(text: str) -> bool:
    return len(text) <= _LONGEST_SCRIPT and text[0] not in "[*†‡§¶#,;:" and any(map(str.isalnum, text))


def positional(parameters: Parameters) -> list[str]:
    """List the positional parameters up to the first missing one."""
    values: list[str] = []
    while (value := parameters.get(str(len(values) + 1))) is not None:
        values.append(value)
    return values


def knows(parameters: Parameters, known: Collection[str]) -> bool:
    """Return whether every non-empty parameter is positional or one of ``known``."""
    return all(
        name.isdecimal() or name in ("<", "@") or name in known or not value for name, value in parameters.items()
    )


def first(parameters: Parameters) -> str:
    """Return the first positional parameter, empty if it is missing."""
    return parameters.get("1", "")


def second(parameters: Parameters) -> str:
    """Return the second positional parameter, empty if it is missing."""
    return parameters.get("2", "")


def last(parameters: Parameters) -> str:
    """Return the last positional parameter, empty if there is none."""
    return (positional(parameters) or [""])[-1]


def unless_empty(text: str) -> str:
    """Return the text, or, if it is empty, the mark of arguments that are not understood."""
    return text or UNREAD
