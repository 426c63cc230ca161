"""The process groups of a process share one gloo device, whose thread wakes a hundred times a second."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from megatron_pz.runtime import cpu_backend

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="the CPU backend does nothing where there is CUDA")


@pytest.fixture
def default_group() -> Iterator[None]:
    cpu_backend.install()
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def device_threads() -> int:
    """Count the threads of gloo's devices in this process."""
    return sum((each / "comm").read_text() == "gloo_tcp_loop\n" for each in Path("/proc/self/task").iterdir())


@pytest.mark.usefixtures("default_group")
def test_more_groups_start_no_more_devices() -> None:
    before = device_threads()
    groups = [dist.new_group([0]) for _ in range(5)]
    for group in groups:
        ones = torch.ones(3)
        dist.all_reduce(ones, group=group)
        assert ones.tolist() == [1, 1, 1]
    assert device_threads() == before == 1
