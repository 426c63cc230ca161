"""A grid of real runs by tools/run_experiment.py is killed in the middle, continued, and compared."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.benchmark_files import write_gsm8k
from tests.support.tiny_run import make_corpus, metrics_of
from tests.support.torchrun import ROOT, shell_environment

DESIGN = f"""
config: {ROOT}/examples/toy/config.yaml
equal: compute
budget: 1.0e+9
seeds: [1]
arms:
  active: {{mask_strategy: active}}
  random spans: {{mask_strategy: random_span}}
settings: {{precision: fp32}}
evaluation: {{passages: 6, masks_per_passage: 1, predictions_per_mask: 2, samples_per_repeated_word: 2}}
benchmarks: {{names: [gsm8k], prompt_format: plain, questions: 4, max_tokens: 8}}
"""


class Experiment:
    """The command line on one folder."""

    def __init__(self, folder: Path, model: Path, corpus: str) -> None:
        self.output = folder / "study"
        (folder / "experiment.yaml").write_text(DESIGN)
        self.command = [sys.executable, "tools/run_experiment.py", str(folder / "experiment.yaml")]
        self.command += ["--output", str(self.output), "--hf-model", str(model)]
        self.command += ["--data-path", corpus, "--valid-data-path", corpus]
        self.command += ["--benchmark-data", str(write_gsm8k(folder / "benchmarks"))]

    def start(self, *flags: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*self.command, *flags],
            cwd=ROOT,
            env=shell_environment() | {"PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *flags: str) -> str:
        process = self.start(*flags)
        output, _ = process.communicate(timeout=550)
        assert process.returncode == 0, output + self.logs()
        return output

    def logs(self) -> str:
        return "".join(path.read_text(errors="replace")[-3000:] for path in self.output.rglob("log.txt"))

    def run_of(self, arm: str) -> Path:
        return self.output / "cells" / arm / "seed-1" / "run"


def wait_until_free(lock: Path) -> None:
    """Wait for the end of the run that holds the folder: its processes die shortly after the killed command."""
    until = time.monotonic() + 60
    with lock.open("a") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                assert time.monotonic() < until, "the killed command's run lives on"
                time.sleep(0.1)


@pytest.mark.timeout(900)
def test_a_killed_experiment_goes_on_and_repeats_nothing(tmp_path: Path, tiny_llama_dir: Path) -> None:
    experiment = Experiment(tmp_path, tiny_llama_dir, make_corpus(tmp_path, tiny_llama_dir))
    first = experiment.run_of("active")
    process = experiment.start()
    while not (first / "latest_checkpointed_iteration.txt").exists():
        assert process.poll() is None, (process.stdout.read() if process.stdout else "") + experiment.logs()
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_until_free(first / ".lock")
    assert len(metrics_of(first)) < 5
    assert "begun, at step" in experiment.run("--list")

    said = experiment.run()
    assert "Continuing from iteration" in (first.parent / "log.txt").read_text()
    assert "2 of 2 runs are evaluated" in said and "Missing" not in said
    for arm in ("active", "random_spans"):
        steps = metrics_of(experiment.run_of(arm))
        assert [step["iteration"] for step in steps] == list(range(1, len(steps) + 1)), "no step twice"
        assert steps[-1]["compute/flops"] >= 1e9 > steps[-2]["compute/flops"]
    record = json.loads((experiment.output / "comparison.json").read_text())
    assert [each["measure"] for each in record["between"]][-1] == "gsm8k"
    assert [len(each["seeds"]) for each in record["between"]] == [1, 1, 1, 1]
    assert (experiment.output / "curves.png").read_bytes().startswith(b"\x89PNG")

    before = {path: path.stat().st_mtime_ns for path in experiment.output.glob("cells/*/*/*")}
    again = experiment.run()
    assert "training" not in again.partition("Experiment")[0]
    assert {path: path.stat().st_mtime_ns for path in experiment.output.glob("cells/*/*/*")} == before


def test_ctrl_c_saves_a_checkpoint_and_says_how_to_go_on(tmp_path: Path, tiny_llama_dir: Path) -> None:
    experiment = Experiment(tmp_path, tiny_llama_dir, make_corpus(tmp_path, tiny_llama_dir))
    first = experiment.run_of("active")
    process = experiment.start()
    while not (first / "metrics.jsonl").exists():
        assert process.poll() is None, (process.stdout.read() if process.stdout else "") + experiment.logs()
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 3, output
    assert output.splitlines()[-1] == "error: stopped by a signal; the same command continues it"
    wait_until_free(first / ".lock")
