"""Run a worker script under torchrun, for tests of several ranks."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def shell_environment() -> dict[str, str]:
    """Return the environment of a shell outside any job, without variables from runs in this process."""
    left = ("SLURM", "MASTER_", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    return {name: value for name, value in os.environ.items() if not name.startswith(left)}


def run_workers(
    script: str | Path,
    nproc: int,
    *args: object,
    timeout: float = 120.0,
    env: Mapping[str, str] | None = None,
    expect_failure: bool = False,
) -> str:
    """Run ``script`` (a ``.py`` file, or a module's dotted name) on ``nproc`` ranks and return what they printed.

    The rendezvous takes a free port on the loopback interface, so that any number of calls can run concurrently. The
    text is torchrun's own output, then stdout and stderr by rank, so that lines of two ranks never mix.

    Args:
        args: passed to the script, as strings.
        timeout: seconds after which torchrun is asked to end its workers.
        env: variables that override those of this process.
        expect_failure: the run must fail, and success is an error.

    Raises:
        AssertionError: the ranks failed (or did not, with ``expect_failure``), or ran past ``timeout``. The message
            holds the last lines of each rank.
    """
    target = [str(script)] if str(script).endswith(".py") else ["-m", str(script)]
    variables = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))),
        "GLOO_SOCKET_IFNAME": "lo",
        **(env or {}),
    }
    with tempfile.TemporaryDirectory(prefix="run_workers_") as log_dir:
        # `-m torch.distributed.run` instead of the torchrun script, so that the interpreter is this one for any PATH.
        command = [sys.executable, "-m", "torch.distributed.run", "--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0"]
        command += ["--nnodes=1", f"--nproc-per-node={nproc}", "--local-addr=127.0.0.1"]
        command += [f"--log-dir={log_dir}", "--redirects=3", *target, *map(str, args)]
        output, code = _run(command, variables, timeout)
        logs = sorted(Path(log_dir).glob("*/attempt_0/*/std*.log"), key=lambda log: (int(log.parent.name), log.name))
        streams = [("torchrun", output)]
        streams += [(f"rank {log.parent.name} {log.stem}", log.read_text(errors="replace")) for log in logs]
    if code is None or (code != 0) != expect_failure:
        verdict = f"ran past {timeout:g} s" if code is None else f"ended with code {code}"
        tails = "".join(f"\n--- {name}\n{_tail(text)}" for name, text in streams if text)
        raise AssertionError(f"{script} on {nproc} ranks {verdict}{tails}")
    return "".join(text for _, text in streams)


def _run(command: list[str], variables: Mapping[str, str], timeout: float) -> tuple[str, int | None]:
    """Return output and exit code of a torchrun command; the code is None if it exceeded ``timeout`` seconds.

    torchrun is asked to end, not killed, because its workers have separate sessions and would survive.
    """
    launcher = subprocess.Popen(
        command, cwd=ROOT, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        return launcher.communicate(timeout=timeout)[0], launcher.returncode
    except subprocess.TimeoutExpired:
        return _end(launcher), None
    except BaseException:
        _end(launcher)
        raise


def _end(launcher: subprocess.Popen[str]) -> str:
    launcher.terminate()
    try:
        return launcher.communicate(timeout=45)[0]  # torchrun gives its workers 30 s before it kills them
    except subprocess.TimeoutExpired:
        launcher.kill()
        return launcher.communicate()[0]


def _tail(text: str, lines: int = 40) -> str:
    return "\n".join(text.splitlines()[-lines:])
