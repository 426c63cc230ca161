"""What a worker does with one job: everything from its bytes to its shards on disk."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from megatron_pz.wikipedia.articles import Article, ArticleOptions, ArticleReader, read_extracts, split_of
from megatron_pz.wikipedia.dump import SiteInfo, read_pages
from megatron_pz.wikipedia.duplicates import FINGERPRINT, fingerprint
from megatron_pz.wikipedia.passages import PARAGRAPH_BREAK, PassageCutter, PassageOptions
from megatron_pz.wikipedia.shards import ShardWriter, Totals
from megatron_pz.wikipedia.streams import Job
from megatron_pz.wikipedia.text_encoder import TextEncoder, TokenizerBackend
from megatron_pz.wikipedia.wikitext import TextOptions

DOCUMENT = np.dtype([("split", "u1"), ("fingerprint", FINGERPRINT)])
"""What is needed of a document to decide, when all jobs are done, whether it stays."""


@dataclass(frozen=True)
class OutputOptions:
    """What is written."""

    output_prefix: str
    """Outputs are ``<prefix>_text_passage.bin`` and so on, with ``_train``, ``_valid``, ``_test`` before ``_text``."""
    level: Literal["passage", "document"] = "passage"
    """What one sequence is: a passage, or a whole article (the suffix is then ``_text_document``)."""
    split: tuple[float, ...] = ()
    """Relative sizes of train and valid, or train, valid and test, by a hash of the title; empty: no split."""
    append_eod: bool = False
    """Append the tokenizer's end-of-text token to every article."""
    overwrite: bool = False
    """Replace existing outputs."""


@dataclass(frozen=True)
class PreprocessOptions:
    """Everything that :func:`preprocess` needs to know."""

    inputs: tuple[str, ...]
    """Dumps (.xml.bz2 of one or many streams, .xml) and extracts (.jsonl), in the order of the output."""
    tokenizer_model: str
    """Folder of a Hugging Face tokenizer."""
    output: OutputOptions
    workers: int = 1
    tokenizer_backend: TokenizerBackend = "auto"
    """The library that encodes; the ids do not depend on it."""
    text: TextOptions = field(default_factory=TextOptions)
    articles: ArticleOptions = field(default_factory=ArticleOptions)
    passages: PassageOptions = field(default_factory=PassageOptions)


@dataclass(frozen=True)
class Worker:
    """What a worker process keeps from job to job."""

    options: PreprocessOptions
    encoder: TextEncoder
    sites: dict[str, SiteInfo]
    work: Path
    dtype: np.dtype
    is_stopped: Callable[[], bool]


@dataclass(frozen=True)
class JobResult:
    """All that leaves the worker's process."""

    number: int
    bytes_read: int
    totals: tuple[Totals, ...]
    """Of the shard of every split."""
    counts: Counter[str]


class Stopped(Exception):
    """The run was interrupted while this job was under way."""


def process_job(worker: Worker, number: int, job: Job) -> JobResult:
    """Write the job's shards, one a split. Raises :class:`Stopped` when the run is interrupted."""
    output = worker.options.output
    shares = output.split or (1.0,)
    writers = [ShardWriter(shard_stem(worker.work, number, split), worker.dtype) for split in range(len(shares))]
    cutter = PassageCutter(worker.options.passages, worker.encoder.count)
    counts: Counter[str] = Counter()
    documents: list[tuple[int, tuple[object, ...]]] = []
    for article in _articles(worker, job):
        if worker.is_stopped():
            raise Stopped
        counts["pages"] += 1
        if isinstance(article, str):
            counts[f"dropped_{article}"] += 1
            continue
        texts, sequences = _sequences(worker, cutter, article)
        if not sequences:
            counts["dropped_too_short"] += 1
            continue
        if output.append_eod:
            sequences[-1] = np.append(sequences[-1], np.uint32(_eod(worker)))
        split = split_of(article.title, shares)
        writers[split].add(article, sequences, [len(text.split()) for text in texts])
        documents.append((split, fingerprint(article.paragraphs)))
        counts["articles"] += 1
        counts["passages"] += len(sequences)
    np.save(documents_path(worker.work, number), np.array(documents, dtype=DOCUMENT))
    return JobResult(number, job.end - job.start, tuple(writer.finish() for writer in writers), counts + cutter.counts)


def shard_stem(work: Path, number: int, split: int) -> Path:
    """Path of a shard without suffix: the job's number and the split's."""
    return work / f"{split}-{number:07d}"


def documents_path(work: Path, number: int) -> Path:
    """Path of the job's documents in the order of the input: dtype :data:`DOCUMENT`."""
    return work / f"documents-{number:07d}.npy"


def _eod(worker: Worker) -> int:
    assert worker.encoder.eod is not None  # checked before any work began
    return worker.encoder.eod


def _articles(worker: Worker, job: Job) -> Iterator[Article | str]:
    if job.kind == "jsonl":
        yield from read_extracts(job, worker.options.articles)
        return
    reader = ArticleReader(worker.sites[job.path], worker.options.text, worker.options.articles)
    for page in read_pages(job):
        yield reader.read(page)


def _sequences(worker: Worker, cutter: PassageCutter, article: Article) -> tuple[list[str], list[np.ndarray]]:
    """The article's passages, or the whole article, as texts and token ids."""
    if worker.options.output.level == "document":
        texts = [PARAGRAPH_BREAK.join(article.paragraphs)]
        return texts, worker.encoder.encode(texts)
    texts = cutter.cut(article.paragraphs)
    sequences = worker.encoder.encode(texts)
    limit = worker.options.passages.max_passage_tokens
    budget = limit
    # Tokens were counted piece by piece; across the seams a few more can arise. Rarely does this loop run at all.
    while any(len(sequence) > limit for sequence in sequences):
        budget = max(budget - 1 - budget // 8, 4)
        smaller = cutter.with_budget(budget)
        texts = [
            part
            for text, sequence in zip(texts, sequences, strict=True)
            for part in ([text] if len(sequence) <= limit else smaller.cut(text.split(PARAGRAPH_BREAK)))
        ]
        sequences = worker.encoder.encode(texts)
    return texts, sequences
