"""The ranks of a node together read the weights from its disk once, as counted by the kernel."""

from __future__ import annotations

import os
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from megatron_pz.hf.checkpoint import HFTensorSource

RANKS = 2


def forget(file: Path) -> None:
    """Drop a file from the page cache."""
    descriptor = os.open(file, os.O_RDONLY)
    os.fsync(descriptor)  # pages that are not yet on the disk stay
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)


def from_disk() -> int:
    """Return the bytes that the disk has read for this process, as counted by the kernel."""
    counters = Path("/proc/self/io").read_text()
    return next(int(line.split()[1]) for line in counters.splitlines() if line.startswith("read_bytes"))


def read(folder: Path, rank: int, ranks: int, caller: Connection) -> None:
    """Read a rank's columns of all tensors on a signal of the caller; send the bytes read and the sum of the values."""
    source = HFTensorSource(folder)
    caller.send("ready")
    caller.recv()
    before, total = from_disk(), 0.0
    for name in source.names():
        width = source.shape(name)[1] // ranks
        total += float(source.slices(name)[:, rank * width : (rank + 1) * width].sum())
    caller.send((from_disk() - before, total))


def read_by(folder: Path, slices: list[tuple[int, int]]) -> list[tuple[int, float]]:
    """Read concurrently in a process per slice (number, count); return bytes from the disk and sums of values."""
    context = get_context("fork")  # avoids importing torch again
    readers, processes = [], []
    for number, of in slices:
        ours, theirs = context.Pipe()
        processes.append(context.Process(target=read, args=(folder, number, of, theirs), daemon=True))
        processes[-1].start()
        theirs.close()
        readers.append(ours)
    for reader in readers:
        assert reader.recv() == "ready"
    for reader in readers:
        reader.send("go")
    answers = [reader.recv() for reader in readers]
    for process in processes:
        process.join()
    return answers


@pytest.mark.parametrize("of", [1, RANKS], ids=["data parallel", "tensor parallel"])
def test_the_ranks_of_a_node_read_each_byte_once(of: int, tmp_path: Path) -> None:
    """Replicas read the same tensors, shards the columns of the same rows, which share pages."""
    generator = torch.Generator().manual_seed(0)
    weights = {f"layer.{n}.weight": torch.rand(1024, 1024, generator=generator) for n in range(8)}
    file = tmp_path / "model.safetensors"
    save_file(weights, file)
    size = file.stat().st_size
    forget(file)
    ((alone, _),) = read_by(tmp_path, [(0, 1)])
    if alone < size // 2:
        pytest.skip(f"the file system of {tmp_path} keeps files in memory or does not count reads")
    forget(file)
    answers = read_by(tmp_path, [(rank % of, of) for rank in range(RANKS)])
    expected = float(sum(weight.sum(dtype=torch.float64) for weight in weights.values()))
    assert sum(total for _, total in answers) == pytest.approx(expected * RANKS / of, rel=1e-4)
    assert 0.5 * size < sum(count for count, _ in answers) < 1.25 * size
