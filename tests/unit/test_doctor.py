"""The doctor's verdict, table, JSON and exit code."""

from __future__ import annotations

import json
import sys

import pytest
import torch

from megatron_pz import doctor
from megatron_pz.diagnosis import environment
from megatron_pz.diagnosis.finding import Diagnosis, Finding
from megatron_pz.doctor import as_json, as_text, diagnose

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="tells what a machine without CUDA is told")


def test_this_environment_has_a_usable_path() -> None:
    diagnosis = diagnose()
    assert diagnosis.path == "cpu"
    assert not diagnosis.problems
    subjects = {finding.subject for finding in diagnosis.findings}
    assert subjects >= {"Python", "torch", "CUDA devices", "NCCL", "megatron-core", "vLLM", "Transformer Engine"}
    assert subjects >= {"Apex", "NeMo", "Slurm", "cores", "memory", "disk"}


def test_without_vllm_nothing_is_usable(monkeypatch: pytest.MonkeyPatch) -> None:
    probes = (
        environment._torch,
        environment._megatron_core,
        lambda: [Finding("vLLM", "problem", "not installed", "install it")],
    )
    monkeypatch.setattr(doctor, "PROBES", probes)
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
