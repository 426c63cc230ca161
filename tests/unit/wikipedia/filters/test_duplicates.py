"""Exact and near duplicates, compared with plain Python: sets of digests, and Jaccard similarities of 5-grams."""

from __future__ import annotations

import pickle
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_pz.runtime.errors import BadInput
from megatron_pz.wikipedia.filters.duplicates import Deduplicator, Fingerprinter
from megatron_pz.wikipedia.filters.near_duplicates import SLOTS, rows_of
from megatron_pz.wikipedia.filters.sorted_keys import SortedKeys

Paragraphs = list[str]


def reasons(documents: list[Paragraphs], near: float = 0.0, job: int = 7) -> list[str | None]:
    """Return the drop reasons for ``job`` documents at a time."""
    fingerprinter, deduplicator = Fingerprinter(near), Deduplicator(near)
    records = np.array([(fingerprinter.fingerprint(text),) for text in documents], dtype=[("f", fingerprinter.dtype)])
    found: list[str | None] = []
    for start in range(0, len(documents), job):
        found += deduplicator.drop_reasons(records["f"][start : start + job])
    return found


@given(st.lists(st.lists(st.integers(0, 60), unique=True), max_size=30))
def test_sorted_keys_are_a_dictionary(batches: list[list[int]]) -> None:
    keys, expected = SortedKeys(np.dtype(np.uint64)), {}
    for batch in batches:
        found = keys.find(np.array(batch, dtype=np.uint64))
        assert found.tolist() == [expected.get(key, -1) for key in batch]
        new = np.array([key for key in batch if key not in expected], dtype=np.uint64)
        numbers = np.arange(len(new)) + len(expected)
        keys.add(new, numbers)
        expected |= dict(zip(new.tolist(), numbers.tolist(), strict=True))


def test_of_a_key_given_twice_the_first_number_counts() -> None:
    keys = SortedKeys(np.dtype("S2"))
    keys.add(np.array([b"ab", b"a\x00", b"ab"]), np.array([5, 6, 7]))
    assert keys.find(np.array([b"ab", b"a", b"\x00a"])).tolist() == [5, 6, -1]


@given(st.lists(st.sampled_from(["a b", "A\nB", "a\nb", "ab", "c", "", "d e f"]), max_size=40), st.integers(1, 10))
def test_equal_texts_are_dropped_but_the_first(texts: list[str], job: int) -> None:
    seen: set[str] = set()
    expected = []
    for text in texts:
        key = " ".join(text.lower().split())
        expected.append("exact_duplicate" if key in seen else None)
        seen.add(key)
    assert reasons([[text] for text in texts], job=job) == expected


# Near duplicates


def fivegrams(text: Paragraphs) -> set[tuple[str, ...]]:
    words = " ".join(text).split()
    return {tuple(words[start : start + 5]) for start in range(len(words) - 4)}


def similarity(first: Paragraphs, second: Paragraphs) -> float:
    one, two = fivegrams(first), fivegrams(second)
    return len(one & two) / len(one | two)


def texts_of_all_similarities(count: int) -> list[Paragraphs]:
    """Return pairs of a text and the same text with some words changed, far apart in the list."""
    rng = np.random.default_rng(0)
    vocabulary = [f"word{number}" for number in range(5000)]
    originals = [[vocabulary[number] for number in rng.integers(0, 5000, size=400)] for _ in range(count)]
    changed = []
    for words in originals:
        places = set(rng.integers(0, 400, size=int(rng.integers(0, 40))).tolist())
        changed.append([f"new{place}" if place in places else word for place, word in enumerate(words)])
    return [[" ".join(words[:150]), " ".join(words[150:])] for words in originals + changed]


def test_near_duplicates_are_those_of_exact_similarity() -> None:
    pytest.importorskip("rensa")
    count, threshold = 150, 0.8
    texts = texts_of_all_similarities(count)
    found = reasons(texts, threshold, job=40)
    assert found[:count] == [None] * count
    pairs = [similarity(texts[number], texts[count + number]) for number in range(count)]
    clear = {number: pair for number, pair in enumerate(pairs) if abs(pair - threshold) > 0.1}
    assert sum(pair > threshold for pair in clear.values()) > 15
    assert sum(pair < threshold for pair in clear.values()) > 60
    for number, pair in clear.items():
        reason = "exact_duplicate" if pair == 1 else "near_duplicate" if pair > threshold else None
        assert found[count + number] == reason, pair


@pytest.mark.parametrize("threshold", [0.5, 0.8])
def test_what_is_dropped_does_not_depend_on_the_jobs(threshold: float) -> None:
    pytest.importorskip("rensa")
    texts = texts_of_all_similarities(40)
    texts += [[*texts[0], "One more sentence."], texts[50], [*texts[0], "Another sentence."]]
    whole = reasons(texts, threshold, job=1000)
    assert {"near_duplicate", None} <= set(whole)
    for job in (1, 50):
        assert reasons(texts, threshold, job=job) == whole


def test_near_duplicates_of_a_dropped_article_stay() -> None:
    """A chain of small changes is compared with kept articles, not with dropped ones."""
    pytest.importorskip("rensa")
    words = [f"word{number}" for number in range(400)]
    chain = [
        [" ".join(f"new{step}" if place % 100 < 4 * step else word for place, word in enumerate(words))]
        for step in range(7)
    ]
    assert similarity(chain[0], chain[1]) > 0.8 > 0.7 > similarity(chain[0], chain[6])
    found = reasons(chain, 0.8, job=3)
    assert found[:2] == [None, "near_duplicate"]
    assert None in found[2:]


def test_short_texts_have_signatures() -> None:
    pytest.importorskip("rensa")
    assert reasons([["one two"], ["One, two!"], ["one three"], [""], ["…"]], 0.8) == [
        None,
        "near_duplicate",
        None,
        None,
        "near_duplicate",
    ]


def test_bands_bring_texts_at_the_threshold_together() -> None:
    for threshold in np.arange(0.2, 1.001, 0.05):
        rows = rows_of(float(threshold))
        rng = np.random.default_rng(1)
        same_slots = rng.random((2000, SLOTS)) < threshold
        together = same_slots.reshape(2000, -1, rows).all(axis=2).any(axis=1).mean()
        assert together > 0.88
    assert rows_of(0.8) == 8


@pytest.mark.parametrize("threshold", [-0.5, 0.1, 1.5, float("nan")])
def test_a_similarity_that_is_none_is_refused(threshold: float) -> None:
    with pytest.raises(BadInput, match=r"^--near-duplicates .*: must be from 0.2 to 1"):
        Fingerprinter(threshold)


def test_a_missing_library_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rensa", None)
    with pytest.raises(BadInput, match=r"^--near-duplicates 0.8: needs rensa; pip install rensa$"):
        Fingerprinter(0.8)
    assert reasons([["a"], ["A"]]) == [None, "exact_duplicate"]


def test_a_fingerprinter_can_be_sent_to_another_process() -> None:
    pytest.importorskip("rensa")
    fingerprinter = Fingerprinter(0.8)
    other = pickle.loads(pickle.dumps(fingerprinter))
    text = ["The old castle stands on a hill above the river."]
    records = [np.array([maker.fingerprint(text)], dtype=maker.dtype) for maker in (fingerprinter, other)]
    assert records[0].tobytes() == records[1].tobytes()
