"""The cluster's scripts under a real Slurm of two nodes: each event ends as docs/cluster.md states.

Most jobs run ``workers/counting_run.py``, which has the project's stop, watchdog and launcher but no model.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.support.slurm_cluster import missing
from tests.support.slurm_toy import Toy, metrics
from tests.support.torchrun import ROOT

pytestmark = [
    pytest.mark.skipif(bool(missing()), reason=f"no Slurm can be started: {missing()}"),
    pytest.mark.timeout(900),
]


def test_two_nodes_and_a_requeue_give_the_numbers_of_one_machine(toy: Toy) -> None:
    """Updates are real, by the trainer with its checkpoints and loop, on scripted engines."""
    python = toy.python("scripted_train")
    flags = ("--train-iters", "6", "--save-interval", "100", "--max-log-prob-difference", "100", "--precision", "fp32")
    job = toy.submit(*flags, PYTHON=python, STEP_SECONDS="2")
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
    urgent = toy.preempt()
    assert job.end() == ("COMPLETED", 0), job.describe()
    assert "Preempted: back into the queue" in job.output
    assert urgent.end() == ("COMPLETED", 0)
    alone = toy.folder / "alone"
    toy.alone("--train-iters", "80", "--save-interval", "100", SAVE=str(alone), STEP_SECONDS="0")
    assert metrics(toy.save) == metrics(alone)


def test_a_clean_stop_saves_and_does_not_come_back(toy: Toy) -> None:
    """KillWait is five seconds, the time that scancel without a signal would leave a step."""
    job = toy.submit("--train-iters", "1000", "--save-interval", "1000", STEP_SECONDS="3")
    job.wait_for(lambda: toy.iteration() >= 1, "the first step")
    toy.slurm.ask("scancel", "--batch", "--signal=USR2", str(job.number))
    assert job.end() == ("FAILED", 3), job.describe()
    assert toy.checkpoint() == toy.iteration() > 0
    assert job.shown("Restarts") == "0"
    toy.assert_nothing_runs()


def test_sigterm_to_the_batch_script_is_a_clean_stop(toy: Toy) -> None:
    job = toy.submit("--train-iters", "1000", "--save-interval", "1000", STEP_SECONDS="3")
    job.wait_for(lambda: toy.iteration() >= 1, "the first step")
    toy.slurm.ask("scancel", "--batch", "--signal=TERM", str(job.number))
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
    """Four runs on two nodes, two at a time, have separate ports and directories."""
    single = ("--nodes=1",)
    first = toy.submit("--train-iters", "20", sbatch=single, SAVE=str(toy.folder / "first"))
    second = toy.submit("--train-iters", "20", sbatch=single, SAVE=str(toy.folder / "second"))
    assert [job.end() for job in (first, second)] == [("COMPLETED", 0)] * 2, first.describe() + second.describe()
    array = toy.submit(
        "--seed", "{task}", "--train-iters", "5", sbatch=(*single, "--array=3-4"), SAVE=str(toy.folder / "seed-{seed}")
    )
    # Not by the job's state, which is that of one task; the other may still run.
    while toy.slurm.ask("squeue", "-h", "-j", str(array.number)).strip():
        time.sleep(0.1)
    values = {seed: metrics(toy.folder / f"seed-{seed}")[5]["value"] for seed in (3, 4)}
    assert values[3] != values[4]


def test_the_nodes_of_a_job_are_examined(toy: Toy) -> None:
    """The rates are those of a busy machine, so that one rank may be reported as slow."""
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
