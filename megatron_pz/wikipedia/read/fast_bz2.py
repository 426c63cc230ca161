"""Read whole bz2 streams with ``indexed_bzip2``, if it is installed, instead of Python's own module.

The library decompresses several streams at a time, because it initializes 10 MB of memory whenever a file is opened. It
is used only for streams of ordinary size with a valid beginning and end, and its result counts only if it has read
every bit of them and all checksums are right. In all other cases, Python's module reads these streams again and reports
their faults. Neither the content nor the reported damage therefore depends on the installed libraries. Every stream is
returned as one block, so only jobs that begin and end at streams are read this way.

Version 1.7.0 aborts the process on one kind of damage, a run of about 4e9 equal bytes that overflows its counter. This
is extremely unlikely by accident. If it happens, the same command continues without the library and names the place.
"""

from __future__ import annotations

import itertools
import mmap
import os
from itertools import pairwise
from types import TracebackType
from typing import BinaryIO

from megatron_pz.wikipedia.read.compression import BZ2_STREAM, EMPTY_BZ2_BYTES, EMPTY_BZ2_STREAM, LONGEST_BEGIN

try:
    import indexed_bzip2
except ImportError:
    indexed_bzip2 = None

LARGEST_CONTENT = 32 << 20
"""Decompressed bytes of the streams that are read together."""
_LARGEST_STREAM = 4 << 20
"""Compressed bytes of a stream. Those of official dumps hold a hundred pages in some 100 kB."""
_READ_TOGETHER = 1 << 20
"""Compressed bytes of the streams that are read together; the last of them may exceed it."""
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
    """Reads the streams of one file in order, several at a time and without threads.

    It holds these streams and their content, so its memory is bounded.

    Args:
        file: The file, in which this class seeks.
        end: No stream that begins at this byte or later is read before it is asked for.
    """

    def __init__(self, file: BinaryIO, end: int) -> None:
        self._file, self._end = file, end
        # The library leaks Python file objects that it reads from, but not in-memory files.
        self._streams = os.memfd_create("bz2 streams") if indexed_bzip2 else -1
        self._content = mmap.mmap(-1, LARGEST_CONTENT + 1)
        self._ready: dict[int, tuple[int, int, int]] = {}
        """By the start of a stream: begin and end of its content, and start of the next stream."""
        self._tried_to = 0

    def __enter__(self) -> WholeStreams:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._content.close()
        if self._streams >= 0:
            os.close(self._streams)

    def read(self, position: int) -> tuple[bytes, int] | None:
        """Return (content of the stream at ``position``, start of the next); None if Python's module must read it."""
        if position >= self._tried_to and self._streams >= 0:
            self._decompress(position)
        if position not in self._ready:
            return None
        begin, end, following = self._ready[position]
        return self._content[begin:end], following

    def _decompress(self, position: int) -> None:
        """Decompress some streams from ``position`` on, either all of them or none."""
        data, bounds = self._compressed(position)
        self._ready = {}
        self._tried_to = position + bounds[-1]
        if len(bounds) < 2:
            return
        os.pwrite(self._streams, data, 0)
        os.ftruncate(self._streams, len(data))
        os.lseek(self._streams, 0, os.SEEK_SET)
        try:
            with indexed_bzip2.IndexedBzip2File(self._streams, parallelization=1) as decoder:
                size = decoder.raw.readinto(self._content)
                if size > LARGEST_CONTENT or decoder.tell_compressed() != 8 * len(data):
                    return
                blocks = decoder.available_block_offsets()  # offsets in the content by those in the stream, in bits
            begins = [blocks[8 * (bound + len(_BEGIN))] for bound in bounds[:-1]]
        except Exception:  # its C++ raises various exceptions, and Python's module decides in any case
            return
        contents = pairwise([*begins, size])
        for (start, following), (begin, end) in zip(pairwise(bounds), contents, strict=True):
            self._ready[position + start] = begin, end, position + following

    def _compressed(self, position: int) -> tuple[bytes, list[int]]:
        """Return the streams from ``position`` on whose begin and end are valid, and their bounds in the result."""
        self._file.seek(position)
        data, bounds = bytearray(), [0]
        enough = max(min(_READ_TOGETHER, self._end - position), 1)
        searched = 1  # behind the beginning of the first stream
        while bounds[-1] < enough and searched - bounds[-1] <= _LARGEST_STREAM:
            more = self._file.read(_READ)
            if not more:
                bounds.append(len(data))
                break
            data += more
            while bounds[-1] < enough and (found := BZ2_STREAM.search(data, searched)):
                bounds.append(found.start())
                searched = found.end()
            searched = max(len(data) - LONGEST_BEGIN + 1, searched)
        valid = itertools.takewhile(lambda bound: _is_stream(data[slice(*bound)]), pairwise(bounds))
        bounds = [0, *(end for _, end in valid)]
        return bytes(data[: bounds[-1]]), bounds


def _is_stream(data: bytearray) -> bool:
    """Return whether the data begin and end as a stream, which empty streams may follow."""
    while EMPTY_BZ2_STREAM.match(data, len(data) - EMPTY_BZ2_BYTES):
        del data[-EMPTY_BZ2_BYTES:]
    last = int.from_bytes(data[-_END_BYTES:], "big")
    ends = any(last >> 32 + padding & 0xFFFFFFFFFFFF == _END for padding in range(8))
    return ends and data.startswith(_BEGIN + _BLOCK)
