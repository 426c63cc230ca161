"""A process group of one rank in pytest's own process, for engines that join one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch.distributed as dist


@pytest.fixture(scope="module")
def one_rank_process_group() -> Iterator[None]:
    """torch.distributed's default group on gloo, without a port; engines must be closed before it goes."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()
