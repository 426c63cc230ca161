"""Read whole bz2 streams with ``indexed_bzip2``, if it is installed, instead of Python's own module.

The library is used only for a stream of ordinary size with a valid beginning and end, and its result counts only if it
has read every bit of the stream and all checksums are right. In all other cases, Python's module reads the stream again
and reports its faults. Neither the content nor the reported damage therefore depends on the installed libraries. Every
stream is returned as one block, so only jobs that begin and end at streams are read this way.

Version 1.7.0 aborts the process on one kind of damage, a run of about 4e9 equal bytes that overflows its counter. This
is extremely unlikely by accident. If it happens, the same command continues without the library and names the place.
"""

from __future__ import annotations

import mmap
import os
from types import TracebackType
from typing import BinaryIO

try:
    import indexed_bzip2
except ImportError:
    indexed_bzip2 = None

LARGEST_CONTENT = 16 << 20
"""Bytes that a stream may hold, decompressed. Those of official dumps hold a hundred pages, a few MB."""
_LARGEST_STREAM = 4 << 20
_READ = 1 << 18

_BEGIN = b"BZh9"
"""Blocks of 900,000 bytes. Only Python's module checks that those of the lower levels keep to their smaller size."""
_BLOCK = b"1AY&SY"
_END = 0x177245385090
"""Magic number in the place of :data:`_BLOCK` at a stream's end, before 32 bits of checksum and less than 8 bits of
padding."""
_END_BYTES = 11


def decoder_name() -> str:
    """Return name and version of the decompressor of undamaged bz2 streams."""
    return f"indexed_bzip2 {indexed_bzip2.__version__}" if indexed_bzip2 else "Python's bz2"


class WholeStreams:
    """Reads the streams of one file, without threads. It holds one stream and its content, so its memory is bounded.

    Args:
        file: The file, in which this class seeks.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        # The library leaks Python file objects that it reads from, but not in-memory files.
        self._stream = os.memfd_create("bz2 stream") if indexed_bzip2 else -1
        self._content = mmap.mmap(-1, LARGEST_CONTENT + 1)

    def __enter__(self) -> WholeStreams:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._content.close()
        if self._stream >= 0:
            os.close(self._stream)

    def read(self, position: int) -> tuple[bytes, int] | None:
        """Return (content of the stream at ``position``, start of the next); None if Python's module must read it."""
        stream = self._compressed(position) if self._stream >= 0 else None
        if stream is None:
            return None
        os.pwrite(self._stream, stream, 0)
        os.ftruncate(self._stream, len(stream))
        os.lseek(self._stream, 0, os.SEEK_SET)
        try:
            with indexed_bzip2.IndexedBzip2File(self._stream, parallelization=1) as decoder:
                size = decoder.raw.readinto(self._content)
                if size > LARGEST_CONTENT or decoder.tell_compressed() != 8 * len(stream):
                    return None
        except Exception:  # its C++ raises various exceptions, and Python's module decides in any case
            return None
        return self._content[:size], position + len(stream)

    def _compressed(self, position: int) -> bytes | None:
        """Return the stream at ``position`` up to the next one or the file's end, if its end is valid."""
        self._file.seek(position)
        stream = bytearray()
        searched = len(_BEGIN) + 1  # after the beginning of the first block
        while more := self._file.read(_READ):
            stream += more
            if (found := _next_stream(stream, searched)) >= 0:
                del stream[found:]
                break
            searched = max(len(stream) - len(_BLOCK) + 1, searched)
            if searched > _LARGEST_STREAM:
                return None
        return bytes(stream) if stream.startswith(_BEGIN + _BLOCK) and _ends_stream(stream) else None


def _next_stream(data: bytearray, start: int) -> int:
    """Return the index from ``start`` on at which a stream begins, or -1."""
    while (start := data.find(_BLOCK, start)) >= 0:
        head = data[start - len(_BEGIN) : start]
        if head[:3] == _BEGIN[:3] and b"1" <= head[3:] <= b"9":
            return start - len(_BEGIN)
        start += 1
    return -1


def _ends_stream(data: bytearray) -> bool:
    """Return whether a stream ends with the last byte."""
    last = int.from_bytes(data[-_END_BYTES:], "big")
    return any(last >> 32 + padding & 0xFFFFFFFFFFFF == _END for padding in range(8))
