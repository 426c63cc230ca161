"""Provide a process group of one rank in pytest's own process, a taught tiny model, and a Slurm with the toy recipe."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch.distributed as dist

from tests.support.slurm_cluster import SlurmCluster
from tests.support.slurm_toy import Toy
from tests.support.tiny_run import TaughtRun


@pytest.fixture(scope="module")
def one_rank_process_group() -> Iterator[None]:
    """Start torch.distributed's default group on gloo, without a port; engines must be closed before its end."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.fixture(scope="session")
def taught_run(tmp_path_factory: pytest.TempPathFactory, tiny_llama_dir: Path, tiny_tokenizer_dir: Path) -> TaughtRun:
    return TaughtRun.teach(tmp_path_factory.mktemp("taught"), tiny_llama_dir, tiny_tokenizer_dir)


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    with SlurmCluster(tmp_path_factory.mktemp("slurm")) as cluster:
        yield cluster


@pytest.fixture
def toy(slurm: SlurmCluster, tmp_path: Path, tiny_llama_dir: Path, tiny_corpus: str) -> Iterator[Toy]:
    yield Toy(slurm, tmp_path, tiny_llama_dir, tiny_corpus)
    slurm.cancel_all()  # the job of a failed test would keep the nodes from all others
