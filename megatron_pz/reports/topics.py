"""Group passages into topics by the words that they share, for any language and without a list of topics."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from megatron_pz.roles.words import content_words

MAX_TOPICS = 8
PASSAGES_A_TOPIC = 8
"""Fewer distinct passages than this for each topic give topics of chance."""
MAX_SAMPLED_PASSAGES = 4000
"""Topics are found in this many passages, evenly spread; the others go to the nearest topic."""
_VOCABULARY = 2000
_ROUNDS = 25
_RESTARTS = 4
_WORDS_OF_A_LABEL = 3


@dataclass(frozen=True)
class Topics:
    """Topics of a list of passages."""

    labels: tuple[str, ...]
    """The most typical words of every topic; empty if there are too few passages for topics."""
    of_passage: tuple[int, ...]
    """Number of every passage's topic; -1 for all if there are no topics."""


def find_topics(passages: Sequence[str]) -> Topics:
    """Cluster passages by spherical k-means over tf-idf of their content words (Dhillon and Modha, 2001).

    The result depends only on the passages. Fewer than two times ``PASSAGES_A_TOPIC`` distinct passages give no topics.
    """
    distinct = list(dict.fromkeys(passages))
    count = min(MAX_TOPICS, len(distinct) // PASSAGES_A_TOPIC)
    if count < 2:
        return Topics((), (-1,) * len(passages))
    stride = -(-len(distinct) // MAX_SAMPLED_PASSAGES)
    counts = [_word_counts(text) for text in distinct]
    documents = Counter(word for own in counts[::stride] for word in own)
    seen = len(counts[::stride])
    common = [word for word, number in documents.most_common() if 2 <= number <= seen / 2][:_VOCABULARY]
    if not common:
        return Topics((), (-1,) * len(passages))
    column = {word: index for index, word in enumerate(common)}
    weight_V = np.array([math.log(seen / documents[word]) for word in common], dtype=np.float32)
    centres_KV = _best_centres(_unit_rows(counts[::stride], column, weight_V), count)
    nearest = np.concatenate(
        [
            (_unit_rows(counts[first : first + MAX_SAMPLED_PASSAGES], column, weight_V) @ centres_KV.T).argmax(1)
            for first in range(0, len(counts), MAX_SAMPLED_PASSAGES)
        ]
    )
    order = np.argsort(-np.bincount(nearest, minlength=count), kind="stable")
    place = {int(old): new for new, old in enumerate(order)}
    topic = {text: place[int(number)] for text, number in zip(distinct, nearest, strict=True)}
    return Topics(tuple(_label(centres_KV, old, common) for old in order), tuple(topic[text] for text in passages))


def _word_counts(text: str) -> Counter[str]:
    return Counter(word.casefold() for word in content_words(text) if not any(map(str.isdigit, word)))


def _unit_rows(counts: Sequence[Counter[str]], column: dict[str, int], weight_V: np.ndarray) -> np.ndarray:
    """Return tf-idf rows of length 1, float32 [N, V]; a passage without a common word has a row of zeros."""
    rows_NV = np.zeros((len(counts), len(column)), dtype=np.float32)
    for row, own in enumerate(counts):
        for word, number in own.items():
            if word in column:
                rows_NV[row, column[word]] = 1.0 + math.log(number)
    rows_NV *= weight_V
    return rows_NV / np.maximum(np.linalg.norm(rows_NV, axis=1, keepdims=True), 1e-9)


def _best_centres(rows_NV: np.ndarray, count: int) -> np.ndarray:
    """Return the unit centres [K, V] of the best of several starts."""
    rng = np.random.default_rng(0)
    found = [_centres(rows_NV, count, rng) for _ in range(_RESTARTS)]
    return max(found, key=lambda centres_KV: float((rows_NV @ centres_KV.T).max(1).sum()))


def _centres(rows_NV: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    chosen = [int(rng.integers(len(rows_NV)))]
    while len(chosen) < count:  # as in k-means++: far from the centres chosen so far
        distance_N = 1.0 - (rows_NV @ rows_NV[chosen].T).max(1)
        distance_N = np.maximum(distance_N, 1e-6).astype(np.float64)
        chosen.append(int(rng.choice(len(rows_NV), p=distance_N / distance_N.sum())))
    centres_KV = rows_NV[chosen]
    for _ in range(_ROUNDS):
        nearest_N = (rows_NV @ centres_KV.T).argmax(1)
        sums_KV = np.zeros_like(centres_KV)
        np.add.at(sums_KV, nearest_N, rows_NV)
        lengths_K1 = np.linalg.norm(sums_KV, axis=1, keepdims=True)
        centres_KV = np.where(lengths_K1 > 0, sums_KV / np.maximum(lengths_K1, 1e-9), centres_KV)
    return centres_KV


def _label(centres_KV: np.ndarray, topic: int, words: Sequence[str]) -> str:
    others_V = np.delete(centres_KV, topic, axis=0).max(0)
    best = np.argsort(-(centres_KV[topic] - others_V), kind="stable")[:_WORDS_OF_A_LABEL]
    return ", ".join(words[index] for index in best)
