"""``ft_launcher`` restarts killed ranks within the job; the result is that of an undisturbed run.

This needs nvidia-resiliency-ext (tested with 0.4.1), which no lock file has.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.support.tiny_run import metrics_of
from tests.support.torchrun import ROOT

WORKER = Path(__file__).parent / "workers" / "dying_baseline.py"
TORCHRUN = "torch.distributed.run"
FT_LAUNCHER = "nvidia_resiliency_ext.fault_tolerance.launcher"
OWN_FLAGS = {
    TORCHRUN: [],
    # A check interval shorter than the run, and a section that the watchdog's phases open.
    FT_LAUNCHER: [
        *("--ft-workload-check-interval", "0.5", "--ft-enable-nic-monitor", "False"),
        *("--ft-rank-section-timeouts", "setup:300,step:300,writing_a_checkpoint:300"),
        *("--ft-rank-out-of-section-timeout", "300"),
    ],
}


def launch(launcher: str, dies_at: int, *flags: str) -> str:
    """Run two ranks, which may be restarted twice, to success, and return the output."""
    command = [sys.executable, "-m", launcher, "--nnodes=1", "--nproc-per-node=2", "--max-restarts=2"]
    command += ["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0", "--local-addr=127.0.0.1", *OWN_FLAGS[launcher]]
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "GLOO_SOCKET_IFNAME": "lo"}
    started = subprocess.Popen(
        [*command, str(WORKER), str(dies_at), *flags],
        cwd=ROOT, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        output, _ = started.communicate(timeout=280)
    except BaseException:
        os.killpg(started.pid, signal.SIGTERM)
        started.wait(60)
        raise
    assert started.returncode == 0, output
    return output


@pytest.mark.skipif(
    importlib.util.find_spec("nvidia_resiliency_ext") is None, reason="nvidia-resiliency-ext is not installed"
)
def test_a_killed_rank_costs_the_steps_since_the_checkpoint_and_nothing_else(
    tiny_corpus: str, tiny_llama_dir: Path, tmp_path: Path
) -> None:
    flags = ["--objective", "continue_pt", "--hf-model", str(tiny_llama_dir), "--data-path", tiny_corpus]
    flags += ["--no-bf16", "--passages-per-step", "4", "--micro-batch-tokens", "200", "--lr", "1e-3"]
    flags += ["--train-iters", "5", "--save-interval", "2"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    launch(TORCHRUN, 0, *flags, "--save", str(whole))
    output = launch(FT_LAUNCHER, 4, *flags, "--save", str(killed))
    assert "SIGKILL" in output or "Signal 9" in output or "exitcode: -9" in output, output
    assert "the rank monitor does not answer" not in output
    assert [line["iteration"] for line in metrics_of(killed)] == [1, 2, 3, 4, 5]
    assert metrics_of(killed) == metrics_of(whole)
    expected, found = (load_file(run / "hf" / "model.safetensors") for run in (whole, killed))
    assert expected.keys() == found.keys() and all(torch.equal(expected[name], found[name]) for name in expected)
