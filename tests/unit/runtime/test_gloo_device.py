"""The process groups of a process share one gloo device, whose thread wakes a hundred times a second."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

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


@pytest.mark.usefixtures("default_group")
def test_groups_share_the_device() -> None:
    groups = [dist.new_group([0]) for _ in range(3)]
    devices = []
    for group in groups:
        ones = torch.ones(3)
        dist.all_reduce(ones, group=group)
        assert ones.tolist() == [1, 1, 1]
        backend: Any = group._get_backend(torch.device("cpu"))
        devices += backend.options._devices
    assert len(devices) == 3 and all(device is devices[0] for device in devices)
