"""Which documents of the shards come into the corpora, decided when all jobs are done, in the order of the inputs."""

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
"""Why pages do not become articles of a corpus, as they are judged; counted as ``dropped_<reason>``."""


@dataclass(frozen=True)
class Selection:
    """The jobs and documents that are joined."""

    jobs: int
    """Only the first so many jobs count."""
    dropped: list[dict[int, np.ndarray]]
    """For every split: job -> the documents of its shard that stay out, ascending."""
    counts: Counter[str]
    """Counts over these jobs, the duplicates included."""
    damage: tuple[Damage, ...]
    """Damage met in these jobs."""


def jobs_within(results: Sequence[JobResult], limit: int) -> int | None:
    """Return how many jobs, from the first, it takes for ``limit`` articles; None where these do not hold so many."""
    articles = 0
    for number, result in enumerate(results):
        articles += result.counts["articles"]
        if articles >= limit:
            return number + 1
    return None


def select(
    work: Path, results: Sequence[JobResult], damage: Sequence[Damage], splits: int, limit: int, near_duplicates: float
) -> Selection:
    """Drop duplicates, and what lies behind the first ``limit`` articles (0: nothing).

    Args:
        work: The working directory.
        results: Of the jobs 0, 1, ….
        damage: What is damaged beyond the jobs.
        splits: Number of splits.
        limit: Articles, counted before duplicates are dropped.
        near_duplicates: Similarity from which on an article repeats an earlier one; 0: only equal ones do.
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
