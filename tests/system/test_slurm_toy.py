"""The cluster's script and the toy recipe on this machine: one node, two processes, the real trainer and vLLM."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from megatron_pz.monitoring.launches import read_launches
from megatron_pz.reports.scaling import read_point
from tests.support.fastest import fastest_dtype
from tests.support.tiny_run import make_corpus, metrics_of
from tests.support.torchrun import ROOT, shell_environment


def launch(*flags: str, **variables: str) -> str:
    """Run the script, which must succeed, and return its output."""
    script = subprocess.Popen(
        ["bash", "slurm/pz_qwen3_4b.sh", *flags],
        cwd=ROOT,
        env=shell_environment() | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        output, _ = script.communicate(timeout=280)
    finally:
        if script.poll() is None:  # killing it would leave torchrun and its workers running
            script.terminate()
            script.wait(timeout=60)
    assert script.returncode == 0, output[-6000:]
    return output


@pytest.mark.timeout(680)
def test_the_toy_recipe_runs_on_two_processes_and_goes_on_where_it_ended(tmp_path: Path, tiny_llama_dir: Path) -> None:
    run = tmp_path / "run"
    variables = {
        "CONFIG": "examples/toy/config.yaml",
        "MODEL": str(tiny_llama_dir),
        "DATA_PATH": make_corpus(tmp_path, tiny_llama_dir),
        "SAVE": str(run),
        "NPROC_PER_NODE": "2",
        "PYTHON": sys.executable,
    }
    dtype = fastest_dtype()
    assert f"precision: trainer {dtype}, rollouts {dtype} (measured: " in launch("--train-iters", "1", **variables)
    assert [step["iteration"] for step in metrics_of(run)] == [1]

    resumed = launch("--train-iters", "2", **variables)
    assert "Continuing from iteration 1" in resumed
    assert f"precision: trainer {dtype}, rollouts {dtype} (that of the checkpoint in {run})" in resumed
    steps = metrics_of(run)
    assert [step["iteration"] for step in steps] == [1, 2]
    assert [step["train/consumed_passages"] for step in steps] == [2, 4]
    assert (run / "iter_0000002").is_dir()
    assert [(launch.iteration, launch.processes) for launch in read_launches(run)] == [(0, 2), (1, 2)]
    speed = read_point(run, warm_up=0)
    assert (speed.processes, speed.nodes, speed.steps) == (2, 1, 2)
    assert speed.sampled > 0 and sum(speed.parts) <= speed.seconds
