"""Track the difficulty of masks during training, by the kind of the hidden words and by the topic of the passage."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from megatron_pz.reports.kept_samples import KeptPassage
from megatron_pz.reports.word_kinds import KINDS

MAX_BINS = 12


@dataclass(frozen=True)
class Bins:
    """Ranges of steps of nearly equal length."""

    edges: tuple[int, ...]
    """Bin b holds the steps from ``edges[b]`` to ``edges[b + 1] - 1``."""

    @classmethod
    def over(cls, steps: Sequence[int]) -> Bins:
        """Divide the range of the steps into at most ``MAX_BINS`` bins."""
        first, end = min(steps), max(steps) + 1
        count = min(MAX_BINS, end - first)
        return cls(tuple(first + (end - first) * index // count for index in range(count + 1)))

    def __len__(self) -> int:
        return len(self.edges) - 1

    def of(self, step: int) -> int:
        """Return the number of the bin of a step."""
        return int(np.searchsorted(self.edges, step, side="right")) - 1


def difficulty(passages: Sequence[KeptPassage], topics: Sequence[int], topic_labels: Sequence[str]) -> dict[str, Any]:
    """Sum accuracies and rewards of all valid masks by kind of words, by topic, and by bin of steps.

    Args:
        passages: kept passages of one run; may be empty.
        topics: the topic number of each passage, -1 for none.
        topic_labels: labels of all topics.

    Returns:
        ``{"edges": …, "kinds": rows, "topics": rows}``, a row being ``{"label", "n", "right", "squares", "reward"}``
        with sums for every bin: number of masks, of their accuracies, of the accuracies' squares, of their rewards.
    """
    if not passages:
        return {"edges": [], "kinds": [], "topics": []}
    bins = Bins.over([passage.iteration for passage in passages])
    kinds = list(KINDS)
    by_kind = np.zeros((len(kinds), 4, len(bins)))
    by_topic = np.zeros((len(topic_labels), 4, len(bins)))
    for passage, topic in zip(passages, topics, strict=True):
        place = bins.of(passage.iteration)
        for kind, (accuracy, reward) in zip(passage.kinds, passage.masks, strict=True):
            amounts = (1.0, accuracy, accuracy * accuracy, reward)
            by_kind[kinds.index(kind), :, place] += amounts
            if topic >= 0:
                by_topic[topic, :, place] += amounts
    return {
        "edges": list(bins.edges),
        "kinds": list(_rows(KINDS.values(), by_kind)),
        "topics": list(_rows(topic_labels, by_topic)),
    }


def _rows(labels: Iterable[str], sums: np.ndarray) -> Iterable[dict[str, Any]]:
    names = ("n", "right", "squares", "reward")
    for label, own in zip(labels, sums, strict=True):
        if own[0].any():
            yield {"label": label} | {
                name: [round(float(value), 4) for value in row] for name, row in zip(names, own, strict=True)
            }
