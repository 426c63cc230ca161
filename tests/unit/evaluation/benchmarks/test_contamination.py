"""Questions in a corpus, found by consecutive words."""

from __future__ import annotations

from megatron_pz.evaluation.benchmarks.contamination import QuestionIndex

LONG = "A train leaves the old station at noon and reaches the next town at three in the afternoon. How far is it?"
SHORT = "Which river flows through the capital of Austria?"
TEXTS = [LONG, SHORT, "What is time?", LONG.replace("train", "tram")]


def found(*passages: str) -> list[bool]:
    index = QuestionIndex(TEXTS)
    index.read(passages)
    return index.overlapping()


def test_thirteen_words_in_a_row_are_an_overlap_and_twelve_are_none() -> None:
    words = LONG.split()
    assert found("Once, " + " ".join(words[:13]).upper() + " …") == [True, False, False, False]
    assert found(" ".join(words[:12]) + " and so on") == [False] * 4


def test_texts_with_common_words_are_found_together() -> None:
    shared = "and reaches the next town at three in the afternoon. How far is"
    assert found(f"At night it leaves {shared}") == [True, False, False, True]


def test_a_text_of_eight_to_twelve_words_counts_where_it_stands_whole() -> None:
    assert found("He asked: which river flows through the capital of Austria") == [False, True, False, False]
    assert found("which river flows through the capital of Hungary") == [False] * 4
    assert QuestionIndex(TEXTS).too_short() == [False, False, True, False]
    assert found("What is time?") == [False] * 4
