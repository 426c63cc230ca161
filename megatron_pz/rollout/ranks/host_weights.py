"""Transfer weights to rollout ranks through host memory, which is shared within the node and sent to other nodes.

The trainer's rank 0 copies each tensor once, into buckets of anonymous shared memory, which the kernel frees with the
last process. A rollout rank on the same node maps the buckets; other ranks receive them over their connections. Both
keep the buckets until the next transfer, so that an engine that replaces a failed one gets the same weights.
"""

from __future__ import annotations

import mmap
import os
import socket
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

import torch

from megatron_pz.rollout.weight_sync import WeightStream
from megatron_pz.runtime.errors import BadInput

BUCKET_BYTES = 64 * 2**20
"""Bytes of a bucket; a larger tensor has one of its own. vLLM loads one bucket while the next is copied."""
_ALIGNMENT = 64
"""Bytes: a cache line, and a multiple of every dtype's size."""


@dataclass(frozen=True)
class Entry:
    """A tensor in a bucket."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    """Byte in the bucket."""

    @property
    def bytes(self) -> int:
        """Return the size of the tensor in bytes."""
        return torch.Size(self.shape).numel() * self.dtype.itemsize


@dataclass
class Bucket:
    """Consecutive tensors of a transfer."""

    number: int
    offset: int
    """Byte in the shared memory, a multiple of a page."""
    size: int
    entries: list[Entry] = field(default_factory=list)

    @property
    def used(self) -> int:
        """Return the number of bytes up to the end of the last tensor."""
        return self.entries[-1].start + self.entries[-1].bytes if self.entries else 0

    def place(self, name: str, tensor: torch.Tensor) -> Entry | None:
        """Append a tensor; return None if it does not fit."""
        start = -(-self.used // _ALIGNMENT) * _ALIGNMENT
        entry = Entry(name, tensor.dtype, tuple(tensor.shape), start)
        if start + entry.bytes > self.size:
            return None
        self.entries.append(entry)
        return entry


class _Memory:
    """One bucket's bytes in this process."""

    def __init__(self, memory: mmap.mmap) -> None:
        self.bytes = memory
        self.tensor = torch.frombuffer(memory, dtype=torch.uint8)

    def view(self, entry: Entry) -> torch.Tensor:
        flat = self.tensor[entry.start : entry.start + entry.bytes]
        return flat.view(entry.dtype).view(entry.shape)


class HostWeights:
    """The sender: shared memory of the trainer with the newest weights of one policy."""

    def __init__(self) -> None:
        self._file = os.memfd_create("megatron_pz weights", os.MFD_CLOEXEC)
        self._end = 0
        self._memory: list[_Memory] = []
        self.buckets: list[Bucket] = []
        """The buckets of the last :meth:`write`."""

    @property
    def path(self) -> str:
        """Return the path at which other processes of this node can open the memory while this process lives."""
        return f"/proc/{os.getpid()}/fd/{self._file}"

    def write(self, stream: WeightStream) -> Iterator[Bucket]:
        """Copy the tensors of a stream, and yield each bucket once it is complete.

        The memory of the last transfer is reused, so the rollout ranks must have loaded it.

        Raises:
            BadInput: the host's memory has no room for the weights.
        """
        self.buckets = []
        bucket: Bucket | None = None
        for name, tensor in stream:
            entry = bucket.place(name, tensor) if bucket else None
            if entry is None:
                if bucket:
                    yield bucket
                bucket = self._open(tensor.numel() * tensor.dtype.itemsize)
                entry = bucket.place(name, tensor)
                assert entry is not None
            self._memory[len(self.buckets) - 1].view(entry).copy_(tensor)
        if bucket:
            yield bucket

    def _open(self, least: int) -> Bucket:
        """Begin the next bucket; reuse its memory of the last transfer if that is large enough."""
        number = len(self.buckets)
        if number < len(self._memory) and len(self._memory[number].bytes) >= least:
            size = len(self._memory[number].bytes)
            offset = sum(len(memory.bytes) for memory in self._memory[:number])
        else:
            del self._memory[number:]
            offset = sum(len(memory.bytes) for memory in self._memory)
            size = -(-max(least, BUCKET_BYTES) // mmap.PAGESIZE) * mmap.PAGESIZE
            self._memory.append(self._allocate(offset, size))
        self.buckets.append(Bucket(number, offset, size))
        return self.buckets[-1]

    def _allocate(self, offset: int, size: int) -> _Memory:
        try:
            os.ftruncate(self._file, offset + size)
            return _Memory(mmap.mmap(self._file, size, offset=offset))
        except OSError as error:
            raise BadInput(
                f"--rollout-ranks: no host memory for the weights in transfer, {(offset + size) / 2**20:.0f} MiB so "
                f"far: {error.strerror}"
            ) from None

    def send(self, bucket: Bucket, connection: Connection, *, local: bool) -> None:
        """Announce a bucket to a rollout rank, and send the bytes if it is on another node."""
        connection.send(bucket)
        if not local:
            left = memoryview(self._memory[bucket.number].bytes)[: bucket.used]
            while left:
                left = left[os.write(connection.fileno(), left) :]

    def close(self) -> None:
        """Free the memory after the rollout ranks have ended."""
        self._memory.clear()
        os.close(self._file)


class Incoming(Protocol):
    """The receiving part of a connection."""

    def recv(self) -> Any: ...

    def recv_raw(self, target: memoryview) -> None: ...


class ReceivedWeights:
    """The receiver: the weights of one policy on a rollout rank, during a transfer and after it."""

    def __init__(self, connection: Incoming) -> None:
        self._connection = connection
        self._buckets: list[Bucket] = []
        self._memory: dict[tuple[int, int], _Memory] = {}
        """Mapped regions by offset and size. They stay mapped, since the first access is expensive."""
        self._path: str | None = None
        self._file: int | None = None
        self._arriving = False

    def expect(self, path: str | None) -> None:
        """Drop the last transfer, because the buckets of another one follow on the connection.

        Args:
            path: the shared memory of this node; None if the bytes come over the connection.
        """
        self._buckets, self._arriving = [], True
        if path == self._path:
            return
        self._memory.clear()
        if self._file is not None:
            os.close(self._file)
        self._path, self._file = path, None if path is None else os.open(path, os.O_RDWR)

    def stream(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield the tensors of the transfer as they arrive, and in later calls from memory."""
        for bucket in self._arrived() if self._arriving else self._buckets:
            memory = self._memory[bucket.offset, bucket.size]
            for entry in bucket.entries:
                yield entry.name, memory.view(entry)

    def _arrived(self) -> Iterable[Bucket]:
        # Read to the end even if the reader stops early, because other messages follow on the connection.
        try:
            while self._arriving:
                bucket = self._next()
                if bucket is not None:
                    yield bucket
        finally:
            while self._arriving:
                self._next()

    def _next(self) -> Bucket | None:
        bucket: Bucket | None = self._connection.recv()
        if bucket is None:
            self._arriving = False
            return None
        memory = self._memory.get((bucket.offset, bucket.size))
        if memory is None:
            file, offset = (-1, 0) if self._file is None else (self._file, bucket.offset)
            memory = _Memory(mmap.mmap(file, bucket.size, mmap.MAP_SHARED | mmap.MAP_POPULATE, offset=offset))
            self._memory[bucket.offset, bucket.size] = memory
        if self._file is None:
            self._connection.recv_raw(memoryview(memory.bytes)[: bucket.used])
        self._buckets.append(bucket)
        return bucket


def this_node() -> str:
    """Return a name that is shared by the processes that see each other under ``/proc``."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return f"{socket.gethostname()} {boot} {Path('/proc/self/ns/pid').readlink()}"
