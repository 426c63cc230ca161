"""Finish a run: join shards into corpora with manifests, and publish them under their names when complete."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from megatron_pz import __version__
from megatron_pz.corpus.indexed_dataset import highest_token_id
from megatron_pz.corpus.manifest import ATTRIBUTION, FORMAT, LICENSE, file_sha256, write_manifest
from megatron_pz.runtime.errors import BadInput
from megatron_pz.runtime.files import flush
from megatron_pz.wikipedia.filters.filters import FILTER_COUNTS
from megatron_pz.wikipedia.pipeline.cache import extraction, join_cache
from megatron_pz.wikipedia.pipeline.export import export_suffix, text_writer
from megatron_pz.wikipedia.pipeline.options import OutputOptions
from megatron_pz.wikipedia.pipeline.selection import REASONS, Selection
from megatron_pz.wikipedia.pipeline.shards import Totals, join_shards
from megatron_pz.wikipedia.pipeline.worker import Worker, cache_part_path, shard_stem
from megatron_pz.wikipedia.read.streams import cache_header
from megatron_pz.wikipedia.tokenize.passages import PASSAGE_COUNTS
from megatron_pz.wikitext.marks import HOLES, PLACES

_DATA = (".bin", ".idx", ".parquet")


@dataclass(frozen=True)
class Provenance:
    """The provenance of a corpus."""

    checksums: Mapping[str, str]
    """sha256 of the inputs, by their path; a dry run has none."""
    selection: Selection


class EmptyCorpus(BadInput):
    """A corpus is empty. Continuing the run would fail again, so its state is of no use."""


def output_prefixes(output: OutputOptions) -> list[str]:
    """Return the prefix of every corpus that these options produce."""
    suffix = f"_text_{output.level}"
    if not output.split:
        return [f"{output.output_prefix}{suffix}"]
    return [f"{output.output_prefix}_{name}{suffix}" for name in ("train", "valid", "test")[: len(output.split)]]


def output_suffixes(output: OutputOptions) -> list[str]:
    """List the suffixes of a corpus's files in order of publication, with ``.idx`` last because readers need it."""
    text = [export_suffix(output.export)] if output.export else []
    return [".bin", ".parquet", *text, ".manifest.json", ".idx"]


def refuse_existing(output: OutputOptions) -> None:
    """Raise :class:`BadInput` if an output file already exists."""
    for prefix in output_prefixes(output):
        for suffix in output_suffixes(output):
            if Path(f"{prefix}{suffix}").exists():
                raise BadInput(f"{prefix}{suffix}: exists; give --overwrite or another --output-prefix")


def join(worker: Worker, provenance: Provenance) -> dict[str, Totals]:
    """Join the shards to corpora inside the working directory; return the size of every corpus by its prefix.

    Raises EmptyCorpus if a corpus would hold no article.
    """
    selection, totals = provenance.selection, {}
    inputs = [_describe_input(worker, path, provenance.checksums.get(path)) for path in worker.options.inputs]
    for split, prefix in enumerate(output_prefixes(worker.options.output)):
        made = worker.work / Path(prefix).name
        stems = [shard_stem(worker.work, number, split) for number in range(selection.jobs)]
        with text_writer(made, worker.options.output.export) as export:
            totals[prefix] = join_shards(stems, made, worker.dtype, selection.dropped[split], export)
        if not totals[prefix].documents:
            raise EmptyCorpus(f"{prefix}: would hold no article; give more input or another --split")
        manifest = _manifest(worker, inputs, split, totals[prefix], selection)
        manifest["highest_token_id"] = highest_token_id(np.memmap(f"{made}.bin", dtype=worker.dtype, mode="r"))
        manifest["files"] = {suffix: file_sha256(f"{made}{suffix}") for suffix in _DATA}
        write_manifest(Path(f"{made}.manifest.json"), manifest)
    if worker.makes_cache:
        parts = [cache_part_path(worker.work, number) for number in range(selection.jobs)]
        header = {"options": extraction(worker.options), "inputs": inputs, **_all_splits(selection)}
        join_cache(parts, Path(worker.options.cache), header)
    return totals


def publish(worker: Worker) -> None:
    """Move the corpora to their final places. An interrupted call may be repeated."""
    for prefix in output_prefixes(worker.options.output):
        for suffix in output_suffixes(worker.options.output):
            made = worker.work / f"{Path(prefix).name}{suffix}"
            flush(made)
            os.replace(made, f"{prefix}{suffix}")
    flush(worker.work.parent)


def _describe_input(worker: Worker, path: str, sha256: str | None) -> dict[str, Any]:
    description: dict[str, Any] = {"name": Path(path).name, "bytes": Path(path).stat().st_size}
    if sha256:
        description["sha256"] = sha256
    if site := worker.sites.get(path):
        description |= {"wiki": site.name, "language": site.language}
    if header := cache_header(path):
        description["made_from"] = header
    return description


def _manifest(
    worker: Worker, inputs: Sequence[dict[str, Any]], split: int, totals: Totals, selection: Selection
) -> dict[str, Any]:
    """Return the manifest: everything that determines the output's bytes, and the outcome of the input.

    The manifest contains no time, host or number of workers.
    """
    options = worker.options
    output = options.output
    return {
        "format": FORMAT,
        "tool": {"name": "megatron_pz", "version": __version__},
        "license": LICENSE,
        "attribution": ATTRIBUTION,
        "inputs": list(inputs),
        "tokenizer": {
            "type": "HuggingFaceTokenizer",
            "name": worker.encoder.name,
            "sha256": worker.encoder.sha256,
            "vocab_size": worker.encoder.vocab_size,
            "eod": worker.encoder.eod,
            "backend": worker.encoder.backend,
        },
        "options": {
            "level": output.level,
            "append_eod": output.append_eod,
            "limit": output.limit,
            **asdict(options.text),
            **asdict(options.articles),
            **asdict(options.passages),
            **worker.filters.describe(),
        },
        "split": {"shares": list(output.split), "part": split},
        "dtype": worker.dtype.name,
        "counts": asdict(totals),
        "all_splits": _all_splits(selection),
    }


def _all_splits(selection: Selection) -> dict[str, Any]:
    counts = selection.counts
    return {
        "pages": counts["pages"],
        "articles": counts["articles"],
        "dropped": {reason: counts[f"dropped_{reason}"] for reason in REASONS},
        "sentences_dropped": {reason: counts[f"sentences_dropped_{reason}"] for reason in sorted(HOLES.values())},
        "parts_lost": {
            place: {reason: counts[f"parts_lost_{place}_{reason}"] for reason in sorted(HOLES.values())}
            for place in PLACES
        },
        "damaged": [
            {"name": Path(damage.path).name, "offset": damage.offset, "reason": damage.reason}
            for damage in selection.damage
        ],
        **{name: counts[name] for name in (*PASSAGE_COUNTS, *FILTER_COUNTS)},
    }
