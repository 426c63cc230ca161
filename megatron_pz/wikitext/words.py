"""Define words of every script: one rule for counts, spans, masks and the places where a passage may be cut.

In scripts with spaces between words, a word is a run of letters, combining marks and digits; hyphens and apostrophes
inside it belong to it, as do the joiners and word-internal marks of the script (Persian ZWNJ, Hebrew gershayim,
Armenian ``՞``). In other scripts, a word is the unit of UAX #29 without a dictionary, or a larger unit if the script
itself shows that no word ends:

- an ideograph is a word (``长江`` are two), and so is a syllable of hiragana; a run of katakana is one word;
- in Thai, Lao, Khmer, Burmese and similar scripts a word is an orthographic cluster: leading vowels, a consonant with
  its marks, following vowels, stacked consonants and Burmese finals. Every true word boundary lies between two
  clusters;
- in Tibetan and Ethiopic, the tsheg and the wordspace separate words as spaces do.

A dictionary would find longer words, but its data differ between releases of ICU, and so would the corpora.
"""

from __future__ import annotations

import re
from typing import Final

import regex

from megatron_pz.wikitext.grapheme_clusters import EXTENDS, is_inside_flag
from megatron_pz.wikitext.scanner_form import is_simply_spaced, words_of

# Character classes, for use between brackets in patterns of version 1.
_IDEOGRAPHS: Final = r"[\p{Han}&&[\p{L}\p{N}]]"
_KATAKANA: Final = r"[\p{Katakana}&&\p{L}]ーｰﾞﾟ"
_COMPLEX: Final = r"[\p{LineBreak=SA}&&\p{L}]"
_BEFORE_CONSONANTS: Final = r"\p{Logical_Order_Exception}"
_MAX_LEADING_VOWELS: Final = 4
"""Largest number of vowels before a consonant. A word has at most two; the bound keeps the search linear."""
_AFTER_CONSONANTS: Final = "ะาำๅๆฯະາຳຽໆຯៗ"
_SMALL_KANA: Final = "ぁぃぅぇぉっゃゅょゎゕゖーゝゞ"
_THAI_TAILS: Final = r"(?<=ื[่-๋]?)อ|(?<=เ\p{Thai}{1,2}ี[่-๋]?)ย|(?<=ั[่-๋]?)ว"
"""Letters that form a vowel with the preceding marks: ``เมือ``, ``เรีย``, ``ตัว``."""
_STACKERS: Final = "\u1039\u17d2\u1a60\uaaf6"
_IN_UNSPACED: Final = rf"{_IDEOGRAPHS}\p{{Hiragana}}{_KATAKANA}{_COMPLEX}"
_IN_SPACED: Final = rf"[[\p{{L}}\p{{M}}\p{{N}}՚-՜՞՟֊]--[{_IN_UNSPACED}]]"

_LETTERS: Final = rf"{_IN_SPACED}++(?:\p{{Cf}}++{_IN_SPACED}++)*+"
_JOINER: Final = r"[-'’]|(?<=\p{Hebrew})[\"״׳](?=\p{Hebrew})|(?<=[lL])·(?=[lL])"
SPACED_WORD: Final = rf"{_LETTERS}(?:(?:{_JOINER}){_LETTERS})*"
"""Pattern (``regex`` version 1) of a word in a script with spaces."""
_CLUSTER: Final = (
    rf"[{_BEFORE_CONSONANTS}]{{0,{_MAX_LEADING_VOWELS}}}+[{_COMPLEX}--[{_BEFORE_CONSONANTS}{_AFTER_CONSONANTS}]]"
    rf"(?:[\p{{M}}{_AFTER_CONSONANTS}]|(?<=[{_STACKERS}]){_COMPLEX}|[က-အ]့?်|{_THAI_TAILS})*+"
    rf"|{_COMPLEX}\p{{M}}*+"
)
_UNSPACED_WORD: Final = (
    rf"{_IDEOGRAPHS}[\p{{M}}々〻]*+|[\p{{Katakana}}&&\p{{L}}][{_KATAKANA}\p{{M}}]*+"
    rf"|[\p{{Hiragana}}ー][\p{{M}}{_SMALL_KANA}]*+|{_CLUSTER}"
)

WORD: Final = regex.compile(rf"{SPACED_WORD}|{_UNSPACED_WORD}", regex.V1)
"""Matches a word without the surrounding punctuation."""

_UNSPACED_RANGES: Final = (
    "\u0e00-\u109f\u1361\u1780-\u17ff\u1950-\u19ff\u1a20-\u1aaf\u2e80-\u2fdf\u3005-\u3007\u3021-\u303b\u3041-\u3096"
    "\u309d-\u30ff\u3105-\u312f\u31a0-\u31bf\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\ua9e0-\ua9ff\uaa60-\uaadf"
    "\uf900-\ufaff\uff66-\uff9f\U00011700-\U0001174f\U00016fe0-\U00016fff\U0001aff0-\U0001b16f\U00020000-\U0003ffff"
)
UNSPACED: Final = re.compile(f"[{_UNSPACED_RANGES}]")
"""Matches a character of a script without spaces between words. ``re`` searches much faster than ``regex``."""
_OTHER_WHITE_SPACE: Final = "\t\r\x0b\x0c\x1c-\x1f\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
_SPECIAL: Final = re.compile(f"[{_UNSPACED_RANGES}{_OTHER_WHITE_SPACE}]")

_WORD_CHARACTER: Final = regex.compile(rf"[{_IN_SPACED}{_IN_UNSPACED}\p{{Cf}}]", regex.V1)
_UNSPACED_CHARACTER: Final = regex.compile(rf"[{_IN_UNSPACED}]", regex.V1)
_JOINER_OF_SIGNS: Final = "\u200d"
_OPENING: Final = regex.compile(r"[\p{Ps}\p{Pi}]")
_RUN: Final = re.compile(rf"[\u3400-\u4dbf\u4e00-\u9fff々〻]+|(?![{_SMALL_KANA}])[ぁ-ゖ][ぁ-ゖゝゞー]*")
"""Matches a run of ideographs with iteration marks or of hiragana; each character is a word or belongs to one."""
_CONTINUING: Final = str.maketrans("", "", f"々〻{_SMALL_KANA}")
_LONE_MARK: Final = regex.compile(r"\n\p{M}")
_CHUNK: Final = re.compile(r"\S+\s*")


def count_words(text: str) -> int:
    """Count the words of a text.

    Text between white space counts as one word, also a single dash; if it has a script without spaces, the words of
    that script are counted.
    """
    if text.isascii():
        return words_of(text.replace("\t", " ").replace("\r", " "))
    if is_simply_spaced(text) or not _SPECIAL.search(text):
        return words_of(text)
    return sum(max(_words_without_spaces(chunk), 1) if UNSPACED.search(chunk) else 1 for chunk in text.split())


def _words_without_spaces(chunk: str) -> int:
    """Count the words of a text without white space by :data:`WORD`; runs of one script are counted at once."""
    rest, runs = _RUN.subn("\n", chunk)
    if not runs or _LONE_MARK.search(rest):
        return len(WORD.findall(chunk))
    words = len(WORD.findall(rest))
    for run in _RUN.findall(chunk):
        words += 1 + len(run[1:].translate(_CONTINUING))
    return words


def cut_at_words(text: str) -> list[str]:
    """Split a text where a line may end: before words, which keep adjacent punctuation and the space after them.

    Joining the pieces restores the text, except white space at its beginning.
    """
    pieces: list[str] = []
    for chunk in _CHUNK.findall(text):
        if chunk.isascii() or not UNSPACED.search(chunk):
            pieces.append(chunk)
            continue
        start = end = 0
        for word in WORD.finditer(chunk):
            first = word.start()
            while first > end and _OPENING.match(chunk[first - 1]):
                first -= 1
            if end and first > start and not _is_joined(chunk, first):
                pieces.append(chunk[start:first])
                start = first
            end = word.end()
        pieces.append(chunk[start:])
    return pieces


def _is_joined(chunk: str, position: int) -> bool:
    """Return whether no line may end here: neither side is a script without spaces (``3.14``), or a mark follows."""
    if EXTENDS.match(chunk[position]):
        return True
    return not (UNSPACED.match(chunk[position - 1]) or UNSPACED.match(chunk[position]))


def is_word_boundary(text: str, position: int) -> bool:
    """Return whether an offset lies inside no word. For this purpose hyphens and apostrophes separate words."""
    if not 0 < position < len(text):
        return True
    before, after = text[position - 1], text[position]
    if before == _JOINER_OF_SIGNS or EXTENDS.match(after) or is_inside_flag(text, position):
        return False
    if not (_WORD_CHARACTER.match(before) and _WORD_CHARACTER.match(after)):
        return True
    if not (_UNSPACED_CHARACTER.match(before) or _UNSPACED_CHARACTER.match(after) or UNSPACED.match(after)):
        return False
    start = position
    while start and _WORD_CHARACTER.match(text[start - 1]):
        start -= 1
    for word in WORD.finditer(text, start):
        if word.end() > position:
            return word.start() >= position
    return True
