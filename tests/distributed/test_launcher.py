"""The launcher with real workers: delivery of signals, the effect of a failure, and the exit code of the job."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from megatron_pz.cluster.job_settings import free_port
from tests.support.torchrun import ROOT

WORKERS = "tests.distributed.workers"


def start(folder: Path, module: str, *flags: str, launcher: tuple[str, ...]) -> subprocess.Popen[str]:
    """Start a launcher in the background, whose workers write files in ``folder``."""
    return subprocess.Popen(
        [sys.executable, "-m", "megatron_pz.launch", *launcher, f"{WORKERS}.{module}", *flags],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "SIGNALLED_FOLDER": str(folder), "ENDING_FOLDER": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_until(condition: Callable[[], bool], launcher: subprocess.Popen[str], seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if launcher.poll() is not None or time.monotonic() > deadline:
            launcher.terminate()
            pytest.fail(f"it did not happen: {launcher.communicate(timeout=60)[0]}")
        time.sleep(0.05)


def processes(folder: Path) -> list[int]:
    return [int(text) for path in sorted(folder.glob("process_*")) if (text := path.read_text())]


def alive(process: int) -> bool:
    try:
        return "(zombie)" not in Path(f"/proc/{process}/status").read_text()
    except OSError:
        return False


@pytest.mark.parametrize(
    ("number", "told"),
    [
        (signal.SIGUSR1, "SIGUSR1"),
        (signal.SIGTERM, "SIGTERM"),
        (signal.SIGHUP, "SIGTERM"),
        (signal.SIGINT, "SIGINT"),
    ],
)
def test_a_signal_ends_all_workers_in_order(tmp_path: Path, number: signal.Signals, told: str) -> None:
    launcher = start(tmp_path, "signalled_worker", launcher=("--nproc-per-node", "2"))
    wait_until(lambda: len(list(tmp_path.glob("ready_*"))) == 2, launcher)
    launcher.send_signal(number)  # to the launcher alone, as a plain kill does
    output, _ = launcher.communicate(timeout=60)
    assert launcher.returncode == 0, output
    assert [(tmp_path / f"stopped_{rank}").read_text() for rank in range(2)] == [told, told]
    assert "Traceback" not in output, output


def test_a_request_to_stop_waits_for_the_imports(tmp_path: Path) -> None:
    launcher = start(tmp_path, "ending_worker", "import", launcher=())
    wait_until(lambda: len(processes(tmp_path)) == 1, launcher)
    launcher.send_signal(signal.SIGUSR1)
    pending = f"/proc/{processes(tmp_path)[0]}/status"
    wait_until(lambda: "ShdPnd:\t0000000000000200" in Path(pending).read_text(), launcher)
    (tmp_path / "imported").touch()
    output, _ = launcher.communicate(timeout=60)
    assert launcher.returncode == 3, output


def test_nohup_holds_from_the_start(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # inherited
    try:
        launcher = start(tmp_path, "ending_worker", "import", launcher=())
    finally:
        signal.signal(signal.SIGHUP, before)
    wait_until(lambda: len(processes(tmp_path)) == 1, launcher)
    launcher.send_signal(signal.SIGHUP)
    launcher.send_signal(signal.SIGUSR1)
    pending = f"/proc/{processes(tmp_path)[0]}/status"
    wait_until(lambda: "ShdPnd:\t0000000000000200" in Path(pending).read_text(), launcher)
    (tmp_path / "imported").touch()
    output, _ = launcher.communicate(timeout=60)
    assert (launcher.returncode, output.count("error")) == (3, 0), output


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 1), (signal.SIGINT, 130)])
def test_before_the_first_step_there_is_nothing_to_wait_for(tmp_path: Path, number: signal.Signals, code: int) -> None:
    launcher = start(tmp_path, "ending_worker", "hang", launcher=())
    wait_until(lambda: len(processes(tmp_path)) == 1, launcher)
    launcher.send_signal(number)
    output, _ = launcher.communicate(timeout=60)
    assert launcher.returncode == code
    assert output == f"error: {number.name} while not every process can save a checkpoint: ended at once\n"


@pytest.mark.parametrize(
    ("endings", "code", "line"),
    [
        (("0", "0"), 0, ""),
        (("3", "3"), 3, ""),
        (("0", "2"), 2, "error: --data-path x: no such file\n"),
        (("3", "5"), 5, "ended with code 5; its log has the reason\n"),
        (("0", "kill"), 1, "was killed by SIGKILL; the kernel does so when memory runs out\n"),
        (("0", "kill in service"), 0, "; it is started again\n"),
        (("0", "75 in service"), 0, ""),
        (("0", "75"), 75, "ended with code 75; its log has the reason\n"),
        (("0", "5 in service"), 5, "ended with code 5; its log has the reason\n"),
    ],
)
def test_the_first_bad_code_is_the_jobs_and_said_once(
    tmp_path: Path, endings: tuple[str, ...], code: int, line: str
) -> None:
    launcher = start(tmp_path, "ending_worker", *endings, launcher=("--nproc-per-node=2",))
    output, _ = launcher.communicate(timeout=120)
    assert launcher.returncode == code, output
    assert output.endswith(line) and output.count("\n") == bool(line), output


def test_workers_die_with_their_launcher(tmp_path: Path) -> None:
    launcher = start(tmp_path, "ending_worker", "hang", "hang", launcher=("--nproc-per-node=2",))
    wait_until(lambda: len(processes(tmp_path)) == 2, launcher)
    launcher.kill()
    launcher.communicate(timeout=60)
    deadline = time.monotonic() + 10
    while any(map(alive, processes(tmp_path))):
        assert time.monotonic() < deadline, "orphans"
        time.sleep(0.02)


def test_a_failure_on_one_node_is_the_code_of_all_and_said_by_that_node(tmp_path: Path) -> None:
    port = str(free_port({}))
    place = ("--nnodes=2", "--master-addr=127.0.0.1", f"--master-port={port}")
    first, second = (
        start(
            tmp_path,
            "ending_worker",
            "hang",
            "2",
            launcher=(*place, f"--node-rank={node}", f"--log={tmp_path}/logs/node-{node}.log"),
        )
        for node in range(2)
    )
    said = [launcher.communicate(timeout=120)[0] for launcher in (first, second)]
    assert [first.returncode, second.returncode] == [2, 2], said
    assert said == ["", "error: --data-path x: no such file\n"]
    assert (tmp_path / "logs/node-1.log").read_text() == said[1]
    assert not any(map(alive, processes(tmp_path)))


def test_a_port_that_is_taken_is_one_line(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        port = other.getsockname()[1]
        place = ("--nnodes=2", "--node-rank=0", "--master-addr=127.0.0.1", f"--master-port={port}")
        launcher = start(tmp_path, "ending_worker", "0", "0", launcher=place)
        output, _ = launcher.communicate(timeout=120)
    assert (launcher.returncode, output.count("\n")) == (2, 1), output
    assert output.startswith(f"error: cannot listen on 127.0.0.1:{port} (in use by another process?): give a free port")
