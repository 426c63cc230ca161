"""Select the documents of the shards for the corpora, after all jobs and in the order of the inputs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from megatron_pz.wikipedia.filters.duplicates import DUPLICATE_REASONS, Deduplicator
from megatron_pz.wikipedia.filters.filters import FILTER_REASONS
from megatron_pz.wikipedia.pipeline.journal import JobResult
from megatron_pz.wikipedia.pipeline.worker import documents_path
from megatron_pz.wikipedia.read.articles import DROP_REASONS
from megatron_pz.wikipedia.read.damage import Damage

REASONS = (*DROP_REASONS, *FILTER_REASONS, *DUPLICATE_REASONS)
"""Reasons to drop pages, in the order of the checks; counted as ``dropped_<reason>``."""


@dataclass(frozen=True)
class Selection:
    """The jobs and documents that are joined."""

    jobs: int
    """Number of jobs, from the first, that count."""
    dropped: list[dict[int, np.ndarray]]
    """Dropped documents of a job's shard in ascending order, by split and job."""
    counts: Counter[str]
    """Counts over these jobs, the duplicates included."""
    damage: tuple[Damage, ...]
    """Damage in these jobs."""


def jobs_within(results: Sequence[JobResult], limit: int) -> int | None:
    """Return how many jobs, from the first, are needed for ``limit`` articles; None if there are fewer articles."""
    articles = 0
    for number, result in enumerate(results):
        articles += result.counts["articles"]
        if articles >= limit:
            return number + 1
    return None


def select(
    work: Path, results: Sequence[JobResult], damage: Sequence[Damage], splits: int, limit: int, near_duplicates: float
) -> Selection:
    """Drop duplicates and all articles after the first ``limit`` (0 for no limit).

    Args:
        work: The working directory.
        results: Results of the jobs 0, 1, ….
        damage: Damage outside of the jobs.
        splits: Number of splits.
        limit: Number of articles, counted before duplicates are dropped.
        near_duplicates: Minimum similarity at which an article repeats an earlier one; 0 for only equal ones.
    """
    if limit:
        results = results[: jobs_within(results, limit)]
    counts: Counter[str] = sum((result.counts for result in results), Counter())
    deduplicator = Deduplicator(near_duplicates)
    dropped: list[dict[int, np.ndarray]] = [{} for _ in range(splits)]
    articles = counts["articles"]
    before = 0
    for result in results:
        documents = np.load(documents_path(work, result.number))
        within = len(documents) if not limit else min(limit - before, len(documents))
        reasons = deduplicator.drop_reasons(documents["fingerprint"][:within])
        goes = np.array([reason is not None for reason in reasons] + [True] * (len(documents) - within), dtype=bool)
        counts.update(f"dropped_{reason}" for reason in reasons if reason is not None)
        articles -= int(goes.sum())
        before += len(documents)
        for split in range(splits):
            of_split = goes[documents["split"] == split]
            if of_split.any():
                dropped[split][result.number] = np.flatnonzero(of_split)
    counts["articles"] = articles
    damage = sorted({*damage, *(found for result in results for found in result.damage)})
    counts["damaged"] = len(damage)
    return Selection(len(results), dropped, counts, tuple(damage))
