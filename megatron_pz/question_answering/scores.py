"""Aggregate the scores of a benchmark's questions: micro, macro over subjects, and BBEH's harmonic mean."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Scores:
    """Accuracies of one benchmark, from 0 to 1."""

    micro: float
    """Mean over the questions."""
    macro: float
    """Mean over the subjects' means."""
    harmonic: float
    """Adjusted harmonic mean over the subjects' means, see :func:`adjusted_harmonic_mean`."""
    by_subject: Mapping[str, float]


def aggregate(subjects: Sequence[str], scores: Sequence[float]) -> Scores:
    """Aggregate scores of questions, each from 0 to 1 (mean@k for k samples).

    Args:
        subjects: Each question's subject.
        scores: Each question's score, in the same order.

    Raises:
        ValueError: The two differ in length or are empty.

    >>> aggregate(["a", "a", "b"], [1.0, 0.0, 0.0])
    Scores(micro=0.3333333333333333, macro=0.25, harmonic=0.0192..., by_subject={'a': 0.5, 'b': 0.0})
    """
    if len(subjects) != len(scores) or not scores:
        raise ValueError(f"{len(subjects)} subjects and {len(scores)} scores")
    grouped: dict[str, list[float]] = defaultdict(list)
    for subject, score in zip(subjects, scores, strict=True):
        grouped[subject].append(score)
    by_subject = {subject: math.fsum(values) / len(values) for subject, values in sorted(grouped.items())}
    return Scores(
        micro=math.fsum(scores) / len(scores),
        macro=math.fsum(by_subject.values()) / len(by_subject),
        harmonic=adjusted_harmonic_mean(list(by_subject.values())),
        by_subject=by_subject,
    )


def adjusted_harmonic_mean(accuracies: Sequence[float]) -> float:
    """Return the harmonic mean of accuracies from 0 to 1 after adding one percentage point to each.

    A task without a right answer would otherwise make the mean zero (BIG-Bench Extra Hard, arXiv:2502.19187).

    >>> round(adjusted_harmonic_mean([0.0, 0.99]), 6)
    0.019802
    """
    return len(accuracies) / math.fsum(1 / (accuracy + 0.01) for accuracy in accuracies)
