"""A run under torchrun that is asked to stop: all ranks write one checkpoint, then leave."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.torchrun import ROOT

WORKER = Path(__file__).parent / "workers" / "checkpoint_worker.py"


class Launched:
    """A torchrun in the background, and its workers' reports as they arrive."""

    def __init__(self, task: str, nproc: int, folder: Path) -> None:
        command = [sys.executable, "-m", "torch.distributed.run", "--nnodes=1", f"--nproc-per-node={nproc}"]
        command += ["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0", "--local-addr=127.0.0.1"]
        self.process = subprocess.Popen(
            [*command, str(WORKER), task, str(folder), "--only", "bf16"],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.text = ""

    def reports(self) -> Iterator[dict]:
        """Yield each report when it is printed, until the workers have ended."""
        for line in self.process.stdout:
            self.text += line
            if "REPORT " in line:
                yield json.loads(line[line.index("REPORT ") + len("REPORT ") :])


@contextmanager
def launched(task: str, nproc: int, folder: Path) -> Iterator[Launched]:
    run = Launched(task, nproc, folder)
    try:
        yield run
    finally:
        if run.process.poll() is None:
            run.process.terminate()
        run.process.wait(60)
        run.process.stdout.close()


def test_ctrl_c_on_torchrun_is_a_checkpoint_on_all_ranks(tmp_path: Path) -> None:
    with launched("until_stopped", 2, tmp_path) as run:
        reports = run.reports()
        next(report for report in reports if report.get("iteration") == 2)
        run.process.send_signal(signal.SIGINT)
        ends = [report for report in reports if "stopped" in report]
        code = run.process.wait(60)
    assert sorted(end["rank"] for end in ends) == [0, 1]
    (stopped,) = {end["stopped"] for end in ends}
    assert {end["caught"] for end in ends} == {"SIGINT"}
    assert run.text.count("SIGINT: finishing this step, then saving a checkpoint") == 1, "rank 0 alone says it"
    assert (tmp_path / "bf16" / "latest_checkpointed_iteration.txt").read_text() == f"{stopped}\n"
    assert code == 1, "torchrun's own way of saying that it was interrupted"


def test_a_signal_to_one_rank_stops_all_at_the_same_step(tmp_path: Path) -> None:
    with launched("until_stopped", 2, tmp_path) as run:
        reports = run.reports()
        one = next(report for report in reports if report["rank"] == 1 and report.get("iteration") == 2)
        os.kill(one["pid"], signal.SIGUSR1)
        ends = sorted((report for report in reports if "stopped" in report), key=lambda end: end["rank"])
        code = run.process.wait(60)
    assert [end["caught"] for end in ends] == [None, "SIGUSR1"]
    assert ends[0]["stopped"] == ends[1]["stopped"]
    assert code == 0


def test_the_second_ctrl_c_does_not_wait_for_the_step(tmp_path: Path) -> None:
    with launched("stuck_after_signal", 1, tmp_path) as run:
        reports = run.reports()
        pid = next(reports)["pid"]
        run.process.send_signal(signal.SIGINT)
        assert next(reports)["caught"] == "SIGINT"
        run.process.send_signal(signal.SIGINT)
        assert not list(reports)
        run.process.wait(20)  # seconds; torchrun alone would let the worker live for 30
    assert not Path(f"/proc/{pid}").exists()
