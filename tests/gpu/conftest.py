"""Provide the common parts of the GPU tests, which are skipped with the reason if there is no CUDA device.

``tests/gpu/run.sh`` sets the variables: PZ_GPU_RESULTS, the folder for the measurements, and PZ_GPU_MODEL, a real small
model (a Hugging Face directory, Qwen3 or Llama); without it the model of the quickstart is used, if it exists.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.gpu.random_model import QWEN3_06B, write_random_model
from benchmarks.gpu.results import Figure, Goal, Skipped, environment, write_part
from megatron_pz.config.schema import ModelConfig, ParallelConfig, RolloutConfig, RunConfig
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
    """Record skipped and failed tests in the result."""
    if report.passed or "tests/gpu/" not in report.nodeid.replace(os.sep, "/"):
        return
    if report.skipped:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    else:
        crash = getattr(report.longrepr, "reprcrash", None)
        reason = str(crash.message if crash else report.longrepr).strip().partition("\n")[0]
    part, name = _part(report.nodeid), report.nodeid.rpartition("::")[2]
    _skipped.append(Skipped(part, name, reason.removeprefix("Skipped: "), failed=report.failed))
    _write(part)


def _write(part: str) -> None:
    """Write the results so far, because a part may be stopped or crash its process before the end."""
    folder = os.environ.get("PZ_GPU_RESULTS")
    if not folder or not torch.cuda.is_available():
        return
    figures = [figure for figure in _figures if figure.part == part]
    path = Path(folder) / f"{part}_{os.getpid()}.json"  # a part may be several processes
    write_part(path, _place(), figures, [entry for entry in _skipped if entry.part == part])


@cache
def _place() -> dict[str, Any]:
    return environment(torch.device("cuda"))


def _part(nodeid: str) -> str:
    return nodeid.partition("::")[0].rpartition("/")[2].removeprefix("test_").removesuffix(".py")


@pytest.fixture
def record(request: pytest.FixtureRequest) -> Record:
    """Record a figure under the part of the test, and print it."""
    part = _part(request.node.nodeid)

    def keep(name: str, value: float, unit: str = "", goal: Goal | None = None) -> None:
        figure = Figure(part, name, float(value), unit, goal)
        _figures.append(figure)
        _write(part)
        print(f"{part}: {name} = {figure.value:.6g} {unit} {figure.verdict}")

    return keep


@pytest.fixture(scope="session")
def topology() -> Iterator[Topology]:
    """Start a run of one rank on the GPU."""
    alone = Topology.start(ParallelConfig(), seed=1)
    yield alone
    alone.close()


@pytest.fixture(autouse=True)
def _memory_is_given_back() -> Iterator[None]:
    yield
    forget_failure()
    gc.collect()
    torch.cuda.empty_cache()


def forget_failure() -> None:
    """Drop the frames of a failed test, which hold a model, so that the next test has enough memory."""
    for name in ("last_exc", "last_value", "last_traceback", "last_type"):
        vars(sys).pop(name, None)


@pytest.fixture(scope="session")
def model_dir() -> Path:
    """Return a real small model."""
    folder = real_model()
    if folder is None:
        pytest.skip("no real model: give one with run.sh --model DIR, or run examples/quickstart.sh first")
    return folder


@pytest.fixture(scope="session")
def weights_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a real small model, or a random one, for tests that need no tokenizer."""
    return real_model() or random_model(tmp_path_factory.mktemp("random") / "model", torch.device("cuda"))


def real_model() -> Path | None:
    """Return the directory of the real model, if there is one."""
    folder = Path(os.environ.get("PZ_GPU_MODEL") or KEPT_MODEL)
    return folder if (folder / "config.json").is_file() else None


def random_model(folder: Path, device: torch.device) -> Path:
    """Return a random model, on which two computations must also agree; the result records that it was random."""
    _skipped.append(Skipped("model", "a real model", "none was given: random weights of Qwen3-0.6B's shape instead"))
    return write_random_model(folder, QWEN3_06B, device)


def run_config(
    folder: Path,
    model: ModelConfig | None = None,
    rollout: RolloutConfig | None = None,
    *,
    distributed_optimizer: bool = False,
) -> RunConfig:
    """Return a configuration of one rank with the model of ``folder``."""
    from dataclasses import replace

    return RunConfig(
        model=replace(model or ModelConfig(), hf_model=str(folder)),
        rollout=rollout or RolloutConfig(),
        parallel=ParallelConfig(use_distributed_optimizer=distributed_optimizer),
    )
