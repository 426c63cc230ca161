"""Run all jobs over several processes, and record each in the journal when it is done."""

from __future__ import annotations

import functools
import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from megatron_pz.wikipedia.pipeline.journal import JobResult, Journal
from megatron_pz.wikipedia.pipeline.pool import Stopped, map_unordered
from megatron_pz.wikipedia.pipeline.progress import Progress
from megatron_pz.wikipedia.pipeline.selection import jobs_within
from megatron_pz.wikipedia.pipeline.shards import shard_is_whole
from megatron_pz.wikipedia.pipeline.worker import Worker, cache_part_path, documents_path, process_job, shard_stem
from megatron_pz.wikipedia.read.damage import Damage, DamageLog
from megatron_pz.wikipedia.read.streams import Job, plan_jobs

_HASHED_AT_ONCE = 1 << 24


@dataclass(frozen=True)
class _Checksum:
    """The task to hash an input."""

    path: str


@dataclass(frozen=True)
class _Numbered:
    number: int
    job: Job


_Task = _Checksum | _Numbered


def run_jobs(worker: Worker, journal: Journal) -> tuple[list[JobResult], tuple[Damage, ...]]:
    """Run the jobs that the journal lacks; return (results of the jobs 0, 1, …, damage outside of all jobs)."""
    jobs = _Jobs(worker, journal)
    options = worker.options.run
    counts: Counter[str] = sum((result.counts for result in jobs.done.values()), Counter())
    total = sum(Path(path).stat().st_size for path in worker.options.inputs)
    with Progress(total, options.log_interval) as progress:
        progress.resume(sum(result.bytes_read for result in jobs.done.values()))
        for result in map_unordered(functools.partial(_do, worker), jobs.tasks(), options.workers):
            if isinstance(result, JobResult):
                jobs.done[result.number] = result
                journal.add_job(result)
                counts += result.counts
                progress.update(result.bytes_read, counts)
            else:
                journal.add_checksum(*result)
    return jobs.in_order(), tuple(jobs.damage.found)


class _Jobs:
    """The jobs of a run and their known results."""

    def __init__(self, worker: Worker, journal: Journal) -> None:
        self._worker = worker
        self._unhashed = [path for path in worker.options.inputs if path not in journal.checksums]
        self._planned = 0
        self.done = {number: result for number, result in journal.jobs.items() if _is_usable(worker, result)}
        self.damage = DamageLog(worker.options.run.skip_damaged)

    def tasks(self) -> Iterator[_Task]:
        limit, part = self._worker.options.output.limit, self._worker.options.run.part
        if not limit:  # a dry run does not have to read all inputs
            for index, path in enumerate(self._worker.options.inputs):
                if path in self._unhashed and (part is None or part.has(index)):
                    yield _Checksum(path)
        for path in self._worker.options.inputs:
            for job in plan_jobs(path, self.damage):
                if limit and jobs_within(self.in_order(), limit):
                    return
                number, self._planned = self._planned, self._planned + 1
                if number not in self.done and (part is None or part.has(number)):
                    yield _Numbered(number, job)

    def in_order(self) -> list[JobResult]:
        """Return the results up to, but excluding, the first unfinished job."""
        results: list[JobResult] = []
        while len(results) < self._planned and len(results) in self.done:
            results.append(self.done[len(results)])
        return results


def _is_usable(worker: Worker, result: JobResult) -> bool:
    """Return whether the result of a job of an earlier run can be used."""
    files = [documents_path(worker.work, result.number)]
    if worker.makes_cache:
        files.append(cache_part_path(worker.work, result.number))
    return (
        all(file.is_file() for file in files)
        and all(
            shard_is_whole(shard_stem(worker.work, result.number, split), totals, worker.dtype)
            for split, totals in enumerate(result.totals)
        )
        and (worker.options.run.skip_damaged or not result.damage)
    )


def _do(worker: Worker, task: _Task, is_stopped: Callable[[], bool]) -> JobResult | tuple[str, str]:
    if isinstance(task, _Numbered):
        return process_job(worker, task.number, task.job, is_stopped)
    digest = hashlib.sha256()
    with Path(task.path).open("rb") as file:
        while content := file.read(_HASHED_AT_ONCE):
            digest.update(content)
            if is_stopped():
                raise Stopped
    return task.path, digest.hexdigest()
