"""Measure the CPU seconds of every stage of preprocessing, in one process, with the pipeline's own functions.

    python -m benchmarks.wikipedia.stages DUMP.xml.bz2 TOKENIZER_FOLDER WORK_FOLDER

Prints one JSON object. The sum of the stages is slightly less than the pipeline, which has journal, checksums and
waits.
"""

from __future__ import annotations

import bz2
import json
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from megatron_pz.corpus.indexed_dataset import token_dtype
from megatron_pz.wikipedia.filters.duplicates import Fingerprinter
from megatron_pz.wikipedia.pipeline.shards import ShardWriter, join_shards
from megatron_pz.wikipedia.read.articles import ArticleOptions, ArticleReader, wiki_of
from megatron_pz.wikipedia.read.compression import stream_starts
from megatron_pz.wikipedia.read.damage import DamageLog
from megatron_pz.wikipedia.read.dump import SiteInfo, read_pages, read_siteinfo
from megatron_pz.wikipedia.read.fast_bz2 import decoder_name
from megatron_pz.wikipedia.read.streams import plan_jobs, read_blocks
from megatron_pz.wikipedia.tokenize.passages import PassageCutter, PassageOptions, joints_of
from megatron_pz.wikipedia.tokenize.text_encoder import TextEncoder
from megatron_pz.wikitext import scanner_form
from megatron_pz.wikitext.extract import TextOptions

STAGES = ("bz2", "XML", "text", "passages", "tokens", "duplicates", "write")
INTERPRETED_BYTES = 2_000_000
"""Bytes of wikitext for the interpreted scanner, which is about forty times as slow."""


class Clock:
    """CPU seconds by stage."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        began = time.process_time()
        yield
        self.seconds[stage] += time.process_time() - began

    def each(self, stage: str, items: Iterator[Any]) -> Iterator[Any]:
        """Yield the items and add up the time to get them."""
        while True:
            with self(stage):
                item = next(items, None)
            if item is None:
                return
            yield item


def decompress(dump: Path, target: Path) -> float:
    """Write the dump's XML; return the CPU seconds of Python's bz2 alone, stream by stream as in any reader."""
    compressed = dump.read_bytes()
    starts = list(stream_starts(str(dump), "bz2") or [0])
    streams = [compressed[start:end] for start, end in pairwise([*starts, len(compressed)])]
    seconds = 0.0
    with target.open("wb") as file:
        for stream in streams:
            began = time.process_time()
            content = bz2.BZ2Decompressor().decompress(stream)
            seconds += time.process_time() - began
            file.write(content)
    return seconds


def decompress_as_the_pipeline(dump: Path) -> float:
    """Return the CPU seconds of the pipeline's decompression alone."""
    began = time.process_time()
    for _ in read_blocks(str(dump), "bz2", 0, DamageLog(), whole_to=dump.stat().st_size):
        pass
    return time.process_time() - began


def run_stages(xml: Path, tokenizer: str, work: Path, clock: Clock) -> dict[str, int]:
    """Run all stages after decompression; return the amounts that went through them."""
    encoder = TextEncoder(tokenizer)
    encoder.encode(["warm up"])
    dtype = token_dtype(encoder.highest_id + 1)
    reader = ArticleReader(read_siteinfo(str(xml)), TextOptions(), ArticleOptions())
    fingerprinter = Fingerprinter()
    amounts: Counter[str] = Counter()
    stems = []

    def encode(texts: Any) -> list[np.ndarray]:
        with clock("tokens"):
            return encoder.encode(texts)

    joints = joints_of(PassageOptions(), encode)
    for number, job in enumerate(plan_jobs(str(xml))):
        stems.append(work / f"{number}")
        cutter = PassageCutter(PassageOptions(), encode, joints)
        with ShardWriter(stems[-1], dtype) as shard:
            for page, _ in clock.each("XML", read_pages(job)):
                with clock("text"):
                    article = reader.read(page)
                if isinstance(article, str):
                    continue
                before = clock.seconds["tokens"]
                with clock("passages"):
                    passages = cutter.cut(article.paragraphs)
                    words = [passage.words for passage in passages]
                clock.seconds["passages"] -= clock.seconds["tokens"] - before
                sequences = [passage.ids for passage in passages]
                with clock("duplicates"):
                    fingerprinter.fingerprint(article.paragraphs)
                with clock("write"):
                    shard.add(article, sequences, words)
                amounts.update(articles=1, passages=len(passages), tokens=sum(map(len, sequences)))
            with clock("write"):
                shard.finish()
    with clock("write"):
        join_shards(stems, work / "corpus", dtype)
    return dict(amounts)


def scanner_speed(xml: Path, site: SiteInfo) -> dict[str, float]:
    """Return the MB of wikitext per CPU second, for the installed form of the scanner and the interpreted one."""
    wiki = wiki_of(site)
    texts = [page.text for job in plan_jobs(str(xml)) for page, _ in read_pages(job) if page.namespace == 0]
    return {
        "installed": _speed(scanner_form.scan_page, texts, wiki),
        "interpreted": _speed(scanner_form.load_interpreted(), _first(texts, INTERPRETED_BYTES), wiki),
    }


def _first(texts: list[str], size: int) -> list[str]:
    ends = np.cumsum([len(text) for text in texts])
    return texts[: int(np.searchsorted(ends, size)) + 1]


def _speed(scan: Callable[..., list[str]], texts: list[str], wiki: Any) -> float:
    kept = TextOptions().kept
    began = time.process_time()
    for text in texts:
        scan(text, "", wiki, kept)
    return sum(len(text.encode()) for text in texts) / (time.process_time() - began) / 1e6


def main() -> None:
    dump, tokenizer, work = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    work.mkdir(parents=True, exist_ok=True)
    xml = work / "dump.xml"
    clock = Clock()
    clock.seconds["bz2"] = decompress(dump, xml)
    decoder_seconds = decompress_as_the_pipeline(dump)
    amounts = run_stages(xml, tokenizer, work, clock)
    speed = scanner_speed(xml, read_siteinfo(str(xml)))
    print(
        json.dumps(
            {
                "stages": {stage: clock.seconds[stage] for stage in STAGES},
                "decoder": decoder_name(),
                "decoder_seconds": decoder_seconds,
                "amounts": amounts,
                "scanner": scanner_form.FORM,
                "scanner_mb_per_s": speed,
            }
        )
    )


if __name__ == "__main__":
    main()
