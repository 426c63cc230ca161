"""The cluster's scripts under a real Slurm of two nodes: ordinary events, each with the end that docs/cluster.md gives.

Most jobs run ``workers/counting_run.py``, which has the project's stop, watchdog and launcher but no model.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.support.slurm_cluster import Job, SlurmCluster, missing
from tests.support.torchrun import ROOT, shell_environment

pytestmark = [
    pytest.mark.skipif(bool(missing()), reason=f"no Slurm can be started: {missing()}"),
    pytest.mark.timeout(900),
]

SCRIPT = ROOT / "slurm/pz_qwen3_4b.sh"

# The interpreter, but for the module that the launcher starts.
PYTHON = """#!/usr/bin/env bash
words=()
for word; do
  if [[ $word == megatron_pz.train ]]; then words+=(tests.system.workers.{module}); else words+=("$word"); fi
done
exec {python} "${{words[@]}}"
"""


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    with SlurmCluster(tmp_path_factory.mktemp("slurm")) as cluster:
        yield cluster


class Toy:
    """The toy recipe as a job of two nodes with one process each."""

    def __init__(self, slurm: SlurmCluster, folder: Path, model: Path, corpus: str) -> None:
        self.slurm, self.folder = slurm, folder
        self.save = folder / "run"
        self.env = {
            "CONFIG": "examples/toy/config.yaml",
            "MODEL": str(model),
            "DATA_PATH": corpus,
            "SAVE": str(self.save),
            "LOGS": str(folder / "logs"),
            "ACTIVATE": "none",
            "PYTHON": self.python("counting_run"),
            "PYTHONPATH": str(ROOT),
            "NPROC_PER_NODE": "1",
            "SIGNAL_LEAD": "60",
            "GLOO_SOCKET_IFNAME": "lo",
            "OMP_NUM_THREADS": "1",
        }

    def python(self, module: str) -> str:
        """Path of an interpreter that runs a module of ``workers/`` for ``megatron_pz.train``."""
        path = self.folder / module
        path.write_text(PYTHON.format(module=module, python=sys.executable))
        path.chmod(0o755)
        return str(path)

    def submit(self, *flags: str, sbatch: tuple[str, ...] = (), **variables: str) -> Job:
        given = ("--nodes=2", "--gpus-per-node=1", "--time=60", "--signal=B:USR1@60", *sbatch)
        return self.slurm.submit(SCRIPT, *flags, sbatch=given, env=self.env | variables)

    def alone(self, *flags: str, **variables: str) -> None:
        """The same recipe on this machine, two processes, without Slurm."""
        done = subprocess.run(
            ["bash", str(SCRIPT), *flags],
            cwd=ROOT,
            env={**shell_environment(), **self.env, "NPROC_PER_NODE": "2"} | variables,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def iteration(self) -> int:
        """Newest step of the run; 0 before the first."""
        steps = metrics(self.save)
        return max(steps, default=0)

    def checkpoint(self) -> int:
        """Iteration of the newest checkpoint; 0 before the first."""
        tracker = self.save / "latest_checkpointed_iteration.txt"
        return int(tracker.read_text()) if tracker.exists() else 0

    def process(self, rank: int) -> int:
        """Process number of a rank of the last attempt."""
        return int((self.save / f"rank-{rank}").read_text().split()[0])

    def assert_nothing_runs(self) -> None:
        """No process of this run is left on the machine."""
        time_left = time.monotonic() + 20
        while left := [path for path in Path("/proc").glob("[0-9]*/environ") if self._is_ours(path)]:
            assert time.monotonic() < time_left, [(path.parent / "cmdline").read_text() for path in left]
            time.sleep(0.2)

    def _is_ours(self, path: Path) -> bool:
        try:
            return f"SAVE={self.save}\0".encode() in path.read_bytes()
        except OSError:
            return False


@pytest.fixture
def toy(slurm: SlurmCluster, tmp_path: Path, tiny_llama_dir: Path, tiny_corpus: str) -> Toy:
    return Toy(slurm, tmp_path, tiny_llama_dir, tiny_corpus)


def metrics(save: Path) -> Mapping[int, Mapping[str, Any]]:
    """The run's metrics by step, without times and memory; the last line of a step that was done twice."""
    try:
        lines = (save / "metrics.jsonl").read_text().splitlines()
    except FileNotFoundError:
        return {}
    steps = [json.loads(line) for line in lines]
    machine = ("time/", "memory/")
    return {
        step["iteration"]: {name: value for name, value in step.items() if not name.startswith(machine)}
        for step in steps
    }


def test_two_nodes_and_a_requeue_give_the_numbers_of_one_machine(toy: Toy) -> None:
    """Real updates: the trainer, its checkpoints and its loop, on scripted engines."""
    python = toy.python("scripted_train")
    flags = ("--train-iters", "6", "--save-interval", "100", "--max-log-prob-difference", "100", "--precision", "fp32")
    job = toy.submit(*flags, PYTHON=python)
    job.wait_for(lambda: toy.iteration() >= 2, "the second step")
    toy.slurm.ask("scancel", "--batch", "--signal=USR1", str(job.number))
    assert job.end() == ("COMPLETED", 0), job.describe()
    assert "Stopped at iteration" in job.output and "back into the queue" in job.output
    assert job.shown("Restarts") == "1"
    alone = toy.folder / "alone"
    toy.alone(*flags, PYTHON=python, SAVE=str(alone))
    assert metrics(toy.save) == metrics(alone)
    logs = sorted(path.relative_to(toy.folder / "logs") for path in toy.folder.glob("logs/*/*/*"))
    name = f"pz_qwen3_4b-{job.number}"
    assert [str(path) for path in logs] == [f"{name}/attempt-{n}/node-{k}.log" for n in (0, 1) for k in (0, 1)]


def test_a_preempted_job_comes_back_and_ends_as_if_nothing_had_been(toy: Toy) -> None:
    job = toy.submit("--train-iters", "80", "--save-interval", "100")
    job.wait_for(lambda: toy.iteration() >= 2, "the second step")
    script = toy.folder / "urgent.sh"
    script.write_text("#!/bin/sh\nsleep 1\n")
    script.chmod(0o755)
    urgent = int(
        toy.slurm.ask(
            "sbatch", "--parsable", "--partition=urgent", "--nodes=2", "--exclusive", "--output=/dev/null", str(script)
        )
    )
    assert job.end() == ("COMPLETED", 0), job.describe()
    assert "Preempted: back into the queue" in job.output
    assert Job(toy.slurm, urgent).end() == ("COMPLETED", 0)
    alone = toy.folder / "alone"
    toy.alone("--train-iters", "80", "--save-interval", "100", SAVE=str(alone), STEP_SECONDS="0")
    assert metrics(toy.save) == metrics(alone)


def test_a_clean_stop_saves_and_does_not_come_back(toy: Toy) -> None:
    """KillWait is five seconds here, and scancel without a signal would leave a step no longer."""
    job = toy.submit("--train-iters", "1000", "--save-interval", "1000", STEP_SECONDS="3")
    job.wait_for(lambda: toy.iteration() >= 1, "the first step")
    toy.slurm.ask("scancel", "--batch", "--signal=USR2", str(job.number))
    assert job.end() == ("FAILED", 3), job.describe()
    assert toy.checkpoint() == toy.iteration() > 0
    assert job.shown("Restarts") == "0"
    toy.assert_nothing_runs()


def test_a_cancelled_job_leaves_nothing_running(toy: Toy) -> None:
    job = toy.submit("--train-iters", "1000")
    job.wait_for(lambda: toy.iteration() >= 1, "the first step")
    toy.slurm.ask("scancel", str(job.number))
    assert job.end()[0] == "CANCELLED"
    toy.assert_nothing_runs()


def test_everyones_first_try_is_refused_in_one_line(toy: Toy) -> None:
    job = toy.submit(sbatch=("--time=5",), SIGNAL_LEAD="600")
    assert job.end() == ("FAILED", 2)
    (line,) = job.output.splitlines()
    assert line.startswith("error: 5 minutes are left to the time limit")


def test_a_refused_setting_is_said_once_and_is_code_2(toy: Toy) -> None:
    job = toy.submit("--train-iters", "many")
    assert job.end() == ("FAILED", 2), job.describe()
    ours = [line for line in job.output.splitlines() if line.startswith("error: ")]
    assert len(ours) == 1 and "train-iters" in ours[0], job.output


def test_data_that_one_node_lacks_ends_the_job_in_one_line(toy: Toy) -> None:
    hidden = toy.python("counting_run")
    text = Path(hidden).read_text().replace(
        "exec ", 'if [[ ${SLURM_NODEID:-0} == 1 ]]; then words+=(--data-path /not/on/this/node); fi\nexec ', 1
    )  # fmt: skip
    Path(hidden).write_text(text)
    job = toy.submit(HEARTBEAT_SECONDS="20")
    assert job.end() == ("FAILED", 2), job.describe()
    ours = [line for line in job.output.splitlines() if line.startswith("error: --data-path")]
    assert ours == ["error: --data-path /not/on/this/node: no such dataset on n2"], job.output
    toy.assert_nothing_runs()


def test_a_killed_rank_ends_the_job_and_is_named(toy: Toy) -> None:
    job = toy.submit("--train-iters", "1000")
    job.wait_for(lambda: toy.iteration() >= 2, "the second step")
    os.kill(toy.process(1), signal.SIGKILL)
    assert job.end() == ("FAILED", 1), job.describe()
    assert re.search(rf"rank 1 \(\S+, process {toy.process(1)}\) was killed by SIGKILL", job.output), job.output
    assert "Traceback" not in job.output
    toy.assert_nothing_runs()


def test_a_stopped_rank_ends_the_job_and_is_named(toy: Toy) -> None:
    job = toy.submit("--train-iters", "1000", HEARTBEAT_SECONDS="4")
    job.wait_for(lambda: toy.iteration() >= 2, "the second step")
    process = toy.process(1)
    os.kill(process, signal.SIGSTOP)
    assert job.end() == ("FAILED", 1), job.describe()
    assert re.search(rf"rank 1 \(\S+, process {process}\)", job.output), job.output
    toy.assert_nothing_runs()


def test_a_lost_node_puts_the_job_back_into_the_queue(toy: Toy) -> None:
    job = toy.submit("--train-iters", "60", "--save-interval", "5")
    job.wait_for(lambda: toy.checkpoint() >= 5, "the first checkpoint")
    second = Path(toy.save / "rank-1").read_text().split()[1]
    toy.slurm.kill_node(second)
    try:
        job.wait_for(lambda: job.shown("Restarts") == "1", "the requeue")
    finally:
        toy.slurm.start_node(second)
        toy.slurm.ask("scontrol", "update", f"NodeName={second}", "State=RESUME")
    assert job.end() == ("COMPLETED", 0), job.describe()
    alone = toy.folder / "alone"
    toy.alone("--train-iters", "60", SAVE=str(alone), STEP_SECONDS="0")
    assert metrics(toy.save) == metrics(alone)


def test_two_jobs_and_an_array_do_not_meet(toy: Toy) -> None:
    """Four runs on two nodes, of which two at a time: ports and directories of their own."""
    single = ("--nodes=1",)
    first = toy.submit("--train-iters", "20", sbatch=single, SAVE=str(toy.folder / "first"))
    second = toy.submit("--train-iters", "20", sbatch=single, SAVE=str(toy.folder / "second"))
    assert [job.end() for job in (first, second)] == [("COMPLETED", 0)] * 2, first.describe() + second.describe()
    array = toy.submit(
        "--seed", "{task}", "--train-iters", "5", sbatch=(*single, "--array=3-4"), SAVE=str(toy.folder / "seed-{seed}")
    )
    # Not by the job's state, which is that of one task: the other may still run.
    while toy.slurm.ask("squeue", "-h", "-j", str(array.number)).strip():
        time.sleep(0.1)
    values = {seed: metrics(toy.folder / f"seed-{seed}")[5]["value"] for seed in (3, 4)}
    assert values[3] != values[4]


def test_the_nodes_of_a_job_are_examined(toy: Toy) -> None:
    """The rates are those of a busy machine, so that one rank may be called slow."""
    sbatch = ("--nodes=2", "--gpus-per-node=1")
    job = toy.slurm.submit(ROOT / "slurm/check_nodes.sh", sbatch=sbatch, env=toy.env)
    job.wait_for(lambda: job.ended, "the job's end")
    assert "2 ranks on 2 hosts (n1, n2), CPU\n" in job.output, job.output
    assert re.search(r"^all-reduce of 16 MiB: [\d.]+ ms, [\d.]+ GiB/s a rank over the links$", job.output, re.M)
    assert re.search(r"slowest rank [01] on n[12] with [\d.]+$", job.output, re.M)
    assert "differs" not in job.output and "is wrong" not in job.output


def test_a_full_disk_is_one_line_and_loses_nothing(toy: Toy) -> None:
    disk = toy.folder / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("no small file system can be mounted here")
    try:
        toy.save = disk / "run"
        job = toy.submit("--train-iters", "5000", "--save-interval", "1", SAVE=str(toy.save), STEP_SECONDS="0")
        assert job.end() == ("FAILED", 1), job.describe()
        ours = [line for line in job.output.splitlines() if line.startswith("error: ")]
        assert any("no room" in line for line in ours), job.output
        assert toy.checkpoint() > 0
        toy.assert_nothing_runs()
    finally:
        subprocess.run(["umount", str(disk)], check=True)
