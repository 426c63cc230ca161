"""Process one job, from its bytes to its shards on disk."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from megatron_pz.runtime.files import written_whole
from megatron_pz.wikipedia.filters.duplicates import Fingerprinter
from megatron_pz.wikipedia.filters.filters import Filters
from megatron_pz.wikipedia.pipeline.cache import CachePart, read_cache
from megatron_pz.wikipedia.pipeline.journal import JobResult
from megatron_pz.wikipedia.pipeline.options import PreprocessOptions
from megatron_pz.wikipedia.pipeline.pool import Stopped
from megatron_pz.wikipedia.pipeline.shards import ShardWriter, Totals
from megatron_pz.wikipedia.read.articles import Article, ArticleReader, read_extracts, split_of
from megatron_pz.wikipedia.read.damage import DamageLog
from megatron_pz.wikipedia.read.dump import SiteInfo, read_pages
from megatron_pz.wikipedia.read.page import PageError
from megatron_pz.wikipedia.read.streams import Job
from megatron_pz.wikipedia.tokenize.incremental_tokenization import PARAGRAPH_BREAK, Joints
from megatron_pz.wikipedia.tokenize.passages import Passage, PassageCutter, joints_of
from megatron_pz.wikipedia.tokenize.text_encoder import TextEncoder
from megatron_pz.wikitext.templates.from_dump import DumpTemplates


@dataclass(frozen=True)
class Worker:
    """The state that a worker process keeps between jobs."""

    options: PreprocessOptions
    encoder: TextEncoder
    sites: Mapping[str, SiteInfo]
    work: Path
    dtype: np.dtype
    filters: Filters
    fingerprinter: Fingerprinter
    makes_cache: bool = False
    whole_streams: bool = True
    """Decompress with :mod:`megatron_pz.wikipedia.read.fast_bz2`; the output does not depend on it."""
    templates: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Summaries of each dump's own templates (``template_pass``)."""

    @cached_property
    def dump_templates(self) -> dict[str, DumpTemplates]:
        """Return the templates of the dumps that have any, ready to render."""
        return {path: DumpTemplates(found, self.sites[path].language) for path, found in self.templates.items()}

    @cached_property
    def joints(self) -> Joints:
        """Return how the tokenizer handles blank lines."""
        return joints_of(self.options.passages, self.encoder.encode)


def process_job(worker: Worker, number: int, job: Job, is_stopped: Callable[[], bool]) -> JobResult:
    """Write the job's files completely and to the disk. Raise :class:`Stopped` if the run is interrupted."""
    damage = DamageLog(worker.options.run.skip_damaged)
    cutter = PassageCutter(worker.options.passages, worker.encoder.encode, worker.joints)
    counts: Counter[str] = Counter()
    with contextlib.ExitStack() as open_files:
        documents = _Documents(worker, number, open_files)
        for article in _articles(worker, job, damage, counts):
            if is_stopped():
                raise Stopped
            counts["pages"] += 1
            if isinstance(article, str):
                counts[f"dropped_{article}"] += 1
                continue
            documents.extracted(article)
            if reason := worker.filters.drop_reason(article):
                counts[f"dropped_{reason}"] += 1
                continue
            passages = _passages(worker, cutter, article)
            kept = worker.filters.kept_passages(passages, counts)
            if not kept:
                counts["dropped_benchmark_overlap" if passages else "dropped_too_short"] += 1
                continue
            documents.add(article, kept)
            counts["articles"] += 1
            counts["passages"] += len(kept)
        totals = documents.finish()
    return JobResult(number, job.end - job.start, totals, counts + cutter.counts, tuple(damage.found))


class _Documents:
    """All files of one job: one shard per split, the fingerprints of its documents, and its part of the cache."""

    def __init__(self, worker: Worker, number: int, open_files: contextlib.ExitStack) -> None:
        self._worker, self._number = worker, number
        output = worker.options.output
        self._shares = output.split or (1.0,)
        self._shards = [
            open_files.enter_context(
                ShardWriter(shard_stem(worker.work, number, split), worker.dtype, output.export is not None)
            )
            for split in range(len(self._shares))
        ]
        self._records: list[tuple[int, tuple[object, ...]]] = []
        self._cache = CachePart(cache_part_path(worker.work, number)) if worker.makes_cache else None

    def extracted(self, article: Article) -> None:
        if self._cache is not None:
            self._cache.add(article)

    def add(self, article: Article, passages: list[Passage]) -> None:
        sequences = [passage.ids for passage in passages]
        if self._worker.options.output.append_eod:
            assert self._worker.encoder.eod is not None  # checked before any work began
            sequences[-1] = np.append(sequences[-1], np.uint32(self._worker.encoder.eod))
        split = split_of(article.title, self._shares)
        self._shards[split].add(article, sequences, [passage.words for passage in passages])
        self._records.append((split, self._worker.fingerprinter.fingerprint(article.paragraphs)))

    def finish(self) -> tuple[Totals, ...]:
        with written_whole(documents_path(self._worker.work, self._number)) as file:
            fingerprint = self._worker.fingerprinter.dtype
            np.save(file, np.array(self._records, dtype=[("split", "u1"), ("fingerprint", fingerprint)]))
        if self._cache is not None:
            self._cache.finish()
        return tuple(shard.finish() for shard in self._shards)


def shard_stem(work: Path, number: int, split: int) -> Path:
    """Return the path of a shard without suffix: the job's number and the split's."""
    return work / f"{split}-{number:07d}"


def documents_path(work: Path, number: int) -> Path:
    """Return the path of the records that determine which of the job's documents are kept after all jobs.

    They are the ``split`` and the ``fingerprint`` (dtype of ``Fingerprinter``) of each, in the order of the input.
    """
    return work / f"documents-{number:07d}.npy"


def cache_part_path(work: Path, number: int) -> Path:
    """Return the path of the job's part of the cache."""
    return work / f"cache-{number:07d}.zst"


def _articles(worker: Worker, job: Job, damage: DamageLog, counts: Counter[str]) -> Iterator[Article | str]:
    """Yield the job's articles, and the reason for every page that is not an article.

    At the end of the job, ``counts`` receives the number of sentences that were dropped because they lost a word, and
    of parts that vanished from others.
    """
    if job.kind.content == "cache":
        yield from read_cache(job, damage)
        return
    if job.kind.content == "jsonl":
        yield from read_extracts(job, worker.options.articles, damage)
        return
    reader = ArticleReader(
        worker.sites[job.path], worker.options.text, worker.options.articles, worker.dump_templates.get(job.path)
    )
    for page, offset in read_pages(job, damage, worker.whole_streams):
        try:
            article = reader.read(page)
        except PageError as error:
            damage.report(job.path, offset, f"page {page.page_id} after byte {offset} {error}")
        else:
            yield article
    counts.update({f"sentences_dropped_{reason}": number for reason, number in reader.dropped_sentences.items()})
    counts.update({f"parts_lost_{name}": number for name, number in reader.lost_parts.items()})


def _passages(worker: Worker, cutter: PassageCutter, article: Article) -> list[Passage]:
    """Cut the article into passages, or make the whole article one."""
    if worker.options.output.level == "passage":
        return cutter.cut(article.paragraphs)
    (ids,) = worker.encoder.encode([PARAGRAPH_BREAK.join(article.paragraphs)])
    return [Passage(article.paragraphs, ids)]
