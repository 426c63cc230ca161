"""Create environments for the libraries that this project is compared with, on top of the project's own packages."""

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
    """Return the interpreter of the environment ``name``, created on the first call and when ``requirements`` change.

    It finds its own packages first and then those of the running interpreter, so that both sides of a comparison use
    the same torch, transformers and vLLM. Only the named packages are installed: list the peer and its dependencies
    that the project lacks, with versions (``trl==1.16.0``).

    Raises:
        BadInput: a package cannot be installed; the message has pip's last line.
    """
    environment = folder / name
    python, stamp = environment / "bin" / "python", environment / "requirements.txt"
    wanted = "\n".join([sysconfig.get_path("purelib"), *requirements])
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == wanted:
        return python
    shutil.rmtree(environment, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    (site_packages,) = (environment / "lib").glob("python*/site-packages")
    # A .pth file appends to the path, so packages installed here take precedence over the project's.
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
