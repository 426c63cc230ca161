"""Read bz2, gzip and Zstandard through one interface, and find the streams at which reading can start."""

from __future__ import annotations

import bz2
import mmap
import re
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Literal, Protocol

from megatron_pz.runtime.errors import BadInput

Compression = Literal["none", "bz2", "gz", "zst"]

LARGEST_STREAM = 64 << 20
"""A file whose first stream is larger than this, compressed, is taken for one stream. Those of official multi-stream
dumps stay below 2 MB."""

_STREAM_BEGINS: dict[Compression, re.Pattern[bytes]] = {
    "bz2": re.compile(rb"BZh[1-9]"),
    "gz": re.compile(rb"\x1f\x8b\x08"),
    "zst": re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18"),
}
BZ2_STREAM = re.compile(rb"BZh[1-9]1AY&SY")
"""A stream header and the magic number of a block: 80 bits, which compressed data does not hold by chance."""
EMPTY_BZ2_STREAM = re.compile(rb"BZh[1-9]\x17rE8P\x90\0{4}")
"""Matches a stream without a block, which has :data:`EMPTY_BZ2_BYTES` bytes."""
EMPTY_BZ2_BYTES = 14
_ZST_FRAME = re.compile(rb"\x28\xb5\x2f\xfd")
LONGEST_BEGIN = 10
"""Bytes that the longer of these two patterns matches."""
_SEARCHED_AT_ONCE = 1 << 20
"""Bytes searched at a time. A file that is mapped as a whole would count as this process's memory."""


class Decompressor(Protocol):
    """A reader of one stream: the interface of ``bz2.BZ2Decompressor`` and of ``zstd.ZstdDecompressor``."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


class _GzipDecompressor:
    """One member of a gzip file."""

    def __init__(self) -> None:
        self._zlib = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)

    @property
    def eof(self) -> bool:
        return self._zlib.eof

    @property
    def needs_input(self) -> bool:
        return not self._zlib.eof and not self._zlib.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._zlib.unused_data

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        return self._zlib.decompress(self._zlib.unconsumed_tail + data, max(max_length, 0))


def zstd() -> ModuleType:
    """Return Python 3.14's ``compression.zstd`` or its backport. Raise :class:`BadInput` if there is neither."""
    try:
        if sys.version_info >= (3, 14):
            from compression import zstd as module
        else:
            from backports import zstd as module
    except ImportError:
        raise BadInput("Zstandard files need a library: pip install backports.zstd") from None
    return module


def compression_of(head: bytes) -> Compression:
    """Detect the compression of a file from its first bytes."""
    return next((name for name, begins in _STREAM_BEGINS.items() if begins.match(head)), "none")


def begins_stream(compression: Compression, head: bytes) -> bool:
    """Return whether these bytes, which may be truncated, can begin a stream."""
    return _STREAM_BEGINS[compression].match(head) is not None


def new_decompressor(compression: Compression) -> Decompressor:
    """Return a decompressor for one stream."""
    if compression == "bz2":
        return bz2.BZ2Decompressor()
    if compression == "gz":
        return _GzipDecompressor()
    return zstd().ZstdDecompressor()


def damage_errors(compression: Compression) -> tuple[type[Exception], ...]:
    """Return the exceptions that a decompressor raises on damaged data."""
    if compression == "bz2":
        return (OSError, ValueError)
    return (zlib.error,) if compression == "gz" else (zstd().ZstdError,)


def stream_starts(path: str, compression: Compression) -> Iterator[int] | None:
    """Return the byte offsets, in order, of a file's streams at which reading can start; None if there are none.

    They are found while the result is consumed. Raises :class:`BadInput` if a bz2 file does not begin with a block.
    """
    if compression == "gz":
        return None  # the three bytes of a header occur too often in compressed data by chance
    starts = _occurrences(path, BZ2_STREAM) if compression == "bz2" else _zst_frames(path)
    first, second = next(starts, None), next(starts, None)
    if compression == "bz2" and first and _are_empty_bz2_streams(path, first):
        first = 0
    if compression == "bz2" and first != 0:
        raise BadInput(f"{path}: no bz2 block at byte 0; the file is damaged, download it again")
    if first is None or second is None or second > LARGEST_STREAM:
        return None
    return _chain(first, second, starts)


def _are_empty_bz2_streams(path: str, size: int) -> bool:
    """Return whether a file begins with this many bytes of streams without content."""
    with Path(path).open("rb") as file:
        return size <= _SEARCHED_AT_ONCE and not EMPTY_BZ2_STREAM.sub(b"", file.read(size))


def next_stream(path: str, compression: Compression, after: int) -> int | None:
    """Return the byte offset of the first stream after byte ``after``, for files with a damaged stream."""
    if compression == "gz":
        return None
    return next(_occurrences(path, BZ2_STREAM if compression == "bz2" else _ZST_FRAME, after + 1), None)


def _chain(first: int, second: int, others: Iterator[int]) -> Iterator[int]:
    yield first
    yield second
    yield from others


def _occurrences(path: str, pattern: re.Pattern[bytes], start: int = 0) -> Iterator[int]:
    """Yield the byte offsets from ``start`` on of a pattern of at most :data:`LONGEST_BEGIN` bytes, in order."""
    content = bytearray(LONGEST_BEGIN - 1 + _SEARCHED_AT_ONCE)
    begins, kept, searched = start, 0, start  # where the content begins in the file; what of it has been there before
    with Path(path).open("rb", buffering=0) as file, memoryview(content) as view:
        file.seek(start)
        while read := file.readinto(view[kept : kept + _SEARCHED_AT_ONCE]):
            size = kept + read
            for match in pattern.finditer(content, searched - begins, size):
                searched = begins + match.end()
                yield begins + match.start()
            kept = min(size, LONGEST_BEGIN - 1)
            view[:kept] = bytes(view[size - kept : size])
            begins += size - kept
            searched = max(searched, begins)


def _zst_frames(path: str) -> Iterator[int]:
    """Yield the offsets of frames without decompressing, because frames contain the sizes of their blocks."""
    library = zstd()
    with Path(path).open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        position = forgotten = 0
        while position < len(content):
            yield position
            with memoryview(content) as whole, whole[position:] as rest:
                try:
                    position += library.get_frame_size(rest)
                except library.ZstdError:
                    return  # damaged data belong to the previous frame
            if position - forgotten >= _SEARCHED_AT_ONCE:
                content.madvise(mmap.MADV_DONTNEED)
                forgotten = position
