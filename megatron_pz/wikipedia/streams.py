"""The bytes of a dump: which jobs a file is cut into, and what a job reads.

A job is a byte range of its file. A bz2 file is entered at the start of any of its streams; one that cannot be entered
in the middle (a single stream) is decompressed once, by the process that plans the jobs, and its jobs carry their XML.
"""

from __future__ import annotations

import bz2
import mmap
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from megatron_pz.errors import BadInput

InputKind = Literal["bz2", "xml", "jsonl"]

JOB_BYTES = {"bz2": 4 << 20, "xml": 16 << 20, "jsonl": 16 << 20}
"""Size of a job in bytes of the file: some seconds of work, some tens of MB of memory."""
ONE_STREAM_JOB_BYTES = 4 << 20
"""Size in bytes of XML of a job of a bz2 file whose streams are too large to be jobs."""
LARGEST_STREAM = 64 << 20
"""A bz2 stream above this size is decompressed while planning. Official multi-stream dumps stay below 2 MB."""
LARGEST_PAGE = 256 << 20
"""MediaWiki stores at most 2 MB of wikitext a page; past this size ``</page>`` is missing."""

LARGEST_BLOCK = 4 << 20
"""A decompressor hands out at most this many bytes at a time, whatever the input does."""
TAIL = 64
"""Bytes kept of text that has been searched: more than any tag that is looked for."""
PAGE_END = b"</page>"
DUMP_END = b"</mediawiki>"

_READ = 1 << 18
_STREAM_HEADER = re.compile(rb"BZh[1-9]1AY&SY")


@dataclass(frozen=True)
class Job:
    """A piece of one input file. Jobs depend on the file alone, never on the number of workers."""

    path: str
    kind: InputKind
    start: int
    end: int
    """Bytes [start, end) of the file."""
    xml: bytes | None = None
    """The decompressed pages, where the file could not be entered at ``start``."""


def input_kind(path: str) -> InputKind:
    """What the file holds, by its first bytes. Raises :class:`BadInput` for a missing, empty or foreign file."""
    try:
        with Path(path).open("rb") as file:
            head = file.read(4096)
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror}); give a Wikipedia dump or a .jsonl file") from None
    if not head:
        raise BadInput(f"{path}: is empty; download it again")
    if head.startswith(b"BZh"):
        return "bz2"
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if text.startswith(b"<"):
        return "xml"
    if text.startswith(b"{"):
        return "jsonl"
    raise BadInput(f"{path}: is neither a .xml.bz2 or .xml dump nor .jsonl; decompress it or give another file")


def plan_jobs(path: str) -> Iterator[Job]:
    """Cut an input file into jobs, in the file's order."""
    kind = input_kind(path)
    size = Path(path).stat().st_size
    if kind == "bz2":
        starts = _stream_starts(path)
        sizes = [end - start for start, end in zip(starts, [*starts[1:], size], strict=True)]
        if len(starts) == 1 or max(sizes) > LARGEST_STREAM:
            yield from _jobs_of_one_stream(path, size)
            return
    else:
        starts = list(range(0, size, JOB_BYTES[kind]))
    begin = starts[0]
    for start in starts[1:]:
        if start - begin >= JOB_BYTES[kind]:
            yield Job(path, kind, begin, start)
            begin = start
    yield Job(path, kind, begin, size)


@dataclass(frozen=True)
class Block:
    """Some of a file's decompressed content."""

    data: bytes
    offset: int
    """Where its bz2 stream begins in the file; in plain XML, where the data itself begins."""
    read_to: int
    """How far the file had been read."""

    def owned_bytes(self, job: Job) -> int:
        """How many of the data's bytes lie in the job's range."""
        if job.xml is not None:
            return len(self.data)
        if job.kind == "bz2":
            return len(self.data) if self.offset < job.end else 0
        return max(min(len(self.data), job.end - self.offset), 0)

    def is_past(self, job: Job) -> bool:
        """Whether all text of the job's range has been seen with this block."""
        if job.xml is not None:
            return False
        return self.offset >= job.end if job.kind == "bz2" else self.read_to > job.end


def _stream_starts(path: str) -> list[int]:
    """Byte offsets of all bz2 streams: a stream header followed by the magic number of a block, 80 bits in all."""
    with Path(path).open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        starts = [match.start() for match in _STREAM_HEADER.finditer(content)]
    if not starts or starts[0] != 0:
        raise BadInput(f"{path}: no bz2 block at byte 0; the file is damaged, download it again")
    return starts


def _jobs_of_one_stream(path: str, size: int) -> Iterator[Job]:
    buffer, begin, searched, tail = bytearray(), 0, 0, b""
    for block in read_blocks(path, "bz2", 0):
        buffer += block.data
        tail = (tail + block.data)[-TAIL:]
        if len(buffer) < ONE_STREAM_JOB_BYTES:
            continue
        cut = buffer.rfind(PAGE_END, max(searched - len(PAGE_END), 0)) + len(PAGE_END)
        searched = len(buffer)
        if cut >= len(PAGE_END):
            yield Job(path, "bz2", begin, block.read_to, bytes(buffer[:cut]))
            del buffer[:cut]
            begin, searched = block.read_to, 0
        elif len(buffer) > LARGEST_PAGE:
            raise BadInput(f"{path}: no </page> in {len(buffer)} bytes after byte {begin}; the file is damaged")
    require_end_of_dump(path, tail, size)
    yield Job(path, "bz2", begin, size, bytes(buffer))


def read_blocks(path: str, kind: InputKind, start: int) -> Iterator[Block]:
    """The file's decompressed content from byte ``start`` (the start of a stream) to the file's end."""
    if kind == "bz2":
        yield from _bz2_blocks(path, start)
        return
    with Path(path).open("rb") as file:
        file.seek(start)
        while data := file.read(_READ):
            yield Block(data, file.tell() - len(data), file.tell())


def _bz2_blocks(path: str, start: int) -> Iterator[Block]:
    with Path(path).open("rb") as file:
        file.seek(start)
        fed, pending = start, b""
        while True:
            if len(pending) < len(b"BZh9"):
                more = file.read(_READ)
                pending, fed = pending + more, fed + len(more)
            if not pending:
                return
            stream, decompressor = fed - len(pending), bz2.BZ2Decompressor()
            if not pending.startswith(b"BZh"):
                raise BadInput(f"{path}: no bz2 stream at byte {stream}; the file is damaged, download it again")
            yield Block(b"", stream, fed)  # tells a job that its last stream is over before the next is decompressed
            while not decompressor.eof:
                try:
                    data = decompressor.decompress(pending, max_length=LARGEST_BLOCK)
                except (OSError, ValueError):
                    raise BadInput(
                        f"{path}: is damaged before byte {fed}, in the bz2 stream that begins at byte {stream}; "
                        "download it again"
                    ) from None
                if data:
                    yield Block(data, stream, fed)
                pending = b""
                if decompressor.needs_input and not decompressor.eof:
                    pending = file.read(_READ)
                    fed += len(pending)
                    if not pending:
                        raise BadInput(
                            f"{path}: is truncated: it ends at byte {fed}, inside the bz2 stream that begins at byte "
                            f"{stream}; download it again"
                        )
            pending = decompressor.unused_data


def require_end_of_dump(path: str, tail: bytes, size: int) -> None:
    """Raise :class:`BadInput` where the last bytes of a dump\'s content lack its closing tag."""
    if DUMP_END not in tail:
        raise BadInput(f"{path}: is truncated: it ends at byte {size} without </mediawiki>; download it again")
