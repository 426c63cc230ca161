"""Cache clean articles on disk, so that another tokenizer or passage size needs no second pass over a dump.

A cache is a skippable frame that records how it was made, followed by one Zstandard frame of JSON lines for each job,
in the order of the inputs (``zstd -dc`` shows them). As an input it yields the same articles as its dump.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from megatron_pz.runtime.errors import BadInput
from megatron_pz.runtime.files import written_whole
from megatron_pz.wikipedia.pipeline.options import PreprocessOptions
from megatron_pz.wikipedia.read.articles import Article
from megatron_pz.wikipedia.read.compression import zstd
from megatron_pz.wikipedia.read.damage import DamageLog
from megatron_pz.wikipedia.read.streams import Job, cache_header, cache_header_frame, input_kind, read_blocks

FORMAT: Final = 1
"""Version of the layout."""
_SIZE: Final = "bytes of articles"
"""Entry of the header: bytes of all frames after it. Without it, the loss of whole frames would not be noticed."""
_LEVEL = 3


class CachePart:
    """The articles of one job, as one frame of the cache."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._compressor = zstd().ZstdCompressor(level=_LEVEL)
        self._frames: list[bytes] = []

    def add(self, article: Article) -> None:
        line = json.dumps(dataclasses.asdict(article), ensure_ascii=False) + "\n"
        self._frames.append(self._compressor.compress(line.encode("utf-8", "surrogatepass")))

    def finish(self) -> None:
        self._frames.append(self._compressor.flush())
        with written_whole(self._path) as file:
            file.writelines(self._frames)


def join_cache(parts: Sequence[Path], path: Path, header: dict[str, Any]) -> None:
    """Write the cache from its parts, which are kept."""
    size = sum(part.stat().st_size for part in parts)
    with written_whole(path) as file:
        file.write(cache_header_frame({"megatron_pz_articles": FORMAT, _SIZE: size, **header}))
        for part in parts:
            with part.open("rb") as frame:
                shutil.copyfileobj(frame, file, 1 << 20)


def read_cache(job: Job, damage: DamageLog) -> Iterator[Article]:
    """Yield the articles of a job of a cache."""
    rest = b""
    for block in read_blocks(job.path, job.kind.compression, job.start, damage):
        if block.after_gap:
            rest = b""
        if block.offset >= job.end:
            return
        *lines, rest = (rest + block.data).split(b"\n")
        for line in lines:
            record = json.loads(line.decode("utf-8", "surrogatepass"))
            yield Article(**{**record, "paragraphs": tuple(record["paragraphs"])})


def extraction(options: PreprocessOptions) -> dict[str, Any]:
    """Return the options that determine the articles of a cache and their text."""
    return {"text": dataclasses.asdict(options.text), "articles": dataclasses.asdict(options.articles)}


def check_cache(path: str, options: PreprocessOptions) -> dict[str, Any]:
    """Read the header of a cache that matches these options. Raise :class:`BadInput` for another cache."""
    header = cache_header(path) if input_kind(path).content == "cache" else None
    if header is None or header.get("megatron_pz_articles") != FORMAT:
        raise BadInput(f"{path}: is not a cache of layout {FORMAT}; remove it or give another --cache")
    size, there_are = header.get(_SIZE), Path(path).stat().st_size - len(cache_header_frame(header))
    if size is not None and there_are < size and not options.run.skip_damaged:
        raise BadInput(
            f"{path}: is truncated: {size - there_are} bytes of articles are missing; remove it or copy it again"
        )
    wanted = extraction(options)
    for group, settings in wanted.items():
        there = header["options"].get(group, {})
        for name, value in settings.items():
            if there.get(name) != json.loads(json.dumps(value)):
                raise BadInput(
                    f"{path}: was made with {name} = {there.get(name)}, not {value}; give the same flag, or the dump "
                    "and another --cache"
                )
    return header
