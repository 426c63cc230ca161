"""Score the answers to a benchmark, and write and read a model's results as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import TypeAdapter, ValidationError

from megatron_pz.evaluation.benchmarks.contamination import Contamination
from megatron_pz.evaluation.benchmarks.intervals import (
    Interval,
    Statistic,
    Strata,
    harmonic,
    interval,
    macro,
    micro,
    resampled_means,
)
from megatron_pz.runtime.errors import BadInput
from megatron_pz.runtime.files import write_whole

RESULTS_FILE = "results.json"
HARMONIC = "the authors add .01 to the accuracy of every task; all wrong is .010, all right 1.010"
"""Explanation of the harmonic mean for readers of a table."""
STATISTICS: Mapping[str, Statistic] = {"micro": micro, "macro": macro, "harmonic": harmonic}


@dataclass(frozen=True)
class Counts:
    """Counts of responses that may invalidate a score."""

    responses: int
    unread: int
    """Responses without a readable answer, including those whose answer is guessed."""
    guessed: int
    """Responses whose verdict is that of a random guess, because no answer was read."""
    guessed_right: int
    truncated: int
    """Responses ended by the token limit or the engine's context."""
    grader_errors: int
    """Responses on which a grader failed; they count as wrong under that grader."""
    mean_tokens: float


@dataclass(frozen=True)
class BenchmarkScore:
    """Scores of one model on one benchmark, with 95 % bootstrap intervals over questions."""

    benchmark: str
    facts: Mapping[str, Any]
    """Settings, data and model of the answers (``<benchmark>.json``)."""
    headline: str
    """Name of the score that the recipe quotes: micro, macro or harmonic."""
    scores: Mapping[str, Interval]
    """``micro`` (over questions), ``macro`` (over subjects) and ``harmonic`` (BBEH's), where they differ or apply."""
    graders: Mapping[str, Interval]
    """Micro score under each grader; the first one's verdict makes :attr:`scores`."""
    subjects: Mapping[str, Interval]
    counts: Counts
    too_long: tuple[str, ...]
    """Identifiers of questions whose prompt leaves no room in the engine's context; they count as wrong."""
    contamination: Contamination | None = None
    clean: Interval | None = None
    """Micro score without the questions that occur in the training corpus; None if that was not checked."""


@dataclass(frozen=True)
class ModelScores:
    """All scores of one model."""

    name: str
    benchmarks: tuple[BenchmarkScore, ...]

    def save(self, folder: Path) -> None:
        """Write :data:`RESULTS_FILE` into the model's folder. Raise :class:`BadInput` if that fails."""
        path = folder / RESULTS_FILE
        content = TypeAdapter(ModelScores).dump_json(self, indent=1) + b"\n"
        try:
            write_whole(path, lambda partial: partial.write_bytes(content))
        except OSError as error:
            raise BadInput(f"cannot write {path}: {error.strerror}") from None

    @classmethod
    def load(cls, folder: Path) -> ModelScores:
        """Read what :meth:`save` wrote.

        Raises:
            BadInput: the file is missing or holds something else.
        """
        path = folder / RESULTS_FILE
        try:
            return TypeAdapter(cls).validate_json(path.read_bytes())
        except OSError as error:
            raise BadInput(f"{path}: {error.strerror}; give a folder of tools/evaluate.py --benchmarks") from None
        except ValidationError as error:
            raise BadInput(f"{path} is not a result of tools/evaluate.py ({error.error_count()} faults)") from None


def score(
    answers: pa.Table, headline: str, facts: Mapping[str, Any], contamination: Contamination | None = None
) -> BenchmarkScore:
    """Score the answers to one benchmark (rows of :data:`.asking.ANSWERS_SCHEMA`, questions in order)."""
    accuracies = strata(answers)
    resampled = resampled_means(accuracies)
    named = ["micro"] + ["macro"] * (len(accuracies) > 1) + ["harmonic"] * (headline == "harmonic")
    return BenchmarkScore(
        benchmark=answers["benchmark"][0].as_py(),
        facts=dict(facts),
        headline=headline,
        scores={name: interval(STATISTICS[name], accuracies, resampled) for name in named},
        graders={name: _micro(strata(answers, name)) for name, _ in answers["graders"][0].as_py()},
        subjects={subject: _micro({subject: values}) for subject, values in accuracies.items()},
        counts=_counts(answers),
        too_long=tuple(dict.fromkeys(answers.filter(pc.invert(answers["asked"]))["question"].to_pylist())),
        contamination=contamination,
        clean=_clean(answers, contamination),
    )


def strata(answers: pa.Table, grader: str | None = None) -> dict[str, np.ndarray]:
    """Return each subject's accuracies: for every question the mean over its samples, float64 [questions].

    Args:
        answers: rows of :data:`.asking.ANSWERS_SCHEMA`.
        grader: the grader whose verdicts count; None stands for the first of the recipe.
    """
    if grader is None:
        correct: Sequence[bool] = answers["correct"].to_pylist()
    else:
        correct = [dict(verdicts)[grader] for verdicts in answers["graders"].to_pylist()]
    by_question: dict[tuple[str, str], list[bool]] = {}
    for subject, question, right in zip(
        answers["subject"].to_pylist(), answers["question"].to_pylist(), correct, strict=True
    ):
        by_question.setdefault((subject, question), []).append(right)
    by_subject: dict[str, list[float]] = {}
    for (subject, _), samples in by_question.items():
        by_subject.setdefault(subject, []).append(sum(samples) / len(samples))
    return {subject: np.array(by_subject[subject]) for subject in sorted(by_subject)}


def _micro(accuracies: Strata) -> Interval:
    return interval(micro, accuracies, resampled_means(accuracies))


def _counts(answers: pa.Table) -> Counts:
    asked = answers.filter(answers["asked"])
    guessed = asked.filter(asked["guessed"])
    return Counts(
        responses=len(asked),
        unread=asked["extracted"].null_count,
        guessed=len(guessed),
        guessed_right=pc.sum(guessed["correct"]).as_py() or 0,
        truncated=pc.sum(asked["truncated"]).as_py() or 0,
        grader_errors=len(asked) - asked["error"].null_count,
        mean_tokens=pc.mean(asked["response_tokens"]).as_py() or 0.0,
    )


def _clean(answers: pa.Table, contamination: Contamination | None) -> Interval | None:
    """Return the micro score of the questions that are not in the corpus; None if there are none."""
    if contamination is None:
        return None
    found = pa.array(contamination.questions, pa.string())
    kept = answers.filter(pc.invert(pc.is_in(answers["question"], value_set=found)))
    return _micro(strata(kept)) if len(kept) else None
