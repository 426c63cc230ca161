"""Divide input files into jobs, and read the bytes of a job.

A job is a byte range of its file. Reading a compressed file can start at any of its streams. A file without such entry
points (gzip, or a single stream) is decompressed once, by the process that plans the jobs, and its jobs carry their
content.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import re
from collections import deque
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

from megatron_pz.runtime.errors import BadInput
from megatron_pz.wikipedia.read.compression import (
    Compression,
    begins_stream,
    compression_of,
    damage_errors,
    new_decompressor,
    next_stream,
    stream_starts,
)
from megatron_pz.wikipedia.read.damage import DamageLog
from megatron_pz.wikipedia.read.fast_bz2 import WholeStreams

Content = Literal["xml", "jsonl", "cache", "index"]

JOB_BYTES: dict[Compression, int] = {"none": 16 << 20, "bz2": 4 << 20, "zst": 4 << 20}
"""Maximum number of bytes of the file in a job: a second of work, some tens of MB of memory."""
_JOBS_LEFT = 16
"""A job is at most this part of the rest of its file, so that all workers end at about the same time."""
_SMALLEST = 4
"""A job is at least this part of :data:`JOB_BYTES`, because each job has some files and waits for the disk."""
ONE_STREAM_JOB_BYTES = 8 << 20
"""Size of a job in decompressed bytes if reading cannot start in the middle of the file."""
LARGEST_PAGE = 64 << 20
"""MediaWiki stores at most 2 MB of wikitext a page, or 12 MB escaped; past this size ``</page>`` is missing."""

LARGEST_BLOCK = 4 << 20
"""A decompressor returns at most this many bytes at a time, for any input."""
TAIL = 64
"""Bytes kept of searched text: more than the length of any tag."""
PAGE_END = b"</page>"
DUMP_END = b"</mediawiki>"

_READ = 1 << 18
_HELD = 16 << 20
"""Bytes of a stream that are held back until it proves undamaged: the whole stream in multi-stream dumps."""
_CACHE_MAGIC = b"\x50\x2a\x4d\x18"
_INDEX_LINE = re.compile(rb"\d+:\d+:")


@dataclass(frozen=True)
class InputKind:
    """The content type and compression of an input file."""

    content: Content
    """``index`` is the index file of a multi-stream dump, which is not needed."""
    compression: Compression = "none"


@dataclass(frozen=True)
class Job:
    """A piece of one input file. Jobs depend only on the file, never on the number of workers."""

    path: str
    kind: InputKind
    start: int
    end: int
    """Bytes [start, end) of the file."""
    payload: bytes | None = None
    """The decompressed content, if reading cannot start at ``start``."""


@dataclass(frozen=True)
class Block:
    """A block of a file's decompressed content."""

    data: bytes
    offset: int
    """Start of its stream in the file; in uncompressed files, start of the data."""
    read_to: int
    """Offset up to which the file had been read."""
    after_gap: bool = False
    """Damaged data were skipped before this block."""

    def owned_bytes(self, job: Job) -> int:
        """Count how many of the data's bytes lie in the job's range."""
        if job.payload is not None:
            return len(self.data)
        if job.kind.compression != "none":
            return len(self.data) if self.offset < job.end else 0
        return max(min(len(self.data), job.end - self.offset), 0)

    def is_past(self, job: Job) -> bool:
        """Return whether this block completes the text of the job's range."""
        if job.payload is not None:
            return False
        return self.offset >= job.end if job.kind.compression != "none" else self.read_to > job.end


class _Broken(Exception):
    """A stream is damaged; the message describes how."""


def input_kind(path: str) -> InputKind:
    """Detect a file's content by its first bytes. Raise :class:`BadInput` for a missing, empty or foreign file."""
    try:
        with Path(path).open("rb") as file:
            head = file.read(_READ)
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror}); give a Wikipedia dump or a .jsonl file") from None
    if not head:
        raise BadInput(f"{path}: is empty; download it again")
    compression = compression_of(head)
    if head.startswith(_CACHE_MAGIC) and cache_header(path):
        return InputKind("cache", "zst")
    if compression != "none":
        blocks = read_blocks(path, compression, 0, DamageLog(), hold=0)
        head = b"".join(itertools.islice((block.data for block in blocks if block.data), 1))
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if text.startswith(b"<"):
        return InputKind("xml", compression)
    if text.startswith(b"{"):
        return InputKind("jsonl", compression)
    if _INDEX_LINE.match(text):
        return InputKind("index", compression)
    raise BadInput(f"{path}: holds neither a dump's XML nor .jsonl (plain, .bz2, .gz or .zst); give another file")


def cache_header(path: str) -> dict[str, Any] | None:
    """Read the JSON header of a cache of articles, in a skippable frame at its start; None for any other file."""
    with Path(path).open("rb") as file:
        magic, size = file.read(4), int.from_bytes(file.read(4), "little")
        content = file.read(size) if magic == _CACHE_MAGIC and size < _READ else b""
    try:
        header = json.loads(content)
    except ValueError:
        return None
    return header if isinstance(header, dict) and "megatron_pz_articles" in header else None


def cache_header_frame(header: dict[str, Any]) -> bytes:
    """Return the header for :func:`cache_header` as a frame that every Zstandard library skips."""
    content = json.dumps(header, ensure_ascii=False).encode()
    return _CACHE_MAGIC + len(content).to_bytes(4, "little") + content


def plan_jobs(path: str, damage: DamageLog | None = None) -> Iterator[Job]:
    """Cut an input file into jobs, in the file's order."""
    kind = input_kind(path)
    if kind.content == "index":
        return
    size = Path(path).stat().st_size
    if kind.compression == "none":
        starts: Iterator[int] | None = iter(range(0, size, max(JOB_BYTES["none"] // _SMALLEST, 1)))
    elif kind.content == "jsonl":
        starts = None  # a line does not show where the previous one began
    else:
        starts = stream_starts(path, kind.compression)
    if starts is None:
        yield from _jobs_of_one_stream(path, kind, size, damage or DamageLog())
        return
    begin = next(starts)
    for start in starts:
        most = JOB_BYTES[kind.compression]
        if start - begin >= min(max((size - begin) // _JOBS_LEFT, most // _SMALLEST), most):
            yield Job(path, kind, begin, start)
            begin = start
    yield Job(path, kind, begin, size)


def _jobs_of_one_stream(path: str, kind: InputKind, size: int, damage: DamageLog) -> Iterator[Job]:
    separator = PAGE_END if kind.content == "xml" else b"\n"
    buffer, begin, searched, tail, gaps = bytearray(), 0, 0, b"", 0
    for block in read_blocks(path, kind.compression, 0, damage):
        if block.after_gap:
            gaps += 1
            whole = buffer.rfind(separator) + len(separator)
            if whole >= len(separator):
                yield Job(path, kind, begin, block.offset, bytes(buffer[:whole]))
            buffer.clear()
            begin, searched = block.offset, 0
        buffer += block.data
        tail = (tail + block.data)[-TAIL:]
        if len(buffer) < ONE_STREAM_JOB_BYTES:
            continue
        cut = buffer.rfind(separator, max(searched - len(separator), 0)) + len(separator)
        searched = len(buffer)
        if cut >= len(separator):
            yield Job(path, kind, begin, block.read_to, bytes(buffer[:cut]))
            del buffer[:cut]
            begin, searched = block.read_to, 0
        elif len(buffer) > LARGEST_PAGE:
            damage.report(path, begin, f"no {separator!r} in {len(buffer)} bytes after byte {begin}")
            buffer.clear()
            begin, searched = block.read_to, 0
    if kind.content == "xml" and not gaps:
        check_end_of_dump(path, tail, size, damage)
    yield Job(path, kind, begin, size, bytes(buffer))


def read_blocks(
    path: str, compression: Compression, start: int, damage: DamageLog, hold: int = _HELD, whole_to: int = 0
) -> Iterator[Block]:
    """Yield the file's decompressed content from byte ``start`` (the start of a stream) to the file's end.

    A damaged stream is reported; if this does not end the run, the content continues with the next stream. The output
    lags by up to ``hold`` bytes, so that the content just before the damage is not yielded. The content does not depend
    on the installed libraries. Streams that begin before byte ``whole_to`` are read faster, but
    the size of their blocks depends on the libraries.
    """
    with contextlib.ExitStack() as files:
        file = files.enter_context(Path(path).open("rb"))
        if compression == "none":
            file.seek(start)
            while data := file.read(_READ):
                yield Block(data, file.tell() - len(data), file.tell())
            return
        size = Path(path).stat().st_size
        whole = files.enter_context(WholeStreams(file, whole_to)) if whole_to and compression == "bz2" else None
        position: int | None = start
        while position is not None and position < size:
            try:
                position = yield from _stream_blocks(file, position, compression, hold, whole)
            except _Broken as broken:
                damage.report(path, position, str(broken))
                position = next_stream(path, compression, position)
                yield Block(b"", size if position is None else position, size, after_gap=True)


def _stream_blocks(
    file: BinaryIO, position: int, compression: Compression, hold: int, whole: WholeStreams | None
) -> Generator[Block, None, int]:
    """Yield the blocks of the stream at ``position``, delayed by up to ``hold`` bytes; return its end."""
    fed, held, bytes_held = position, deque[Block](), 0
    yield Block(b"", position, fed)  # informs a job that its last stream is over before the next is decompressed
    if whole is not None and (found := whole.read(position)) is not None:
        content, end = found
        yield Block(content, position, end)
        return end
    file.seek(position)
    stream = f"the {compression} stream that begins at byte {position}"
    decompressor, errors = new_decompressor(compression), damage_errors(compression)
    while not decompressor.eof:
        chunk = b""
        if decompressor.needs_input:
            chunk = file.read(_READ)
            fed += len(chunk)
            if not chunk:
                raise _Broken(f"is truncated: it ends at byte {fed}, inside {stream}")
            if fed - len(chunk) == position and not begins_stream(compression, chunk):
                if compression == "gz" and not chunk.strip(b"\0"):  # tapes and block devices pad with zeros
                    return fed
                raise _Broken(f"no {compression} stream at byte {position}, where one must begin")
        try:
            data = decompressor.decompress(chunk, LARGEST_BLOCK)
        except errors:
            raise _Broken(f"is damaged before byte {fed}, in {stream}") from None
        if data:
            held.append(Block(data, position, fed))
            bytes_held += len(data)
            while bytes_held > hold:
                bytes_held -= len(held[0].data)
                yield held.popleft()
    yield from held
    return fed - len(decompressor.unused_data)


def check_end_of_dump(path: str, tail: bytes, size: int, damage: DamageLog) -> None:
    """Report a file whose content ends in these bytes without a dump's closing tag."""
    if DUMP_END not in tail:
        damage.report(path, size, f"is truncated: it ends at byte {size} without </mediawiki>")
