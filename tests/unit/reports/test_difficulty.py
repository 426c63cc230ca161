"""Kinds of words, topics, and the sums over the training."""

from __future__ import annotations

import random

import pytest

from megatron_pz.reports.difficulty import Bins, difficulty
from megatron_pz.reports.kept_samples import KeptPassage
from megatron_pz.reports.topics import find_topics
from megatron_pz.reports.word_kinds import KINDS, kind_of_span
from tests.support.report_runs import SUBJECTS

TEXT = "Vienna lies on the Danube. In 1848 the old river-port of Ulm grew. Rivers carry sand, 砂 and 長江."


@pytest.mark.parametrize(
    ("span", "kind"),
    [
        ("Danube", "name"),
        ("Vienna", "word"),  # its capital begins a sentence
        ("Rivers", "word"),
        ("old river-port of Ulm", "phrase"),
        ("Ulm", "name"),
        ("1848", "number"),
        ("In 1848", "number"),
        ("the", "function"),
        ("anub", "part"),
        ("sand", "word"),
        ("長江", "phrase"),
        (",", "other"),
    ],
)
def test_kinds_worked_by_hand(span: str, kind: str) -> None:
    assert kind_of_span(span, TEXT) == kind
    assert kind in KINDS


def test_passages_of_one_subject_share_a_topic_that_is_named_by_its_words() -> None:
    rng = random.Random(3)
    subjects = [subject for subject in SUBJECTS for _ in range(20)]
    texts = [" ".join(rng.choices(SUBJECTS[subject], k=30)) for subject in subjects]
    topics = find_topics(texts)
    for words, number in zip((label.split(", ") for label in topics.labels), range(len(topics.labels)), strict=True):
        (subject,) = {subject for subject, topic in zip(subjects, topics.of_passage, strict=True) if topic == number}
        assert set(words) <= set(SUBJECTS[subject])
    assert find_topics(texts) == topics


def test_few_passages_have_no_topics() -> None:
    assert find_topics(["a river", "a bridge", "a river"]) == find_topics(["x", "y", "z"])
    assert find_topics([]).of_passage == ()


def test_passages_without_a_common_word_have_no_topics() -> None:
    assert find_topics([f"word{letter}" * 2 for letter in "abcdefghijklmnopqrst"]).labels == ()


def test_bins_cover_every_step_once() -> None:
    bins = Bins.over([1, 2000])
    assert (len(bins), bins.edges[0], bins.edges[-1]) == (12, 1, 2001)
    assert [bins.of(step) for step in (1, 166, 167, 2000)] == [0, 0, 1, 11]
    assert Bins.over([5]).edges == (5, 6)


def test_sums_by_kind_and_by_topic() -> None:
    first = KeptPassage(1, "", "", 0, 0, [1.0, "absent", 0.5], ["name", "word"], [(1.0, 0.0), (0.5, 0.5)])
    second = KeptPassage(2, "", "", 0, 0, [0.25], ["name"], [(0.25, 0.75)])
    found = difficulty([first, second], [0, -1], ["rivers", "insects"])
    assert found["edges"] == [1, 2, 3]
    assert found["kinds"] == [
        {"label": "proper name", "n": [1, 1], "right": [1, 0.25], "squares": [1, 0.0625], "reward": [0, 0.75]},
        {"label": "single word", "n": [1, 0], "right": [0.5, 0], "squares": [0.25, 0], "reward": [0.5, 0]},
    ]
    assert found["topics"] == [
        {"label": "rivers", "n": [2, 0], "right": [1.5, 0], "squares": [1.25, 0], "reward": [0.5, 0]}
    ]
    assert difficulty([], [], []) == {"edges": [], "kinds": [], "topics": []}
