"""What the GPU tests share. They are skipped, with the reason, where there is no CUDA device.

``tests/gpu/run.sh`` sets the variables: PZ_GPU_RESULTS, the folder for what is measured, and PZ_GPU_MODEL, a real small
model (a Hugging Face directory, Qwen3 or Llama); without it the one that the quickstart keeps is taken, if it is there.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from benchmarks.gpu.results import Figure, Goal, Skipped, environment, write_part
from megatron_pz.config import ModelConfig, ParallelConfig, RolloutConfig, RunConfig
from megatron_pz.trainer.topology import Topology

ROOT = Path(__file__).resolve().parents[2]
NO_GPU = "no CUDA device: Transformer Engine, FP8, vLLM on CUDA and all speed on GPUs are unchecked"
KEPT_MODEL = ROOT / ".cache" / "quickstart" / "assets" / "model"

Record = Callable[..., None]
"""record(name, value, unit="", goal=None) keeps a figure for the result."""

_figures: list[Figure] = []
_skipped: list[Skipped] = []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.skip(reason=NO_GPU))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """What was skipped stands in the result, too."""
    if report.skipped and "tests/gpu/" in report.nodeid.replace(os.sep, "/"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        _skipped.append(
            Skipped(_part(report.nodeid), report.nodeid.rpartition("::")[2], reason.removeprefix("Skipped: "))
        )


def pytest_sessionfinish() -> None:
    folder = os.environ.get("PZ_GPU_RESULTS")
    if not folder or not torch.cuda.is_available():
        return
    place = environment(torch.device("cuda"))
    for part in {entry.part for entry in [*_figures, *_skipped]}:
        figures = [figure for figure in _figures if figure.part == part]
        write_part(Path(folder) / f"{part}.json", place, figures, [entry for entry in _skipped if entry.part == part])


def _part(nodeid: str) -> str:
    return nodeid.partition("::")[0].rpartition("/")[2].removeprefix("test_").removesuffix(".py")


@pytest.fixture
def record(request: pytest.FixtureRequest) -> Record:
    """Keep a figure under the part that the test belongs to, and print it."""
    part = _part(request.node.nodeid)

    def keep(name: str, value: float, unit: str = "", goal: Goal | None = None) -> None:
        figure = Figure(part, name, float(value), unit, goal)
        _figures.append(figure)
        print(f"{part}: {name} = {figure.value:.6g} {unit} {figure.verdict}")

    return keep


@pytest.fixture(scope="session")
def topology() -> Iterator[Topology]:
    """One rank on the card."""
    alone = Topology.start(ParallelConfig(), seed=1)
    yield alone
    alone.close()


@pytest.fixture(autouse=True)
def _memory_is_given_back() -> Iterator[None]:
    yield
    gc.collect()
    torch.cuda.empty_cache()


@pytest.fixture(scope="session")
def model_dir() -> Path:
    """A real small model."""
    folder = Path(os.environ.get("PZ_GPU_MODEL") or KEPT_MODEL)
    if not (folder / "config.json").is_file():
        pytest.skip(f"no model in {folder}: give one with run.sh --model DIR, or run examples/quickstart.sh first")
    return folder


def run_config(
    folder: Path,
    model: ModelConfig | None = None,
    rollout: RolloutConfig | None = None,
    *,
    distributed_optimizer: bool = False,
) -> RunConfig:
    """A configuration of one rank with the model of ``folder``."""
    from dataclasses import replace

    return RunConfig(
        model=replace(model or ModelConfig(), hf_model=str(folder)),
        rollout=rollout or RolloutConfig(),
        parallel=ParallelConfig(use_distributed_optimizer=distributed_optimizer),
    )
