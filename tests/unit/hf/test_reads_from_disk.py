"""The ranks of a node together read the weights from its disk once: the kernel counts the bytes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

RANKS = 2
READER = """
import sys
from megatron_pz.hf.checkpoint import HFTensorSource

def from_disk():
    with open("/proc/self/io") as counters:
        return next(int(line.split()[1]) for line in counters if line.startswith("read_bytes"))

source, (rank, ranks) = HFTensorSource(sys.argv[1]), map(int, sys.argv[2:])
print("ready", flush=True)
sys.stdin.readline()
before, total = from_disk(), 0.0
for name in source.names():
    width = source.shape(name)[1] // ranks
    total += float(source.slices(name)[:, rank * width : (rank + 1) * width].sum())
print(from_disk() - before, total, flush=True)
"""


def forget(file: Path) -> None:
    """Drop a file from the page cache."""
    descriptor = os.open(file, os.O_RDONLY)
    os.fsync(descriptor)  # pages that are not on the disk yet stay
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)


def read_by(folder: Path, slices: list[tuple[int, int]]) -> list[tuple[int, float]]:
    """Read at the same time, in a process for each slice (number, of so many): bytes from the disk, sum of values."""
    readers = []
    for number, of in slices:
        command = [sys.executable, "-c", READER, str(folder), str(number), str(of)]
        readers.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
    for reader in readers:
        assert reader.stdout is not None and reader.stdout.readline() == "ready\n"
    answers = []
    for reader in readers:
        assert reader.stdin is not None
        reader.stdin.write("go\n")
        reader.stdin.flush()
    for reader in readers:
        output, _ = reader.communicate(timeout=60)
        count, total = output.split()
        answers.append((int(count), float(total)))
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
