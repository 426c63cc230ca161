"""Words of a passage: where they begin and end, which carry content, and which are forms of one another."""

from __future__ import annotations

import unicodedata
from collections import Counter

import regex

_LETTERS = r"[\p{L}\p{M}\p{N}]+"
_JOINED = rf"(?:[-'’]{_LETTERS})*"

WORD = regex.compile(_LETTERS + _JOINED)
"""Letters, combining marks and digits of any script; hyphens and apostrophes inside a word belong to it."""

_NAME_WORD = r"\p{Lu}" + _LETTERS + _JOINED
_NAME = regex.compile(rf"(?<=[\p{{Ll}},] ){_NAME_WORD}(?: {_NAME_WORD}){{0,2}}")

_FUNCTION_WORDS = """
    a about after against all along also although among an and another any are around as at be became because
    been before being between both but by called can could did do does during each early either else for from
    had has have having he her here him his how however i if in including into it its itself known later like
    made many may might more most much must neither no nor not now of often on once one only onto or other
    others our out over own said same several she should since so some still such than that the their them then
    there these they this those three through thus to too two under until up upon us used using very was we well
    were what when where whether which while who whom whose why will with within without would yet you your
"""

FUNCTION_WORDS = frozenset(_FUNCTION_WORDS.split())
"""English words that say little about a passage's subject (lower case)."""


def is_word_character(character: str) -> bool:
    """Whether a character is part of a word: a letter, a digit or a combining mark of any script."""
    return character.isalnum() or unicodedata.category(character).startswith("M")


def content_words(passage: str) -> list[str]:
    """The passage's words in order, repeats included, without function words and words of one or two characters."""
    words = (match.group() for match in WORD.finditer(passage))
    return [word for word in words if len(word) > 2 and word.casefold() not in FUNCTION_WORDS]


def repeated_words(passage: str) -> list[str]:
    """Content words that stand in the passage more than once, each listed once, in order of first appearance."""
    return [word for word, count in Counter(content_words(passage)).items() if count > 1]


def names(passage: str) -> list[str]:
    """Runs of one to three capitalised words after a lower-case word or a comma: proper names, mostly."""
    return [match.group() for match in _NAME.finditer(passage)]


_SHORTEST_STEM = 3
_INFLECTIONS = (("s", ("",)), ("es", ("",)), ("ies", ("y",)), ("ed", ("", "e")), ("ied", ("y",)), ("ing", ("", "e")))


def _possible_stems(word: str) -> set[str]:
    word = regex.sub(r"['’]s?$", "", word.casefold())
    stems = {word}
    for ending, restored in _INFLECTIONS:
        stem = word.removesuffix(ending)
        if stem == word or len(stem) < _SHORTEST_STEM:
            continue
        stems.update(stem + tail for tail in restored)
        if stem[-1] == stem[-2]:  # "running" comes from "run"
            stems.add(stem[:-1])
    return stems


def same_word(first: str, second: str) -> bool:
    """Whether two words may be one word in another case or another regular English inflection.

    ``City``/``cities`` and ``elevate``/``Elevating`` are; ``elevate``/``elevation`` is a derivation and is not.
    Irregular forms (``went``) are missed, and a look-alike such as ``news``/``new`` is taken for an inflection.
    """
    return not _possible_stems(first).isdisjoint(_possible_stems(second))
