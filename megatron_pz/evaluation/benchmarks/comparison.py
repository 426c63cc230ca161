"""Compare two models on the questions that both answered, in pairs, per set and per subject."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from pydantic import TypeAdapter

from megatron_pz.evaluation.benchmarks.intervals import Interval, Strata, difference, exchange_test
from megatron_pz.evaluation.benchmarks.scores import STATISTICS, ModelScores, strata
from megatron_pz.evaluation.benchmarks.store import AnswerStore
from megatron_pz.evaluation.crossed import holm
from megatron_pz.runtime.errors import BadInput
from megatron_pz.runtime.files import write_whole

COMPARABLE = (
    "recipe",
    "questions",
    "data",
    "chat",
    "samples",
    "temperature",
    "top_p",
    "stop",
    "max_tokens",
    "seed",
    "dtype",
    "quantization",
)
"""Facts that two models' answers must share; the context, the prompts' tokens and the batches may differ."""
SIGNIFICANT = 0.05

Key = TypeVar("Key")
Pair = tuple[Strata, Strata]
"""The accuracies of two models on the same questions."""


@dataclass(frozen=True)
class Difference:
    """Change of one score between two models."""

    benchmark: str
    subject: str
    """Empty for the whole set."""
    statistic: str
    """``micro``, ``macro`` or ``harmonic``."""
    questions: int
    before: float
    after: float
    change: Interval
    """95 % bootstrap interval over questions, for this difference alone."""
    p: float
    """The p-value of this score's change under the null hypothesis that the models are alike (exchange test)."""
    corrected_p: float
    """The p-value after Holm's correction over this score of all sets of the comparison, or over all their subjects."""

    @property
    def significant(self) -> bool:
        """Return whether the difference is significant after correction for the number of comparisons."""
        return self.corrected_p < SIGNIFICANT


@dataclass(frozen=True)
class Comparison:
    """All differences between two models."""

    before: str
    after: str
    sets: tuple[Difference, ...]
    """A set has a row for each of its scores."""
    subjects: tuple[Difference, ...]
    """Subjects of the sets that have several."""


def compare(before: ModelScores, before_folder: Path, after: ModelScores, after_folder: Path) -> Comparison:
    """Compare two models on the sets that both have.

    Raises:
        BadInput: no set is in both, the two models were asked a set with different recipes, settings or data, or
            their answers do not match their records.
    """
    scored = {each.benchmark: each for each in before.benchmarks}
    both = [each for each in after.benchmarks if each.benchmark in scored]
    if not both:
        raise BadInput(f"{before.name} and {after.name} have no benchmark in common")
    sets: dict[str, Pair] = {}
    for each in both:
        require_alike(each.benchmark, before.name, scored[each.benchmark].facts, after.name, each.facts)
        old, new = (strata(AnswerStore(folder).read(each.benchmark)) for folder in (before_folder, after_folder))
        if [(subject, len(old[subject])) for subject in old] != [(subject, len(new[subject])) for subject in new]:
            raise BadInput(
                f"{each.benchmark}: the answers in {before_folder} and {after_folder} are to other questions, although "
                "their records agree: a file was replaced; remove it and ask again"
            )
        sets[each.benchmark] = (old, new)
    subjects: dict[tuple[str, str], Pair] = {
        (benchmark, subject): ({subject: old[subject]}, {subject: new[subject]})
        for benchmark, (old, new) in sets.items()
        for subject in (old if len(old) > 1 else ())
    }
    rows = {
        (benchmark, statistic): _difference(benchmark, "", statistic, pair, p_values)
        for statistic in STATISTICS
        for benchmark, pair, p_values in _tested(
            statistic, {each.benchmark: sets[each.benchmark] for each in both if statistic in each.scores}
        )
    }
    return Comparison(
        before.name,
        after.name,
        tuple(rows[each.benchmark, statistic] for each in both for statistic in each.scores),
        tuple(
            _difference(benchmark, subject, "micro", pair, p_values)
            for (benchmark, subject), pair, p_values in _tested("micro", subjects)
        ),
    )


def compare_in_turn(models: Sequence[ModelScores], folders: Sequence[Path]) -> list[Comparison]:
    """Compare each model with the one before it. Raises :class:`BadInput` as :func:`compare` does."""
    pairs = pairwise(zip(models, folders, strict=True))
    return [compare(*before, *after) for before, after in pairs]


def save_comparisons(comparisons: Sequence[Comparison], path: Path) -> None:
    """Write comparisons as a JSON list. Raises :class:`BadInput` if the file cannot be written."""
    content = TypeAdapter(list[Comparison]).dump_json(list(comparisons), indent=1) + b"\n"
    try:
        write_whole(path, lambda partial: partial.write_bytes(content))
    except OSError as error:
        raise BadInput(f"cannot write {path}: {error.strerror}") from None


def require_alike(
    benchmark: str, before: str, former: Mapping[str, Any], after: str, latter: Mapping[str, Any]
) -> None:
    """Raise BadInput if the conditions of two models' answers to a set differ in one of :data:`COMPARABLE`."""
    different = [name for name in COMPARABLE if former.get(name) != latter.get(name)]
    if different:
        raise BadInput(
            f"{benchmark}: {before} and {after} were not asked alike, they differ in "
            f"{', '.join(name.replace('_', ' ') for name in different)}; evaluate both by the same command"
        )


def _tested(statistic: str, pairs: Mapping[Key, Pair]) -> list[tuple[Key, Pair, tuple[float, float]]]:
    """Return each pair with the p-value of its change and the p-value corrected for all pairs."""
    p_values = [exchange_test(STATISTICS[statistic], *pair) for pair in pairs.values()]
    return [
        (key, pair, both)
        for (key, pair), both in zip(pairs.items(), zip(p_values, holm(p_values), strict=True), strict=True)
    ]


def _difference(benchmark: str, subject: str, statistic: str, pair: Pair, p_values: tuple[float, float]) -> Difference:
    score = STATISTICS[statistic]
    sizes = np.array([len(values) for values in pair[0].values()])
    before, after = (float(score(np.array([values.mean() for values in each.values()]), sizes)) for each in pair)
    change = difference(score, *pair)
    return Difference(benchmark, subject, statistic, int(sizes.sum()), before, after, change, *p_values)
