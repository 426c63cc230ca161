"""Make corpora from dumps: jobs over worker processes, shards, and outputs that appear only when complete.

A worker does the whole job (decompress, parse, clean, cut, tokenize, write a shard) and returns only counts. Jobs
depend only on the input files, and their shards are joined in the order of the inputs, so the output bytes are the same
for any number of workers. A journal records finished jobs, so that the same command continues an interrupted run.
"""

from __future__ import annotations

import contextlib
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from megatron_pz.corpus.indexed_dataset import token_dtype
from megatron_pz.runtime.errors import BadInput
from megatron_pz.wikipedia.filters.duplicates import Fingerprinter
from megatron_pz.wikipedia.filters.filters import Filters
from megatron_pz.wikipedia.pipeline.cache import check_cache
from megatron_pz.wikipedia.pipeline.jobs import run_jobs
from megatron_pz.wikipedia.pipeline.journal import (
    Identity,
    Journal,
    begun_run,
    code_identity,
    file_identity,
    journal_path,
)
from megatron_pz.wikipedia.pipeline.options import PreprocessOptions
from megatron_pz.wikipedia.pipeline.outputs import EmptyCorpus, Provenance, join, publish, refuse_existing
from megatron_pz.wikipedia.pipeline.selection import select
from megatron_pz.wikipedia.pipeline.shards import Totals
from megatron_pz.wikipedia.pipeline.template_pass import learn_templates
from megatron_pz.wikipedia.pipeline.worker import Worker
from megatron_pz.wikipedia.pipeline.working_directory import clear, working_folder
from megatron_pz.wikipedia.read.dump import read_siteinfo
from megatron_pz.wikipedia.read.streams import input_kind
from megatron_pz.wikipedia.tokenize.text_encoder import TextEncoder


@dataclass(frozen=True)
class PreprocessReport:
    """The results of a run."""

    outputs: dict[str, Totals]
    """Size of every corpus, by its prefix."""
    counts: Counter[str]
    """``pages``, ``articles``, ``dropped_<reason>``, ``sentences_dropped_<reason>``, ``parts_lost_<place>_<reason>``,
    ``damaged``, and the counts of a passage cutter."""


def preprocess(options: PreprocessOptions) -> PreprocessReport:
    """Make one corpus, or one per split, from dumps and extracts, continuing an earlier run if there is one.

    Raises:
        BadInput: An input is missing, damaged or truncated (with the byte offset), the tokenizer cannot be loaded, an
            output exists, a split would be empty, the directory has another unfinished run, or the disk is full. No new
            file then has an output's name, existing outputs are unchanged, and finished work is kept.
    """
    _check(options)
    part = options.run.part
    with working_folder(options.output.output_prefix, options.run.fresh, part) as work, _terminates_cleanly():
        if part:
            return _do_part(options, work)
        try:
            report = _go_on(options, work)
        except BaseException as error:
            if isinstance(error, EmptyCorpus) or not begun_run(work)[1]:
                clear(work, journal_path(work))
            raise
        clear(work, journal_path(work))
        return report


def _do_part(options: PreprocessOptions, work: Path) -> PreprocessReport:
    """Run the jobs of this part; the command without a part writes the outputs."""
    worker = _worker(options, work)
    journal = Journal(work, _identity(worker), options.run.part)
    run_jobs(_with_templates(worker), journal)
    return PreprocessReport({}, sum((result.counts for result in journal.jobs.values()), Counter()))


def _worker(options: PreprocessOptions, work: Path) -> Worker:
    """Return the worker for the jobs, with the inputs that are actually read."""
    options, makes_cache = _with_cache(options, work)
    encoder = TextEncoder(options.tokenizer_model, options.tokenizer_backend)
    if options.output.append_eod and encoder.eod is None:
        raise BadInput(f"--append-eod: the tokenizer {options.tokenizer_model} has no end-of-text token; leave it out")
    sites = {path: read_siteinfo(path) for path in options.inputs if input_kind(path).content == "xml"}
    filters, fingerprinter = Filters(options.filters), Fingerprinter(options.filters.near_duplicates)
    dtype = token_dtype(encoder.highest_id + 1)
    is_first = begun_run(work)[0] is None  # the library that reads whole streams may have caused the previous abort
    return Worker(options, encoder, sites, work, dtype, filters, fingerprinter, makes_cache, whole_streams=is_first)


def _go_on(options: PreprocessOptions, work: Path) -> PreprocessReport:
    """Continue from the present state of the work to the published outputs."""
    worker = _worker(options, work)
    options = worker.options
    journal = Journal(work, _identity(worker))
    if journal.report is None:
        if not (options.run.overwrite or journal.is_publishing):
            refuse_existing(options.output)
        results, damage = run_jobs(_with_templates(worker), journal)
        splits, limit = max(len(options.output.split), 1), options.output.limit
        selection = select(work, results, damage, splits, limit, options.filters.near_duplicates)
        totals = join(worker, Provenance(journal.checksums, selection))
        journal.begin_publishing()
        publish(worker)
        sizes = {prefix: asdict(size) for prefix, size in totals.items()}
        journal.finish({"outputs": sizes, "counts": selection.counts})
    assert journal.report is not None
    outputs = {prefix: Totals(**size) for prefix, size in journal.report["outputs"].items()}
    return PreprocessReport(outputs, Counter(journal.report["counts"]))


def _with_templates(worker: Worker) -> Worker:
    """Return the worker with the dumps' own templates."""
    return replace(worker, templates=learn_templates(worker.options, worker.sites, worker.work))


def _check(options: PreprocessOptions) -> None:
    if not options.inputs:
        raise BadInput("--input names no file; give a Wikipedia dump")
    for path in options.inputs:
        if Path(path).is_dir():
            raise BadInput(f"{path}: is a directory; give the dump's files")
        input_kind(path)
    if repeated := [path for path, count in Counter(options.inputs).items() if count > 1]:
        raise BadInput(f"--input names {repeated[0]} twice; give every file once")
    if options.run.workers < 1:
        raise BadInput(f"--workers {options.run.workers}: must be at least 1")
    if part := options.run.part:
        if not 1 <= part.number <= part.parts:
            raise BadInput(f"--part {part.number}/{part.parts}: give 1/{part.parts} to {part.parts}/{part.parts}")
        if options.output.limit or options.run.fresh:
            raise BadInput("--part goes with neither --limit nor --fresh")
    for flag, value in (("--limit", options.output.limit), ("--log-interval", options.run.log_interval)):
        if value < 0:
            raise BadInput(f"{flag} {value}: cannot be negative; 0 is the default")
    if options.cache and options.output.limit:
        raise BadInput("--cache holds all articles and --limit reads a few; leave one of them out")
    split = options.output.split
    if split and (len(split) not in (2, 3) or min(split) <= 0):
        raise BadInput(f"--split {','.join(f'{share:g}' for share in split)}: give two or three numbers above 0")
    passages = options.passages
    if passages.max_passage_tokens < 16:
        raise BadInput(f"--max-passage-tokens {passages.max_passage_tokens}: must be at least 16")
    for flag, value in (
        ("--min-passage-words", passages.min_passage_words),
        ("--max-passage-words", passages.max_passage_words),
    ):
        if value < 0:
            raise BadInput(f"{flag} {value}: cannot be negative; 0 sets no bound")
    if 0 < passages.max_passage_words < passages.min_passage_words:
        raise BadInput(
            f"--min-passage-words {passages.min_passage_words} is above "
            f"--max-passage-words {passages.max_passage_words}"
        )


def _with_cache(options: PreprocessOptions, work: Path) -> tuple[PreprocessOptions, bool]:
    """Return the options with the inputs that are actually read, and whether this run writes the cache."""
    inputs = tuple(path for path in options.inputs if input_kind(path).content != "index")
    if not inputs:
        raise BadInput(f"{options.inputs[0]}: is the index of a multi-stream dump; give the dump itself")
    for path in inputs:
        if input_kind(path).content == "cache":
            check_cache(path, options)
    begun, _ = begun_run(work)
    if not options.cache or not Path(options.cache).exists() or (begun and begun["cache"]):
        return replace(options, inputs=inputs), bool(options.cache)
    header = check_cache(options.cache, options)
    there = [(made_from["name"], made_from["bytes"]) for made_from in header["inputs"]]
    if there != [(Path(path).name, Path(path).stat().st_size) for path in inputs]:
        raise BadInput(f"{options.cache}: was made from other inputs; remove it or give another --cache")
    print(f"reading {options.cache} in place of its inputs", file=sys.stderr)
    return replace(options, inputs=(options.cache,)), False


def _identity(worker: Worker) -> Identity:
    """Return everything that determines the output's bytes; messages name the parts that differ."""
    options = worker.options
    return {
        "input": [file_identity(path) for path in options.inputs],
        "tokenizer": worker.encoder.sha256,
        **asdict(options.output),
        **asdict(options.text),
        **asdict(options.articles),
        **asdict(options.passages),
        **worker.filters.describe(),
        "cache": str(Path(options.cache).resolve()) if worker.makes_cache else "",
        "version of this program": code_identity(),
    }


@contextlib.contextmanager
def _terminates_cleanly() -> Iterator[None]:
    """Make SIGTERM end the run as Ctrl-C does, so that the workers end."""

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
