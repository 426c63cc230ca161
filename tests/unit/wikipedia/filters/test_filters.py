"""Word n-grams, benchmark overlap and language, compared with plain Python."""

from __future__ import annotations

import csv
import hashlib
import json
import re
import sys
import unicodedata
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_pz.runtime.errors import BadInput
from megatron_pz.wikipedia.filters import filters, word_ngrams
from megatron_pz.wikipedia.filters.decontamination import Decontaminator
from megatron_pz.wikipedia.filters.filters import FilterOptions, Filters
from megatron_pz.wikipedia.filters.word_ngrams import ngram_hashes, normalised_words
from megatron_pz.wikipedia.read.articles import Article
from megatron_pz.wikipedia.tokenize.passages import Passage

QUESTION = "Which river gave the old town below the castle its name, and when was the railway built there?"
OTHER = "A train leaves the station at noon and travels at sixty miles an hour until it reaches the coast."
SHORT = "What is the boiling point of water at sea level?"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("The “Old” Castle’s hill_top—(1,204 m)!", "the old castle s hill top 1 204 m"),
        ("  NAÏVE nai\u0308ve\n\tﬁne\u00a0Straße ", "naïve naïve fine strasse"),
        ("日本の rivers", "日 本 の rivers"),
        ("", ""),
        ("… – !", ""),
    ],
)
def test_words_are_normalised(text: str, words: str) -> None:
    assert normalised_words(text).decode() == words


COMBINING = "\u0300\u0301\u0327\u0338\u0345\u1dc2\u20d0\u3099\u1161\u11a8"
LETTERS = "aeC<= \n.,_éßİǅ¨´ªº½ﬁ…’–Σςά東か가ᄀกक् \ud800\u00a0\U0001d49c" + COMBINING


@given(st.text(st.sampled_from(LETTERS) | st.characters(), max_size=40))
def test_words_are_those_of_the_whole_text_normalised_at_once(text: str) -> None:
    folded = unicodedata.normalize("NFKC", text).casefold()
    spaced = "".join(f" {letter} " if word_ngrams._UNSPACED.match(letter) else letter for letter in folded)
    expected = "".join(
        letter if letter == " " or (letter.isalnum() if letter.isascii() else re.match(r"\w", letter)) else " "
        for letter in spaced
    ).split(" ")
    assert normalised_words(text) == " ".join(word for word in expected if word).encode("utf-8", "surrogatepass")


word_lists = st.lists(st.sampled_from(["a", "b", "ab", "the", "river", "é", "日", "x" * 30]), max_size=30)


@given(word_lists, word_lists, st.integers(1, 6))
def test_ngrams_have_equal_hashes_just_when_they_are_equal(first: list[str], second: list[str], length: int) -> None:
    found: dict[tuple[str, ...], set[int]] = {}
    for words in (first, second):
        ngrams = [tuple(words[start : start + length]) for start in range(len(words) - length + 1)]
        (hashes,) = ngram_hashes(" ".join(words).encode(), [length])
        assert len(hashes) == len(ngrams)
        for ngram, value in zip(ngrams, hashes.tolist(), strict=True):
            found.setdefault(ngram, set()).add(value)
    assert all(len(values) == 1 for values in found.values())
    assert len(set.union(set(), *found.values())) == len(found)


def test_ngrams_of_a_long_text_do_not_collide() -> None:
    words = [str(number) for number in range(60_000)]
    hashes, longer = ngram_hashes(" ".join(words).encode(), [3, 13])
    assert len(np.unique(hashes)) == 59_998
    assert hashes[-1] == ngram_hashes(b"59997 59998 59999", [3])[0][0]
    assert longer[50_000] == ngram_hashes(" ".join(words[50_000:50_013]).encode(), [13])[0][0]


def write_jsonl(path: Path) -> Path:
    records = [{"id": 1, "question": QUESTION, "options": ["yes", OTHER]}, {"question": SHORT}, {"question": "Why?"}]
    path = path.with_suffix(".jsonl")
    path.write_text("\ufeff" + "\n".join(map(json.dumps, records)) + "\n\n", encoding="utf-8")
    return path


def write_csv(path: Path) -> Path:
    path = path.with_suffix(".csv")
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerows([["question", "answer"], [QUESTION, OTHER], [SHORT, ""], ["Why?", "1"]])
    return path


def write_parquet(path: Path) -> Path:
    path = path.with_suffix(".parquet")
    columns = {"question": [QUESTION, SHORT, "Why?"], "options": [[OTHER, "no"], [], None], "answer": [1, 2, 3]}
    pq.write_table(pa.table(columns), path)
    return path


def write_txt(path: Path) -> Path:
    path = path.with_suffix(".txt")
    path.write_text(f"{QUESTION} {OTHER}\n{SHORT}\n\nWhy?\n")
    return path


@pytest.mark.parametrize("write", [write_jsonl, write_csv, write_parquet, write_txt])
def test_benchmarks_are_read_and_found(write: Callable[[Path], Path], tmp_path: Path) -> None:
    path = write(tmp_path / "questions")
    benchmark = Decontaminator([str(path)])
    (described,) = benchmark.files
    assert (described.name, described.records, described.too_short) == (path.name, 3, 1)
    assert described.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    words = QUESTION.split()
    texts = {
        "so: WHICH river gave the old (town) below the castle its name and when": True,  # 13 words
        "Which river gave the old town below the castle its name, and": False,  # 12
        " ".join([*words[:6], "new", *words[6:]]): False,
        f"It began when {OTHER.lower()} Then it ended.": True,
        f"Q: {SHORT}": True,  # nine words, whole
        "the boiling point of water at sea level": False,
        "Why?": False,
        "": False,
    }
    assert {text: benchmark.overlaps(text) for text in texts} == texts
    assert benchmark.overlapping(list(texts)) == list(texts.values())


def test_what_overlaps_across_two_passages_is_in_neither(tmp_path: Path) -> None:
    benchmark = Decontaminator([str(write_txt(tmp_path / "questions"))])
    halves = [" ".join(QUESTION.split()[:10]), " ".join(QUESTION.split()[10:])]
    assert benchmark.overlaps(" ".join(halves))
    assert benchmark.overlapping(halves) == [False, False]


def test_overlap_is_that_of_sets_of_ngrams(tmp_path: Path) -> None:
    """The reference is sets of tuples, on texts with overlaps of every length around 13."""
    rng = np.random.default_rng(0)
    words = [f"w{number}" for number in range(400)]
    path = tmp_path / "questions.txt"
    path.write_text("\n".join(" ".join(words[start : start + 20]) for start in range(0, 400, 20)))
    known = {tuple(words[start + i : start + i + 13]) for start in range(0, 400, 20) for i in range(8)}
    benchmark = Decontaminator([str(path)])
    seen = Counter()
    for _ in range(400):
        start, length = int(rng.integers(0, 390)), int(rng.integers(9, 18))
        text = ["x", *words[start : start + length], "y", *words[:12]]
        expected = any(tuple(text[i : i + 13]) in known for i in range(len(text) - 12))
        assert benchmark.overlaps(" ".join(text)) is expected
        seen[expected] += 1
    assert min(seen.values()) > 50


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.json", b"[]", "a.json: is none of .jsonl, .txt, .csv, .parquet"),
        ("a.jsonl", b'{"q": "x"}\n{"q":', r"is damaged or no jsonl \(line 2: "),
        ("a.txt", b"\xff\xfe\x00", "is damaged or no txt"),
        ("a.parquet", b"PAR1", "is damaged or no parquet"),
        ("a.txt", b"Why?\nWho?\n", "none of its 2 records has a text of 8 words"),
        ("a.txt", b"", "none of its 0 records"),
        ("missing.txt", None, r"cannot be read \(No such file"),
    ],
)
def test_a_benchmark_that_cannot_be_used_is_one_line(
    name: str, content: bytes | None, words: str, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(BadInput, match=f"^--decontaminate .*{words}") as refused:
        Decontaminator([str(tmp_path / name)])
    assert "\n" not in str(refused.value)


def article(text: str) -> Article:
    return Article("1", "", "A", "", (text,))


GERMAN = "Der Fluss gab der alten Stadt ihren Namen, und die Eisenbahn kam erst viel später in das Tal hinauf."


def test_articles_in_another_language_go() -> None:
    pytest.importorskip("py3langid")
    english = Filters(FilterOptions(language="en"))
    assert english.drop_reason(article(QUESTION)) is None
    assert english.drop_reason(article(GERMAN)) == "language"
    assert Filters(FilterOptions(language="de")).drop_reason(article(GERMAN)) is None
    mixed = article("1893 1901 Bern Paris 1907 Roma 1911")
    _, probability = english._classifier.classify(mixed.paragraphs[0])  # type: ignore[union-attr]
    assert probability < 0.99
    assert Filters(FilterOptions(language="en", min_language_probability=0.99)).drop_reason(mixed) == "language"


NO_IDS = np.empty(0, np.uint32)


def passages(*texts: str) -> list[Passage]:
    return [Passage((text,), NO_IDS) for text in texts]


def test_no_filter_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "py3langid", None)
    none, counts = Filters(FilterOptions()), Counter()
    assert none.drop_reason(article(GERMAN)) is None
    assert none.kept_passages(passages(QUESTION, OTHER), counts) == passages(QUESTION, OTHER)
    assert not counts


def test_overlapping_passages_are_counted(tmp_path: Path) -> None:
    benchmark, counts = Filters(FilterOptions(decontaminate=(str(write_txt(tmp_path / "q")),))), Counter()
    assert benchmark.kept_passages(passages("One.", QUESTION, "Two."), counts) == passages("One.", "Two.")
    assert benchmark.kept_passages(passages(OTHER), counts) == []
    assert counts == {"overlapping_passages": 2, "overlapping_passage_words": 37}
    described = benchmark.describe()
    assert described["decontaminate"][0]["name"] == "q.txt"
    assert str(tmp_path) not in json.dumps(described)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (FilterOptions(language="xx"), "--language xx: py3langid does not know it; it knows .*en.*"),
        (FilterOptions(language="en", min_language_probability=0), "--min-language-probability 0: must be above 0"),
        (FilterOptions(decontaminate=("a.txt",), decontaminate_words=7), "--decontaminate-words 7: must be at least 8"),
    ],
)
def test_filters_that_cannot_work_are_refused(options: FilterOptions, words: str) -> None:
    if options.language:
        pytest.importorskip("py3langid")
    with pytest.raises(BadInput, match=words):
        Filters(options)


def test_a_missing_language_library_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    filters._py3langid.cache_clear()
    monkeypatch.setitem(sys.modules, "py3langid", None)
    monkeypatch.setitem(sys.modules, "py3langid.langid", None)
    with pytest.raises(BadInput, match=r"^--language en: needs py3langid; pip install py3langid$"):
        Filters(FilterOptions(language="en"))
