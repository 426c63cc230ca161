"""A checkpoint that one version of Megatron-Core wrote is loaded by every other one, and training goes on bit for bit.

The versions are those of ``tests/core_versions.py``, unpacked under the folder that PZ_CORE_VERSIONS names
(``./tests/run.sh versions`` sets it). Those from 0.18 on need triton, which the environment for Python 3.11 has not.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.core_versions import PROMISED
from tests.support.torchrun import ROOT, run_workers

VERSIONS = Path(os.environ.get("PZ_CORE_VERSIONS", ""))
WORKER = Path(__file__).parent / "workers" / "checkpoint_worker.py"
EXACT = ("weights", "masters", "exp_avg", "exp_avg_sq", "step", "torch", "python")

pytestmark = [
    pytest.mark.skipif(
        "PZ_CORE_VERSIONS" not in os.environ, reason="PZ_CORE_VERSIONS is not set: ./tests/run.sh versions"
    ),
    pytest.mark.skipif(sys.version_info < (3, 12), reason="megatron-core 0.17 and later need Python 3.12"),
]


def run(task: str, version: str, folder: Path, *flags: object) -> list[dict[str, Any]]:
    """Run the worker on two data parallel ranks with this version of Megatron-Core; return its reports."""
    paths = os.pathsep.join((str(VERSIONS / version), str(ROOT)))
    output = run_workers(WORKER, 2, task, folder, *flags, env={"PYTHONPATH": paths})
    return [json.loads(line.removeprefix("REPORT ")) for line in output.splitlines() if line.startswith("REPORT ")]


@pytest.fixture(scope="module", params=PROMISED)
def written(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path, list[dict[str, Any]]]:
    """Run four steps under one version with a checkpoint after two; return the version, the folder, the reports."""
    folder = tmp_path_factory.mktemp(f"written_by_{request.param}")
    return request.param, folder, run("straight", request.param, folder)


@pytest.mark.parametrize("reader", PROMISED)
def test_another_version_goes_on_bit_for_bit(reader: str, written: tuple[str, Path, list[dict[str, Any]]]) -> None:
    _, folder, straight = written
    resumed = run("resume", reader, folder, "--seed", 8)
    assert len(resumed) == len(straight) == 8
    for whole, half in zip(straight, resumed, strict=True):
        assert half["iteration"] == 2
        assert half["common"] == {"cursor": 24, "reward": 0.1}
        assert half["losses"] == whole["losses"][2:]
        for kind in EXACT:
            assert half[kind] == whole[kind], f"{kind} differs: {whole['variant']}, rank {whole['rank']}"
