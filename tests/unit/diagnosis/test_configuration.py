"""The doctor reports whether a configuration can run, and why not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from megatron_pz.diagnosis import environment
from megatron_pz.diagnosis.configuration import check_configuration
from megatron_pz.runtime.matrix_speed import MatrixSpeed

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="tells what a machine without CUDA is told")


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
    products = {finding.subject: finding for finding in environment._devices()}["matrix products"]
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
