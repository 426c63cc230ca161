"""Provide the process groups of a run of one rank, and a folder with checkpoints, for unit tests."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:  # Megatron-Core takes seconds to import, so it is imported only on request
    from megatron_pz.trainer.topology import Topology


@pytest.fixture(scope="module")
def topology() -> Iterator[Topology]:
    """Start a run of one rank in pytest's own process for the tests of a module."""
    from megatron_pz.config.schema import ParallelConfig
    from megatron_pz.trainer.topology import Topology

    alone = Topology.start(ParallelConfig(), seed=1)
    yield alone
    alone.close()


@pytest.fixture(scope="module")
def saved(topology: Topology, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a read-only directory with the checkpoints of a ``Trainee`` after one step and after two."""
    from tests.support.trainee import Trainee

    folder = tmp_path_factory.mktemp("saved")
    trainee = Trainee()
    for iteration in (1, 2):
        trainee.step()
        trainee.save(folder, iteration)
    return folder


@pytest.fixture
def saved_copy(saved: Path, tmp_path: Path) -> Path:
    """Return a copy of :func:`saved` that a test may change."""
    return Path(shutil.copytree(saved, tmp_path / "copy"))
