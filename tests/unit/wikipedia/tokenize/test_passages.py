"""Sentences and passages: nothing is lost, nothing exceeds the budget, no sentence is cut without being counted."""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Sequence
from itertools import accumulate
from pathlib import Path

import numpy as np
import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_pz.wikipedia.tokenize.incremental_tokenization import Ids, Joints
from megatron_pz.wikipedia.tokenize.passages import PassageCutter, PassageOptions, joints_of
from megatron_pz.wikipedia.tokenize.text_encoder import TextEncoder
from megatron_pz.wikitext.sentences import sentences


def count_words(texts: Sequence[str]) -> list[int]:
    """Count tokens as words of at most five characters."""
    return [sum(-(-len(word) // 5) for word in text.split()) for text in texts]


def encode_words(texts: Sequence[str]) -> list[np.ndarray]:
    return [np.zeros(count, np.int64) for count in count_words(texts)]


class Cut:
    """A cutter with that tokenizer, and its counts."""

    def __init__(self, options: PassageOptions) -> None:
        self._cutter = PassageCutter(options, encode_words)
        self.counts = self._cutter.counts

    def cut(self, paragraphs: Sequence[str]) -> list[str]:
        return [passage.text for passage in self._cutter.cut(paragraphs)]


def cutter(unit: str = "paragraph", tokens: int = 16, least: int = 0, most: int = 0) -> Cut:
    return Cut(PassageOptions(unit, tokens, least, most))  # type: ignore[arg-type]


def test_whole_paragraphs_are_merged_up_to_the_budget() -> None:
    paragraphs = ["one two three", "four five", "six", "a b c d e f g h i j"]
    # 3 + 2 + 1 = 6 tokens, because breaks have no tokens here, and the next ten do not fit.
    assert cutter(tokens=15).cut(paragraphs) == ["one two three\n\nfour five\n\nsix", "a b c d e f g h i j"]
    assert cutter(tokens=5).cut(paragraphs[:3]) == ["one two three\n\nfour five", "six"]


def test_a_long_paragraph_is_cut_between_sentences() -> None:
    paragraph = "Aa bb cx. Dd ee ff gg. Hh ii. " + "Jj kk ll mm nn oo pp."
    cut = cutter(tokens=9)
    assert cut.cut(["x", paragraph, "y"]) == ["x", "Aa bb cx. Dd ee ff gg. Hh ii.", "Jj kk ll mm nn oo pp.", "y"]
    assert not cut.counts


def test_passages_of_sentences_do_not_leave_their_paragraph() -> None:
    paragraphs = ["Aa bb. Cc dx.", "Ee ff gg hh. Ii jj kk. Ll mm."]
    cut = cutter("sentences", most=5, least=3)
    assert cut.cut(paragraphs) == ["Aa bb. Cc dx.", "Ee ff gg hh.", "Ii jj kk. Ll mm."]
    assert cut.cut(["Aa bb.", "One two three four five six. Seven eight."]) == [
        "One two three four five",
        "six. Seven eight.",
    ]
    assert cut.counts == {"sentences_cut": 1, "short_passages": 1, "short_passage_words": 2}


def test_leads_are_the_first_whole_sentences_and_the_rest_is_counted() -> None:
    cut = cutter("lead_sentences", tokens=100, least=3, most=6)
    paragraphs = [
        "One two three. Four five six. Seven eight.",  # the third sentence does not fit
        "One two three four five six seven. Eight nine.",  # nor does the first of this one, so nothing is left
        "Too short.",
    ]
    assert cut.cut(paragraphs) == ["One two three. Four five six."]
    assert cut.counts["words_after_leads"] == 2 + 9
    assert cut.counts["short_passages"] == 2


def test_a_word_beyond_the_budget_is_cut_and_counted() -> None:
    cut = cutter(tokens=16)
    passages = cut.cut(["x" * 200])
    assert "".join(passages) == "x" * 200
    assert max(count_words(passages)) <= 16
    assert cut.counts == {"sentences_cut": 1}


WORDS = st.lists(
    st.sampled_from(["a", "Bb", "c.", "Dd!", "e?", "Mr.", "longword", "x" * 90, "F.\n", "。"]), min_size=1, max_size=60
)


@settings(max_examples=80, deadline=None)
@given(
    st.lists(WORDS.map(" ".join).map(str.strip), max_size=6),
    st.sampled_from(["paragraph", "sentences"]),
    st.integers(8, 40),
    st.sampled_from([0, 3]),
    st.sampled_from([0, 5, 12]),
)
def test_no_sentence_is_lost(paragraphs: list[str], unit: str, tokens: int, least: int, most: int) -> None:
    cut = cutter(unit, tokens, least, most)
    passages = cut.cut(paragraphs)
    assert all(count <= tokens for count in count_words(passages))
    assert all(least <= len(passage.split()) <= (most or 10**6) for passage in passages)
    everything = "".join("".join(paragraphs).split())
    kept = "".join("".join(passages).split())
    if not cut.counts["short_passages"]:
        assert kept == everything
    else:
        remaining = iter(everything)
        assert all(character in remaining for character in kept), "the order changed"
    whole = [sentence.strip() for paragraph in paragraphs for sentence in sentences(paragraph)]
    lost = sum(not any(sentence in passage for passage in passages) for sentence in whole)
    assert lost <= cut.counts["sentences_cut"] + cut.counts["short_passage_words"]
    if not (cut.counts["short_passages"] or cut.counts["sentences_cut"]):
        assert lost == 0


def byte_pair_like(pattern: str, prefix: str = "") -> Callable[[Sequence[str]], list[Ids]]:
    """Return a tokenizer that splits by a pattern, as byte-level ones do, and then into pieces of five characters."""
    words = regex.compile(pattern)

    def encode(texts: Sequence[str]) -> list[Ids]:
        found = (
            [word[i : i + 5] for word in words.findall(prefix + text) for i in range(0, len(word), 5)] for text in texts
        )
        return [np.array([zlib.crc32(piece.encode()) % 50_000 for piece in pieces], np.int64) for pieces in found]

    return encode


TOKENIZERS = {
    "constant": byte_pair_like(r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"),
    "attached": byte_pair_like(
        r"(?i:'s|'t)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    ),
    "none": byte_pair_like(r"[ ▁][^ ▁]*", prefix="▁"),
}


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_how_a_tokenizer_takes_a_blank_line_is_found_out(kind: str) -> None:
    assert Joints(TOKENIZERS[kind]).kind == kind


WRITING = st.sampled_from(["Aa", "b.", "(c)", "1990", "d!", "“e”", "東京。", "- f\n- g", "'s", "x" * 40, "e\u0301"])
PARAGRAPHS = st.lists(st.lists(WRITING, min_size=1).map(" ".join).map(str.strip), max_size=8)


@settings(max_examples=60, deadline=None)
@given(PARAGRAPHS, st.sampled_from(sorted(TOKENIZERS)), st.booleans(), st.integers(12, 60))
def test_ids_are_those_of_the_passage_and_within_the_budget(
    paragraphs: list[str], kind: str, merge: bool, most: int
) -> None:
    unit = "paragraph" if merge else "sentences"
    encode = TOKENIZERS[kind]
    passages = PassageCutter(PassageOptions(unit, most), encode).cut(paragraphs)  # type: ignore[arg-type]
    for passage, ids in zip(passages, encode([passage.text for passage in passages]), strict=True):
        assert passage.ids.tolist() == ids.tolist()
        assert len(ids) <= most
    assert "".join("".join(passage.text for passage in passages).split()) == "".join("".join(paragraphs).split())


def test_an_article_is_tokenized_once_and_the_last_paragraph_of_a_passage_twice_where_breaks_are_attached() -> None:
    paragraphs = [f"Paragraph number {number} has some words." for number in range(40)]
    for kind, most in (("constant", 1), ("attached", 1 + 8)):
        encoded: list[str] = []

        def encode(texts: Sequence[str], kind: str = kind, encoded: list[str] = encoded) -> list[Ids]:
            encoded += texts
            return TOKENIZERS[kind](texts)

        cut = PassageCutter(PassageOptions("paragraph", 100), encode)
        cut.cut(["A first article, whose endings the cutter learns.", "It goes on"])
        encoded.clear()
        assert len(cut.cut(paragraphs)) <= 8
        assert len(encoded) <= most


def encode_characters(texts: Sequence[str]) -> list[np.ndarray]:
    return [np.zeros(len(text), np.int64) for text in texts]


@pytest.mark.parametrize(
    "sentence",
    [
        "长江是中国第一大河全长六千三百公里",
        "กรุงเทพมหานครเป็นเมืองหลวงและเมืองที่มีประชากรมากที่สุด",
        "မြန်မာနိုင်ငံသည်အရှေ့တောင်အာရှတွင်ရှိသည်",
        "x\u0301" * 40,
    ],
)
def test_a_sentence_without_spaces_is_cut_between_words_and_never_inside_a_cluster(sentence: str) -> None:
    passages = [
        passage.text
        for passage in PassageCutter(PassageOptions("paragraph", 16), encode_characters).cut([sentence * 3])
    ]
    assert "".join(passages) == sentence * 3
    assert all(8 < len(passage) <= 16 for passage in passages[:-1])
    assert not any(regex.match(r"\p{M}", passage) for passage in passages)


def test_leads_of_an_article_without_full_stops() -> None:
    cut = PassageCutter(PassageOptions("lead_sentences", 40, min_passage_words=5), encode_characters)
    (thai,) = cut.cut(["กรุงเทพมหานครเป็นเมืองหลวง เมืองนี้ก่อตั้งเมื่อนานมาแล้วและมีประชากรมากที่สุด"])
    assert thai.text == "กรุงเทพมหานครเป็นเมืองหลวง"
    (armenian,) = cut.cut(["Երևանը Հայաստանի մայրաքաղաքն է հինգ։ Այն Հայաստանի ամենամեծ քաղաքն է։"])
    assert armenian.text == "Երևանը Հայաստանի մայրաքաղաքն է հինգ։"


def test_chinese_passages_have_words_enough() -> None:
    passage = (
        "长江是中国第一大河，全长6300公里，发源于青藏高原，流经多个省区，最后在上海注入东海，流域面积一百八十万平方公里。"
        * 2
    )
    (kept,) = PassageCutter(PassageOptions("paragraph", 400, min_passage_words=50), encode_characters).cut([passage])
    assert kept.text == passage
    assert kept.words > 80


@pytest.mark.parametrize("cluster", ["ax\u0301\u0302", "a\U0001f469\U0001f3fd\u200d\U0001f680"])
def test_a_word_beyond_the_budget_is_cut_between_grapheme_clusters(cluster: str) -> None:
    word = cluster * 60
    cutter = PassageCutter(PassageOptions("paragraph", 20), encode_characters)
    passages = [passage.text for passage in cutter.cut([word])]
    assert "".join(passages) == word
    ends = {match.end() for match in regex.finditer(r"\X", word)}
    done = 0
    for passage in passages:
        done += len(passage)
        assert done in ends


@pytest.mark.parametrize(
    ("before", "after"), [("", ""), ("x", "x"), ("\u0600", "\u0301"), ("", "\u200d\U0001f469"), ("a\u0301", "\u0903")]
)
@pytest.mark.parametrize("indicators", [1, 2, 3, 40, 41])
def test_flags_are_cut_between_pairs(before: str, after: str, indicators: int) -> None:
    word = (before + "\U0001f1eb" * indicators + after) * 3
    passages = PassageCutter(PassageOptions("paragraph", 20), encode_characters).cut([word])
    ends = {match.end() for match in regex.finditer(r"\X", word)}
    assert "".join(passage.text for passage in passages) == word
    assert set(accumulate(len(passage.text) for passage in passages)) <= ends


@pytest.mark.parametrize("cluster", ["a", "q-", "x\u0301", "ก", "เ", "長", "\U0001f1eb", "\U0001f469\u200d"])
def test_time_for_one_unbroken_word_is_linear(cluster: str, tiny_tokenizer_dir: Path) -> None:
    options = PassageOptions("paragraph", 64)
    encode = TextEncoder(str(tiny_tokenizer_dir), "huggingface").encode
    joints = joints_of(options, encode)

    def seconds(repetitions: int) -> float:
        word = cluster * repetitions
        start = time.process_time()
        passages = PassageCutter(options, encode, joints).cut([word])
        spent = time.process_time() - start
        assert "".join(passage.text for passage in passages) == word
        return spent

    short = min(seconds(1000) for _ in range(3))
    assert min(seconds(16_000) for _ in range(2)) < 80 * short


def test_a_cluster_beyond_the_budget_is_cut_all_the_same() -> None:
    word = "x" + "\u0301" * 100
    passages = PassageCutter(PassageOptions("paragraph", 20), encode_characters).cut([word])
    assert "".join(passage.text for passage in passages) == word
    assert max(len(passage.ids) for passage in passages) <= 20


def test_the_language_of_an_article_decides_where_its_sentences_end() -> None:
    paragraphs = [
        "Die Stadt ist die größte und liegt an der Elbe, wie man es auch nicht weiß.",
        "Am 3. Mai kam er. Ende am Rhein.",
    ]
    cutter = PassageCutter(PassageOptions("lead_sentences", 20), encode_characters)
    assert [passage.text for passage in cutter.cut(paragraphs)] == ["Am 3. Mai kam er."]


def test_every_word_of_a_long_sentence_is_encoded_once() -> None:
    encoded: list[str] = []

    def encode(texts: Sequence[str]) -> list[np.ndarray]:
        encoded.extend(texts)
        return encode_characters(texts)

    sentence = "长江 abc " * 5000
    PassageCutter(PassageOptions("paragraph", 100), encode).cut([sentence])
    assert sum(map(len, encoded)) < 3 * len(sentence) + 50_000
