"""Define the options of a run of the pipeline."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from megatron_pz.wikipedia.filters.filters import FilterOptions
from megatron_pz.wikipedia.read.articles import ArticleOptions
from megatron_pz.wikipedia.tokenize.passages import PassageOptions
from megatron_pz.wikipedia.tokenize.text_encoder import TokenizerBackend
from megatron_pz.wikitext.extract import TextOptions

Level = Literal["passage", "document"]
Export = Literal["jsonl", "parquet"]


@dataclass(frozen=True)
class OutputOptions:
    """The outputs to write."""

    output_prefix: str
    """Outputs are ``<prefix>_text_passage.bin`` and so on, with ``_train``, ``_valid``, ``_test`` before ``_text``."""
    level: Level = "passage"
    """The unit of one sequence: a passage, or a whole article (the suffix is then ``_text_document``)."""
    split: tuple[float, ...] = ()
    """Relative sizes of train and valid, or train, valid and test, by a hash of the title; empty: no split."""
    append_eod: bool = False
    """Append the tokenizer's end-of-text token to every article."""
    export: Export | None = None
    """Also write the articles' clean text, ``<corpus>.text.jsonl`` or ``.text.parquet``, in the corpus' order."""
    limit: int = 0
    """Number of articles to take from the beginning of the inputs, counted before duplicates are dropped; 0: all."""


@dataclass(frozen=True)
class Part:
    """The share of one machine if several machines work on one command."""

    number: int
    """Number of this part, from 1."""
    parts: int

    def has(self, job: int) -> bool:
        """Return whether a job, counted from 0, belongs to this part."""
        return job % self.parts == self.number - 1

    def __str__(self) -> str:
        return f"{self.number}-of-{self.parts}"


@dataclass(frozen=True)
class RunOptions:
    """Execution options, which do not change the output."""

    workers: int = 1
    overwrite: bool = False
    """Replace existing outputs."""
    fresh: bool = False
    """Discard the work of an unfinished run instead of continuing it."""
    skip_damaged: bool = False
    """Skip damaged streams, pages and lines, and record them in the manifest."""
    log_interval: int = 0
    """Articles between two lines of progress if stderr is not a terminal; 0: a line every half minute."""
    part: Part | None = None
    """Run a part of the jobs and stop before the outputs, which the same command without this option writes."""


@dataclass(frozen=True)
class PreprocessOptions:
    """All options of :func:`megatron_pz.wikipedia.pipeline.pipeline.preprocess`."""

    inputs: tuple[str, ...]
    """Dumps (.xml, of one or many streams .xml.bz2 or .xml.zst, .xml.gz), extracts (.jsonl, plain or compressed) and
    caches, in the order of the output."""
    tokenizer_model: str
    """Folder of a Hugging Face tokenizer."""
    output: OutputOptions
    tokenizer_backend: TokenizerBackend = "auto"
    """The library that encodes; the ids do not depend on it."""
    cache: str = ""
    """File for the clean articles before they are cut and tokenized. It is created if it is missing, otherwise read
    instead of the inputs."""
    run: RunOptions = field(default_factory=RunOptions)
    text: TextOptions = field(default_factory=TextOptions)
    articles: ArticleOptions = field(default_factory=ArticleOptions)
    filters: FilterOptions = field(default_factory=FilterOptions)
    passages: PassageOptions = field(default_factory=PassageOptions)
