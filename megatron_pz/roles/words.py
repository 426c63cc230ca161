"""Find content words, proper names and forms of one word in a passage; ``wikitext.words`` defines words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import regex

from megatron_pz.wikitext.words import SPACED_WORD, UNSPACED, WORD

_NAME_WORD = r"\p{Lu}" + SPACED_WORD
_NAME = regex.compile(rf"(?<=[\p{{Ll}},] ){_NAME_WORD}(?: {_NAME_WORD}){{0,2}}", regex.V1)

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

_IDEOGRAPHS_A_WORD = 2
_CLUSTERS_A_WORD = 3
_KATAKANA = regex.compile(r"\p{Katakana}")
_IDEOGRAPH = regex.compile(r"\p{Han}")
_RUN = regex.compile(rf"{SPACED_WORD}|\p{{Katakana}}[\p{{Katakana}}ー]*+|\p{{Han}}++|[\p{{LineBreak=SA}}]++", regex.V1)
"""A word of a script with spaces or of katakana, or a run of ideographs or of clusters."""


def content_words(passage: str) -> list[str]:
    """List the passage's words in order, repeats included, without function words and words of one or two characters.

    In scripts without spaces, runs of ideographs are split into pairs, the most common word length, and runs of
    orthographic clusters into threes. Hiragana, which mostly writes particles and endings, is left out.
    """
    return [word for word in _candidates(passage) if word.casefold() not in FUNCTION_WORDS]


def _candidates(passage: str) -> Iterator[str]:
    if passage.isascii() or not UNSPACED.search(passage):
        yield from (match.group() for match in WORD.finditer(passage) if len(match.group()) > 2)
        return
    for run in _RUN.finditer(passage):
        if UNSPACED.match(run.group()) and not _KATAKANA.match(run.group()):
            units = [match.group() for match in WORD.finditer(run.group())]
            width = _IDEOGRAPHS_A_WORD if _IDEOGRAPH.match(run.group()) else _CLUSTERS_A_WORD
            yield from ("".join(units[start : start + width]) for start in range(0, len(units) - width + 1, width))
        elif len(run.group()) > 2:
            yield run.group()


def repeated_words(passage: str) -> list[str]:
    """List the content words that occur more than once, each once, in order of first appearance."""
    return [word for word, count in Counter(content_words(passage)).items() if count > 1]


def names(passage: str) -> list[str]:
    """List the runs of one to three capitalised words after a lower-case word or a comma, mostly proper names."""
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
    """Return whether two words may be one word in different case or regular English inflection.

    This is true of ``City``/``cities`` and ``elevate``/``Elevating``, but not of the derivation
    ``elevate``/``elevation``. Irregular forms (``went``) are missed, and look-alikes such as ``news``/``new`` are
    mistaken for inflections.
    """
    return not _possible_stems(first).isdisjoint(_possible_stems(second))
