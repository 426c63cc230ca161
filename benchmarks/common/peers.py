"""Environments for the libraries that this project is measured against, each beside the project's own packages."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

from megatron_pz.runtime.errors import BadInput

ENVIRONMENTS = Path(__file__).resolve().parents[2] / ".cache" / "benchmarks"


def peer_python(name: str, requirements: Sequence[str], folder: Path = ENVIRONMENTS) -> Path:
    """Return the interpreter of the environment ``name``, made on the first call and when ``requirements`` change.

    It sees its own packages first and then those of the running interpreter, so that both sides of a comparison use the
    same torch, transformers and vLLM. Nothing is installed but what is named: list the closure of the peer less what
    the project has, with versions (``trl==1.16.0``).

    Raises:
        BadInput: with pip's last line, when a package cannot be installed.
    """
    environment = folder / name
    python, stamp = environment / "bin" / "python", environment / "requirements.txt"
    wanted = "\n".join([sysconfig.get_path("purelib"), *requirements])
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == wanted:
        return python
    shutil.rmtree(environment, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    (site_packages,) = (environment / "lib").glob("python*/site-packages")
    # A .pth file appends to the path: what is installed here comes before the project's packages.
    (site_packages / "project.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    installed = subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "--python",
            python,
            "install",
            "--quiet",
            "--no-deps",
            "--no-input",
            *requirements,
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if installed.returncode:
        reason = (installed.stderr.strip().splitlines() or ["no message"])[-1]
        raise BadInput(f"the packages to compare with ({' '.join(requirements)}) cannot be installed: {reason}")
    stamp.write_text(wanted, encoding="utf-8")
    return python
