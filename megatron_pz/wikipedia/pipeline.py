"""The whole way from dumps to corpora: jobs over worker processes, shards, and outputs that appear only when complete.

A worker does everything for its job (decompress, parse, clean, cut, tokenize, write a shard); only counts return. The
jobs depend on the input files alone and their shards are joined in the order of the inputs, so the output bytes are the
same for every number of workers.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import multiprocessing
import os
import shutil
import signal
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from megatron_pz import __version__
from megatron_pz.corpus.indexed_dataset import token_dtype
from megatron_pz.corpus.manifest import ATTRIBUTION, FORMAT, LICENSE, file_sha256, write_manifest
from megatron_pz.errors import BadInput
from megatron_pz.wikipedia.articles import DROP_REASONS
from megatron_pz.wikipedia.dump import SiteInfo, read_siteinfo
from megatron_pz.wikipedia.duplicates import DUPLICATE_REASONS, Deduplicator
from megatron_pz.wikipedia.passages import PASSAGE_COUNTS
from megatron_pz.wikipedia.shards import Totals, join_shards
from megatron_pz.wikipedia.streams import Job, input_kind, plan_jobs
from megatron_pz.wikipedia.text_encoder import TextEncoder
from megatron_pz.wikipedia.worker import (
    JobResult,
    OutputOptions,
    PreprocessOptions,
    Worker,
    documents_path,
    process_job,
    shard_stem,
)

_SUFFIXES = (".bin", ".parquet", ".manifest.json", ".idx")
"""Of one output, in the order in which they appear: nothing opens a corpus without its ``.idx``."""
_JOBS_AHEAD = 2
"""Jobs handed out per worker; more would only hold more decompressed text of one-stream dumps in memory."""


@dataclass(frozen=True)
class PreprocessReport:
    """What was made."""

    outputs: dict[str, Totals]
    """Size of every corpus, by its prefix."""
    counts: Counter[str]
    """``pages``, ``articles``, ``dropped_<reason>``, and the counts of a passage cutter."""


def preprocess(options: PreprocessOptions) -> PreprocessReport:
    """Make one corpus, or one a split, from dumps and extracts.

    Raises:
        BadInput: An input is missing, damaged or truncated (with the byte offset), the tokenizer cannot be loaded, an
            output exists, a split would be empty, or the disk is full. Nothing is left under an output's name then,
            and an output that was there before is untouched.
    """
    _check(options)
    prefixes = output_prefixes(options.output)
    _refuse_existing(prefixes, options.output)
    sites = {path: read_siteinfo(path) for path in options.inputs if input_kind(path) != "jsonl"}
    encoder = TextEncoder(options.tokenizer_model, options.tokenizer_backend)
    if options.output.append_eod and encoder.eod is None:
        raise BadInput(f"--append-eod: the tokenizer {options.tokenizer_model} has no end-of-text token; leave it out")
    with _working_folder(options.output.output_prefix) as work, _terminates_cleanly():
        dtype = token_dtype(encoder.vocab_size)
        counts: Counter[str] = Counter()
        jobs = 0
        context = multiprocessing.get_context()
        stop = context.Event()
        worker = Worker(options, encoder, sites, work, dtype, stop.is_set)
        with tqdm(total=_input_bytes(options.inputs), unit="B", unit_scale=True, disable=None) as progress:
            for result in _run(worker, options.workers, context, stop):
                counts += result.counts
                jobs += 1
                progress.update(result.bytes_read)
                progress.set_postfix(articles=counts["articles"], passages=counts["passages"], refresh=False)
        totals = _finish(worker, prefixes, jobs, counts)
        return PreprocessReport(dict(zip(prefixes, totals, strict=True)), counts)


def output_prefixes(output: OutputOptions) -> list[str]:
    """Prefix of every corpus that these options make."""
    suffix = f"_text_{output.level}"
    if not output.split:
        return [f"{output.output_prefix}{suffix}"]
    return [f"{output.output_prefix}_{name}{suffix}" for name in ("train", "valid", "test")[: len(output.split)]]


def _check(options: PreprocessOptions) -> None:
    if not options.inputs:
        raise BadInput("--input names no file; give a Wikipedia dump")
    for path in options.inputs:
        if Path(path).is_dir():
            raise BadInput(f"{path}: is a folder; give the dump's files")
    if options.workers < 1:
        raise BadInput(f"--workers {options.workers}: must be at least 1")
    split = options.output.split
    if split and (len(split) not in (2, 3) or min(split) <= 0):
        raise BadInput(f"--split {','.join(f'{share:g}' for share in split)}: give two or three numbers above 0")
    passages = options.passages
    if passages.max_passage_tokens < 16:
        raise BadInput(f"--max-passage-tokens {passages.max_passage_tokens}: must be at least 16")
    if min(passages.min_passage_words, passages.max_passage_words) < 0:
        raise BadInput("--min-passage-words and --max-passage-words cannot be negative")
    if 0 < passages.max_passage_words < passages.min_passage_words:
        raise BadInput(
            f"--min-passage-words {passages.min_passage_words} is above "
            f"--max-passage-words {passages.max_passage_words}"
        )


def _refuse_existing(prefixes: Sequence[str], output: OutputOptions) -> None:
    for path in (f"{prefix}{suffix}" for prefix in prefixes for suffix in _SUFFIXES):
        if Path(path).exists() and not output.overwrite:
            raise BadInput(f"{path}: exists; give --overwrite or another --output-prefix")


def _input_bytes(inputs: Sequence[str]) -> int:
    return sum(Path(path).stat().st_size for path in inputs)


@contextlib.contextmanager
def _working_folder(output_prefix: str) -> Iterator[Path]:
    """A folder beside the outputs, on their disk, which goes whatever happens."""
    work = Path(f"{output_prefix}.working")
    try:
        work.mkdir(parents=True, exist_ok=True)
        with (work / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise BadInput(
                    f"{work}: another run writes there; wait for it or give another --output-prefix"
                ) from None
            try:
                yield work
            finally:
                shutil.rmtree(work, ignore_errors=True)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            free = shutil.disk_usage(work.parent).free
            raise BadInput(
                f"{work.parent}: the disk is full ({free >> 20} MiB free); nothing was kept, make room and run again"
            ) from None
        raise BadInput(f"{error.filename or work}: cannot be written ({error.strerror or error})") from None


@contextlib.contextmanager
def _terminates_cleanly() -> Iterator[None]:
    """SIGTERM ends the run as Ctrl-C does, so that workers and working folder go."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:  # not in the main thread, where signals cannot be handled
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


# Jobs over processes


_worker: Worker | None = None


def _start_worker(worker: Worker) -> None:
    global _worker
    _worker = worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole terminal; the parent tells us
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _work(number: int, job: Job) -> JobResult:
    assert _worker is not None
    return process_job(_worker, number, job)


def _run(worker: Worker, workers: int, context: Any, stop: Any) -> Iterator[JobResult]:
    """The results of all jobs, in the order of the jobs."""
    jobs = enumerate(job for path in worker.options.inputs for job in plan_jobs(path))
    if workers == 1:
        for number, job in jobs:
            yield process_job(worker, number, job)
        return
    with ProcessPoolExecutor(workers, context, _start_worker, (worker,)) as pool:
        pending: deque[Future[JobResult]] = deque()
        try:
            for number, job in jobs:
                pending.append(pool.submit(_work, number, job))
                if len(pending) >= _JOBS_AHEAD * workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        except BrokenProcessPool:
            raise BadInput("a worker process was killed, most likely for want of memory; use fewer --workers") from None
        finally:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)


# Outputs


def _finish(worker: Worker, prefixes: Sequence[str], jobs: int, counts: Counter[str]) -> list[Totals]:
    """Join the shards, write the manifests, and only then let the outputs appear."""
    totals: list[Totals] = []
    dropped = _drop_duplicates(worker, jobs, len(prefixes), counts)
    inputs = [_describe_input(path, worker.sites.get(path)) for path in worker.options.inputs]
    for split, prefix in enumerate(prefixes):
        made = worker.work / Path(prefix).name
        stems = [shard_stem(worker.work, number, split) for number in range(jobs)]
        totals.append(join_shards(stems, made, worker.dtype, dropped[split]))
        if not totals[-1].documents:
            raise BadInput(f"{prefix}: would hold no article; give more input or another --split")
        write_manifest(Path(f"{made}.manifest.json"), _manifest(worker, inputs, split, totals[-1], counts))
    for prefix in prefixes:
        for suffix in _SUFFIXES:
            made = worker.work / f"{Path(prefix).name}{suffix}"
            with made.open("rb") as file:
                os.fsync(file.fileno())
            os.replace(made, f"{prefix}{suffix}")
    return totals


def _drop_duplicates(worker: Worker, jobs: int, splits: int, counts: Counter[str]) -> list[dict[int, np.ndarray]]:
    """Of every split: job -> the documents of its shard that go, ascending. Corrects ``counts``."""
    deduplicator = Deduplicator()
    dropped: list[dict[int, np.ndarray]] = [{} for _ in range(splits)]
    for number in range(jobs):
        documents = np.load(documents_path(worker.work, number))
        reasons = deduplicator.drop_reasons(documents["fingerprint"])
        goes = np.array([reason is not None for reason in reasons], dtype=bool)
        counts.update(f"dropped_{reason}" for reason in reasons if reason is not None)
        counts["articles"] -= int(goes.sum())
        for split in range(splits):
            of_split = goes[documents["split"] == split]
            if of_split.any():
                dropped[split][number] = np.flatnonzero(of_split)
    return dropped


def _describe_input(path: str, site: SiteInfo | None) -> dict[str, Any]:
    description: dict[str, Any] = {"name": Path(path).name, "bytes": Path(path).stat().st_size}
    description["sha256"] = file_sha256(path)
    if site is not None:
        description |= {"wiki": site.name, "language": site.language}
    return description


def _manifest(
    worker: Worker, inputs: list[dict[str, Any]], split: int, totals: Totals, counts: Counter[str]
) -> dict[str, Any]:
    """Everything that decides the output's bytes, and what became of the input. No time, host or number of workers."""
    options = worker.options
    output = options.output
    return {
        "format": FORMAT,
        "tool": {"name": "megatron_pz", "version": __version__},
        "license": LICENSE,
        "attribution": ATTRIBUTION,
        "inputs": inputs,
        "tokenizer": {
            "type": "HuggingFaceTokenizer",
            "name": worker.encoder.name,
            "sha256": worker.encoder.sha256,
            "backend": worker.encoder.backend,
            "vocab_size": worker.encoder.vocab_size,
            "eod": worker.encoder.eod,
        },
        "options": {
            "level": output.level,
            "append_eod": output.append_eod,
            **asdict(options.text),
            **asdict(options.articles),
            **asdict(options.passages),
        },
        "split": {"shares": list(output.split), "part": split},
        "dtype": worker.dtype.name,
        "counts": asdict(totals),
        "all_splits": {
            "pages": counts["pages"],
            "articles": counts["articles"],
            "dropped": {reason: counts[f"dropped_{reason}"] for reason in (*DROP_REASONS, *DUPLICATE_REASONS)},
            **{name: counts[name] for name in PASSAGE_COUNTS},
        },
    }
