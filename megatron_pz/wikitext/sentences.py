"""Find sentence boundaries by the standard's sentence terminators (UAX #29) and each language's abbreviations.

Abbreviations, ordinals and further marks of a language are rows of ``data/sentences/<language>.toml``. If the rules are
uncertain, two sentences stay together. Thai and Lao have no full stop; a space between two letters ends a sentence
unless a conjunction follows. No boundary lies inside a grapheme cluster.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Final

import regex

from megatron_pz.wikitext.grapheme_clusters import EXTENDS, FIRST_MARK

_DATA: Final = Path(__file__).with_name("data") / "sentences"
_DEFAULT: Final = "en"
"""Language of the rules for text of unknown language: the base rules without additions."""
_EVERY_LANGUAGE: Final = "any"

# The standard's terminators (STerm) without those that need white space after them and without the Burmese comma, and
# the marks that the standard leaves out: Tibetan shad, Ethiopic double colon, Thai end of verse, fullwidth full stop.
_SPACELESS: Final = r"[[\p{SB=STerm}--[!?‼‽⁇⁈⁉၊]][།༎༏༐༑༔๚๛]]"
_FULLWIDTH_STOP: Final = r"(?<!\p{N})．|．(?!\p{N})"
_CLOSE: Final = r"[\p{Pe}\p{Pf}\"']"
_SPACED: Final = (
    rf"(?:(?<=[%s])(?<![%s]{{2}})[%s]*+[{_CLOSE}“‘]*+(?:\s[»›](?=\s))?\s+"  # terminators that white space must follow
    rf"|(?<={_SPACELESS}|፡፡|．)(?:\s*+{_SPACELESS})*+{_CLOSE}*+\s*"  # terminators of scripts that need no white space
    r"|(?<=\n)\s*)"
)
_SPACED_MARKS: Final = ".!?…‼‽⁇⁈⁉"
_CONTINUES: Final = ",;:)]–—-"
_SCRIPT_WITHOUT_STOPS: Final = r"[\p{Thai}\p{Lao}]"
_SPACE_ENDS: Final = rf"|(?<=[{_SCRIPT_WITHOUT_STOPS}{_CLOSE}])(?<![ๆໆฯຯ])\ +(?={_SCRIPT_WITHOUT_STOPS})(?!.{{1,3}}\.)"

_LAST_WORD: Final = regex.compile(r"[[\w\p{M}\p{N}.’'-]--[\p{Han}\p{Hiragana}\p{Katakana}]]+$", regex.V1)
_LONGEST_WORD: Final = 16
_ELIDED: Final = regex.compile(r"^\w+['’](?=\w\w)")
"""Matches an elided article before its noun: l'ing."""
_ROMAN: Final = regex.compile(r"[IVXLC]+")
_LONGEST_ORDINAL: Final = 3
_LETTER_WITHOUT_CASE: Final = regex.compile(
    r"[\p{Lo}--[\p{Hangul}\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}]]\p{M}*", regex.V1
)
_GEORGIAN: Final = regex.compile(r"\p{Georgian}")
_QUOTED_SPEECH: Final = regex.compile(
    r"[とっのなをが]|\p{Han}{0,4}?(?:[說说]|[問问答喊叫]道|回答)|(?:他|她|我|你|他們|他们|她們|她们)[問问答喊]"
)
"""Matches what continues a sentence after a quoted one: Japanese particles, Chinese "he said"."""
_SAMPLE: Final = 2000
"""Number of characters from which the language of a text is guessed."""
_SAMPLE_WORD: Final = regex.compile(r"[\p{L}\p{M}\u200c'’]+")


@dataclass(frozen=True)
class _Language:
    """The rules of one language, from a file of ``data/sentences``."""

    name: str
    wikis: tuple[str, ...] = ()
    script: str = ""
    common: frozenset[str] = frozenset()
    abbreviations: frozenset[str] = frozenset()
    before_numbers: frozenset[str] = frozenset()
    """A row with a star stands for all words with this ending."""
    ordinals: bool = False
    ends: str = ""
    spaces_end: bool = False
    continues: tuple[str, ...] = ()
    short_words: frozenset[str] = frozenset()

    @cached_property
    def endings_before_numbers(self) -> tuple[str, ...]:
        """Return the endings of words before numbers."""
        return tuple(row[1:] for row in self.before_numbers if row.startswith("*"))

    @cached_property
    def boundary(self) -> regex.Pattern[str]:
        """Return the pattern of candidates for the end of a sentence, with the white space after it."""
        marks = regex.escape(_SPACED_MARKS + self.ends, special_only=False)
        first = rf"(?:[{marks}\n]|{_SPACELESS}|፡፡|{_FULLWIDTH_STOP})"
        spaces = _SPACE_ENDS if self.spaces_end else ""
        return regex.compile(f"{first}{_SPACED % ((marks,) * 3)}{spaces}", regex.V1)


@lru_cache(maxsize=1)
def _languages() -> dict[str, _Language]:
    """Return all languages by name, each with the abbreviations that apply everywhere."""
    rows = {path.stem: tomllib.loads(path.read_text(encoding="utf-8")) for path in sorted(_DATA.glob("*.toml"))}
    everywhere = rows.pop(_EVERY_LANGUAGE)

    def words(row: dict[str, str], key: str) -> frozenset[str]:
        return frozenset(f"{everywhere.get(key, '')} {row.get(key, '')}".casefold().split())

    return {
        name: _Language(
            name,
            wikis=tuple(row.get("wikis", ())),
            script=row["script"],
            common=frozenset(row.get("common", "").split()),
            abbreviations=words(row, "abbreviations"),
            before_numbers=words(row, "before_numbers"),
            ordinals=row.get("ordinals", False),
            ends=row.get("ends", ""),
            spaces_end=row.get("spaces_end", False),
            continues=tuple(row.get("continues", "").split()),
            short_words=frozenset(row.get("short_words", "").split()),
        )
        for name, row in rows.items()
    }


@lru_cache(maxsize=1)
def _names() -> dict[str, str]:
    """Map the codes of wikis to the name of their language."""
    return {code: language.name for language in _languages().values() for code in (language.name, *language.wikis)}


@lru_cache(maxsize=1)
def _scripts() -> dict[str, regex.Pattern[str]]:
    return {language.script: regex.compile(rf"\p{{{language.script}}}") for language in _languages().values()}


def guess_language(text: str) -> str:
    """Guess the language of a text from its script and its frequent words, for the purpose of cutting sentences.

    The result is a language of ``data/sentences``, English without evidence for another one. It depends only on the
    first 2000 characters.
    """
    text = text[:_SAMPLE]
    if text.isascii():
        script = "Latin"
    else:
        counts = {script: len(letters.findall(text)) for script, letters in _scripts().items()}
        script = max(counts, key=lambda name: counts[name])
        if not counts[script]:
            return _DEFAULT
    candidates = [language for language in _languages().values() if language.script == script]
    candidates.sort(key=lambda language: language.name != _DEFAULT)
    words = [word.casefold() for word in _SAMPLE_WORD.findall(text)] if len(candidates) > 1 else []
    return max(candidates, key=lambda language: sum(word in language.common for word in words)).name


def sentences(paragraph: str, language: str = "") -> list[str]:
    """Split a paragraph into sentences, each with the white space after it, so that joining them restores it.

    Args:
        paragraph: Text without markup.
        language: Code of its language as the wiki names it (``de``, ``zh-yue``). If it is empty or has no rules, the
            language is guessed from the paragraph.
    """
    name = _names().get(language) or _names().get(language.partition("-")[0]) or guess_language(paragraph)
    rules = _languages()[name]
    bounds = [0, *_bounds(paragraph, rules), len(paragraph)]
    return [paragraph[start:end] for start, end in pairwise(bounds) if start < end]


def _bounds(paragraph: str, rules: _Language) -> Iterator[int]:
    start = 0
    for end in rules.boundary.finditer(paragraph):
        if end.end() < len(paragraph) and _ends_sentence(paragraph, start, end, rules):
            start = end.end()
            yield start


def _ends_sentence(paragraph: str, start: int, end: regex.Match[str], rules: _Language) -> bool:
    """Return whether a candidate between two characters of the paragraph ends a sentence."""
    mark = end[0].rstrip()
    following = paragraph[end.end()]
    if following >= FIRST_MARK and EXTENDS.match(following):
        return False
    continues = paragraph.startswith(rules.continues, end.end())
    if not mark:
        return "\n" in end[0] or not (continues or paragraph.endswith(rules.continues, start, end.start()))
    if mark[0] in rules.ends:
        return following.isupper()
    if mark[0] not in _SPACED_MARKS:
        return not (continues or (mark[-1] in "」』”" and _QUOTED_SPEECH.match(paragraph, end.end())))
    if following in _CONTINUES or (following.islower() and not _GEORGIAN.match(following)):
        return False
    return mark != "." or not _is_abbreviation(paragraph, max(start, end.start() - _LONGEST_WORD), end, rules)


def _is_abbreviation(paragraph: str, start: int, end: regex.Match[str], rules: _Language) -> bool:
    """Return whether the full stop belongs to the word before it: an abbreviation, an initial or an ordinal."""
    word = _LAST_WORD.search(paragraph, start, end.start())
    if word is None or paragraph[word.start() - 1 : word.start()] == "°":
        return False
    last = word[0].strip("'’-")
    follows_number = paragraph[end.end()].isdigit()
    if last in rules.short_words:
        return False
    if rules.ordinals and _is_ordinal(last, follows_number):
        return True
    if (
        len(last) == 1 and (last.isupper() or (last.isalpha() and rules.name != _DEFAULT))
    ) or _LETTER_WITHOUT_CASE.fullmatch(last):
        return True
    last = last.casefold()
    elided = _ELIDED.sub("", last)
    if elided in rules.abbreviations or ("." in last and not last.replace(".", "").isdigit()):
        return True
    return follows_number and (elided in rules.before_numbers or elided.endswith(rules.endings_before_numbers))


def _is_ordinal(word: str, follows_number: bool) -> bool:
    """Return whether a full stop makes ``3``, ``XIV`` or the day ``3.10`` an ordinal; a year ends a sentence."""
    if _ROMAN.fullmatch(word):
        return True
    digits = word.rpartition(".")[2]
    return digits.isdigit() and (len(digits) <= _LONGEST_ORDINAL or follows_number)
