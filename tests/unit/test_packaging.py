"""setup.py, the locked environment, and the script that makes it (with an interpreter that only takes notes)."""

from __future__ import annotations

import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import setuptools
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
LOCK = ROOT / "requirements" / "cpu-py311.lock"


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What setup.py says of the package."""
    said: dict[str, Any] = {}
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(setuptools, "setup", said.update)
    runpy.run_path("setup.py")
    return said


def locked_versions() -> dict[str, str]:
    lines = [line for line in LOCK.read_text().splitlines() if line and not line.startswith("#")]
    pins = dict(line.split("==") for line in lines)
    assert len(pins) == len(lines), "a package is locked twice"
    return pins


def test_the_package_has_the_promised_extras(package: dict[str, Any]) -> None:
    assert package["name"] == "megatron-pz"
    assert set(package["extras_require"]) == {"cpu", "gpu", "wikipedia", "nemo", "dev"}
    assert package["extras_require"]["nemo"] == ["nemo-toolkit[llm]==2.7.3"]


def test_the_lock_has_what_setup_asks_for(package: dict[str, Any]) -> None:
    pins = locked_versions() | {"torch": "2.13.0"}  # torch comes from an index of its own, before the lock
    extras = package["extras_require"]
    wanted = [*package["install_requires"], *extras["cpu"], *extras["wikipedia"], *extras["dev"]]
    for requirement in map(Requirement, wanted):
        name = canonicalize_name(requirement.name)
        assert name in pins, f"{name} is not locked"
        assert requirement.specifier.contains(pins[name]), f"{requirement} against the locked {pins[name]}"


def test_nothing_locked_brings_cuda_or_breaks_transformers() -> None:
    names = set(locked_versions())
    assert not names & {"torch", "torchvision", "torchaudio", "torchcodec", "triton", "apex"}
    assert not [name for name in names if name.startswith(("nvidia-", "cuda-")) or name.endswith(("-cu12", "-cu13"))]


def test_the_package_carries_its_templates(tmp_path: Path) -> None:
    command = [sys.executable, "setup.py", "--quiet", "build_py", "--build-lib", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=60)
    sources = [
        path for path in (ROOT / "megatron_pz").rglob("*") if path.is_file() and path.suffix not in (".pyc", ".so")
    ]
    missing = [str(path) for path in sources if not (tmp_path / path.relative_to(ROOT)).is_file()]
    assert not missing
    assert list(tmp_path.glob("megatron_pz/roles/templates/*/*.txt"))


# The interpreter that the script finds. It answers the version probe, "makes" environments that hold a copy of itself,
# notes every other call, and fails where FAIL is part of the call.
NOTING_PYTHON = """#!/usr/bin/env bash
case "$*" in
  "-c import sys, venv"*) exit "${WRONG_VERSION:-0}" ;;
  --version) echo "Python 3.11.99" && exit ;;
esac
echo "$*" >>"$NOTES"
if [[ $1 == -m && $2 == venv ]]; then mkdir -p "$3/bin" && cp "$0" "$3/bin/python" && cp "$0" "$3/bin/pip"; fi
if [[ -n ${FAIL:-} && $* == *"$FAIL"* ]]; then echo "no room left for $FAIL" && exit 1; fi
sleep "${SLOW:-0}"
"""


class Checkout:
    """A folder with the script and its inputs, and nothing else of the project."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "checkout with space"
        for name in ("examples/setup_environment.sh", "requirements/cpu-py311.lock", "setup.py"):
            (self.root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, self.root / name)
        self.python = folder / "python3.11"
        self.python.write_text(NOTING_PYTHON)
        self.python.chmod(0o755)
        self.notes = folder / "notes"
        self.notes.touch()

    def start(self, **variables: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [self.root / "examples/setup_environment.sh"],
            env={**os.environ, "PYTHON": str(self.python), "NOTES": str(self.notes), **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, **variables: str) -> tuple[int, str]:
        process = self.start(**variables)
        output, _ = process.communicate(timeout=60)
        return process.returncode, output

    def calls(self) -> list[str]:
        """What was asked of the interpreter since the last question."""
        calls = self.notes.read_text().splitlines()
        self.notes.write_text("")
        return calls


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


def test_set_up_installs_torch_first_and_the_second_call_does_nothing(checkout: Checkout) -> None:
    assert checkout.run()[0] == 0
    make, torch, lock, project, check = checkout.calls()
    assert make == f"-m venv {checkout.root}/.venv"
    assert torch == "-m pip install --no-deps torch==2.13.0+cpu"
    assert lock == f"-m pip install --no-deps -r {checkout.root}/requirements/cpu-py311.lock"
    assert project == f"-m pip install --no-deps --no-build-isolation -e {checkout.root}"
    assert check == "-"

    assert checkout.run() == (0, "")
    assert checkout.calls() == []


def test_set_up_takes_pytorchs_own_index_where_no_other_has_the_cpu_build(checkout: Checkout) -> None:
    assert checkout.run(FAIL="+cpu")[0] == 0
    assert "-m pip install --no-deps --index-url https://download.pytorch.org/whl/cpu torch==2.13.0" in checkout.calls()


def test_a_failed_set_up_shows_why_and_is_made_again(checkout: Checkout) -> None:
    code, output = checkout.run(FAIL="cpu-py311.lock")
    assert code != 0
    assert "no room left for cpu-py311.lock" in output
    assert "setup.log" in output
    (checkout.root / ".venv/half_unpacked").touch()
    checkout.calls()

    assert checkout.run()[0] == 0
    assert len(checkout.calls()) == 5
    assert not (checkout.root / ".venv/half_unpacked").exists()


def test_a_changed_lock_updates_the_environment_in_place(checkout: Checkout) -> None:
    checkout.run()
    checkout.calls()
    (checkout.root / ".venv/of_the_user").touch()
    with (checkout.root / "requirements/cpu-py311.lock").open("a") as lock:
        lock.write("added==1\n")

    assert checkout.run()[0] == 0
    assert len(checkout.calls()) == 4, "all but the making of .venv/"
    assert (checkout.root / ".venv/of_the_user").exists()


def test_a_changed_scanner_is_compiled_again(checkout: Checkout) -> None:
    scanner = checkout.root / "megatron_pz/wikitext/scanner/scan.py"
    scanner.parent.mkdir(parents=True)
    scanner.write_text("old")
    checkout.run()
    assert checkout.run() == (0, "")
    checkout.calls()
    scanner.write_text("new")

    assert checkout.run()[0] == 0
    assert f"-m pip install --no-deps --no-build-isolation -e {checkout.root}" in checkout.calls()


def test_two_set_ups_at_once_do_the_work_once(checkout: Checkout) -> None:
    both = [checkout.start(SLOW="0.1") for _ in range(2)]
    outputs = [process.communicate(timeout=60)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert len(checkout.calls()) == 5
    assert sum("Environment ready" in output for output in outputs) == 1


def test_a_wrong_python_is_one_clear_line(checkout: Checkout, tmp_path: Path) -> None:
    # Only these programs are on the path, so that no real Python 3.11 is found.
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("bash", "dirname", "cat", "sha256sum", "uname", "tail"):
        (programs / name).symlink_to(shutil.which(name) or name)
    code, output = checkout.run(WRONG_VERSION="1", PATH=str(programs))
    assert code == 1
    (line,) = output.splitlines()
    assert line.startswith("error: Python 3.11 with its venv module is needed")
    assert "3.11.99" in line
    assert checkout.calls() == []
