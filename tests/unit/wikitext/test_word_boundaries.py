"""Words in each script; in scripts with spaces, the counts equal those of white space."""

from __future__ import annotations

import time
from itertools import pairwise

import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_pz.wikitext.words import UNSPACED, WORD, count_words, cut_at_words, is_word_boundary

WORDS = {
    "en": ("The well-known 3D rock'n'roll", "The well-known 3D rock'n'roll"),
    "fr": ("l'été d’une", "l'été d’une"),
    "ca": ("col·legi", "col·legi"),
    "zh": ("长江，人人（NBA球员）2008年", "长 江 人 人 NBA 球 员 2008 年"),
    "zh-iteration": ("人々", "人々"),
    "ja": ("きょうスカイツリーへ行った。", "きょ う スカイツリー へ 行 っ た"),
    "ko": ("한국은 큰 나라", "한국은 큰 나라"),
    "th": ("เก่าแก่ที่เมืองตัวเรียน", "เก่า แก่ ที่ เมือ ง ตัว เรีย น"),
    "lo": ("ສະບາຍດີ", "ສະ ບາ ຍ ດີ"),
    "km": ("ភាសាខ្មែរ", "ភា សា ខ្មែ រ"),
    "my": ("မြန်မာစကားသည် အင်္ဂလိပ်", "မြန် မာ စ ကား သည် အင်္ဂ လိပ်"),
    "bo": ("བོད་ཀྱི་སྐད", "བོད ཀྱི སྐད"),
    "am": ("አዲስ፡አበባ", "አዲስ አበባ"),
    "fa": ("می\u200cخواهم بروم", "می\u200cخواهم بروم"),
    "he": ("צה\"ל ב'", 'צה"ל ב'),
    "hy": ("ինչո՞ւ է", "ինչո՞ւ է"),
    "hi": ("हिन्दी क्\u200dष", "हिन्दी क्\u200dष"),
}


@pytest.mark.parametrize("language", WORDS)
def test_words(language: str) -> None:
    text, expected = WORDS[language]
    assert WORD.findall(text) == expected.split(" ")
    assert count_words(text) == len(expected.split(" "))


@pytest.mark.parametrize("language", WORDS)
def test_boundaries_are_where_words_begin_and_end(language: str) -> None:
    text, _ = WORDS[language]
    inside = {at for word in WORD.finditer(text) for at in range(word.start() + 1, word.end())}
    parted = {at for at in range(len(text)) if regex.match(r"[-'’\"·]", text[max(at - 1, 0) : at] or " ")}
    parted |= {at for at in range(len(text)) if regex.match(r"[-'’\"·]", text[at])}
    assert {at for at in range(len(text)) if not is_word_boundary(text, at)} == inside - parted


def test_the_fast_class_holds_every_letter_of_the_scripts_without_spaces() -> None:
    letters = regex.compile(
        r"[[\p{Han}\p{Hiragana}\p{Katakana}\p{Bopomofo}\p{Tibetan}\p{LineBreak=SA}]&&[\p{L}\p{Nl}]]", regex.V1
    )
    missing = [hex(code) for code in range(0x110000) if letters.match(chr(code)) and not UNSPACED.match(chr(code))]
    assert not missing


SPACED = st.text(alphabet="aBé1-–'’ \n\t\xa0.,/Ж한هह्", max_size=40)


@settings(max_examples=200, deadline=None)
@given(SPACED)
def test_in_scripts_with_spaces_white_space_counts(text: str) -> None:
    assert count_words(text) == len(text.split())
    assert cut_at_words(text) == regex.findall(r"\S+\s*", text)


MIXED = st.text(alphabet="aé1-' \n.（）。长江のっスーกเา่ုမြ်္ကཀ་ख\u0301", max_size=40)


@settings(max_examples=300, deadline=None)
@given(MIXED)
def test_pieces_join_to_the_text_and_begin_with_no_mark(text: str) -> None:
    pieces = cut_at_words(text)
    assert "".join(pieces) == text.lstrip()
    assert not any(regex.match(r"\p{M}", piece) and not before[-1].isspace() for before, piece in pairwise(pieces))


@pytest.mark.parametrize("piece", ["เ", "เก", "ိ", "長", "カ", "a-", "a\u200d", "\U0001f1eb", "长江กรุမြန်"])
def test_time_is_linear(piece: str) -> None:
    def seconds(repetitions: int) -> float:
        text = piece * repetitions
        start = time.process_time()
        words, pieces = count_words(text), cut_at_words(text)
        spent = time.process_time() - start
        assert 0 < words <= len(text)
        assert "".join(pieces) == text
        return spent

    short = max(min(seconds(1000) for _ in range(3)), 2e-4)
    assert min(seconds(16_000) for _ in range(2)) < 80 * short


def test_vowels_before_a_consonant_belong_to_its_word() -> None:
    assert WORD.findall("เกแกเเก") == ["เก", "แก", "เเก"]


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="aé1 -'\n\t\xa0–’中々〻\ufe0f\u3099のゃゝーゝカートｶﾞกะำ\u0301한", max_size=24))
def test_counting_by_runs_gives_what_the_pattern_gives(text: str) -> None:
    expected = sum(max(len(WORD.findall(chunk)), 1) if UNSPACED.search(chunk) else 1 for chunk in text.split())
    assert count_words(text) == expected


def test_every_character_counts_as_the_pattern_has_it() -> None:
    for code in [*range(0x21, 0x3400), *range(0x9F00, 0xA000), *range(0x1F300, 0x1F320)]:
        chunk = f"a{chr(code)}の{chr(code)}中"
        assert count_words(chunk) == sum(
            max(len(WORD.findall(part)), 1) if UNSPACED.search(part) else 1 for part in chunk.split()
        ), hex(code)


def test_no_boundary_lies_inside_a_grapheme_cluster() -> None:
    tagged = "\U0001f3f4\U000e0067\U000e0062\U000e007f"
    for text in ("\U0001f469\u200d\U0001f680", "☎\ufe0e", "5\u20e3", "👍🏽", "🇩🇪", tagged, "ｶﾞ"):
        assert not any(is_word_boundary(text, position) for position in range(1, len(text))), text
    assert [position for position in range(1, 6) if is_word_boundary("a🇩🇪🇫🇷b", position)] == [1, 3, 5]
