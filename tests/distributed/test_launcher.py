"""slurm/launch.sh with the real torchrun: how a signal reaches the workers, and what torchrun makes of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
WORKER = Path(__file__).parent / "workers/signalled_worker.py"

# The interpreter, but for the module that torchrun starts: a worker that only waits for a signal.
PYTHON = f"""#!/usr/bin/env bash
words=()
for word; do
  if [[ $word == megatron_pz.train ]]; then unset "words[-1]" && words+=({WORKER}); else words+=("$word"); fi
done
if [[ $* == *megatron_pz.config.parse* ]]; then exit; fi
exec {sys.executable} "${{words[@]}}"
"""


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_all_workers_in_order_and_torchrun_without_an_error(
    tmp_path: Path, number: signal.Signals
) -> None:
    python = tmp_path / "python"
    python.write_text(PYTHON)
    python.chmod(0o755)
    (tmp_path / "activate").touch()
    launcher = subprocess.Popen(
        ["bash", ROOT / "slurm/pz_qwen3_4b.sh"],
        env={
            **{name: value for name, value in os.environ.items() if not name.startswith("SLURM")},
            "PYTHON": str(python),
            "ACTIVATE": str(tmp_path / "activate"),
            "PYTHONPATH": str(ROOT),
            "NPROC_PER_NODE": "2",
            "SAVE": str(tmp_path / "run"),
            "SIGNALLED_FOLDER": str(tmp_path),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    deadline = time.monotonic() + 90
    while len(list(tmp_path.glob("ready_*"))) < 2:
        assert launcher.poll() is None, launcher.communicate()[0]
        if time.monotonic() > deadline:
            launcher.terminate()
            pytest.fail(f"the workers did not start: {launcher.communicate(timeout=60)[0]}")
        time.sleep(0.05)

    launcher.send_signal(number)  # to the script alone, as Slurm and a plain kill do
    output, _ = launcher.communicate(timeout=60)
    assert launcher.returncode == 0, output
    assert [(tmp_path / f"stopped_{rank}").read_text() for rank in range(2)] == [number.name, number.name]
    assert "Traceback" not in output, output
