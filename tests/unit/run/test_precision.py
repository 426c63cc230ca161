"""``precision: auto`` becomes the checkpoint's precision, or the one measured as faster."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from megatron_pz.config.schema import ModelConfig, OptimizerConfig, RolloutConfig, RunConfig, TrainingConfig
from megatron_pz.run import precision
from megatron_pz.run.run_directory import CONFIG_FILE, changed_settings, write_config
from megatron_pz.runtime.errors import BadInput
from megatron_pz.runtime.matrix_speed import MatrixSpeed

AUTO = RunConfig(model=ModelConfig(precision="auto"))
AVX2, AMX = MatrixSpeed(bf16=4.7, fp32=79.0), MatrixSpeed(bf16=810.0, fp32=157.0)


def measured(monkeypatch: pytest.MonkeyPatch, speed: MatrixSpeed) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(precision, "matrix_speed", lambda: speed)


@pytest.mark.parametrize(("speed", "name", "bound"), [(AVX2, "float32", 0.01), (AMX, "bfloat16", 0.3)])
def test_auto_is_what_was_measured_to_be_faster(
    speed: MatrixSpeed, name: str, bound: float, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    measured(monkeypatch, speed)
    settled = precision.settle_precision(AUTO)
    assert (settled.model.bf16, settled.rollout.rollout_dtype) == (name == "bfloat16", name)
    assert settled.rollout.max_log_prob_difference == bound
    assert settled.model.precision in ("bf16", "fp32"), "the configuration that is kept holds no auto"
    assert capsys.readouterr().out == f"precision: trainer {name}, rollouts {name} (measured: {speed})\n"


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what a machine without CUDA refuses")
def test_a_run_that_this_machine_cannot_do_is_refused_with_all_reasons() -> None:
    config = RunConfig(model=ModelConfig(fp8_format="e4m3"), rollout=RolloutConfig(rollout_quantization="fp8"))
    with pytest.raises(BadInput, match=r"--fp8-format e4m3 .* CUDA device.*; --rollout-quantization fp8 needs a CUDA"):
        precision.require_machine(config)


def test_a_gpu_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> MatrixSpeed:
        raise AssertionError("measured")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(precision, "matrix_speed", fail)
    assert precision.settle_precision(AUTO).model.bf16
    assert not precision.settle_precision(RunConfig(model=ModelConfig(bf16=False))).model.bf16


def checkpoint(run: Path, config: dict[str, Any]) -> None:
    """Write a checkpoint's header, with the configuration of the run."""
    folder = run / "iter_0000003"
    folder.mkdir()
    (folder / "run_state.json").write_text(json.dumps({"files": {}, "common": {"config": config}}))
    (run / "latest_checkpointed_iteration.txt").write_text("3")


@pytest.mark.parametrize("bf16", [True, False])
def test_a_resumed_run_keeps_the_precision_of_its_checkpoint(
    bf16: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured(monkeypatch, AVX2 if bf16 else AMX)
    saved = {"model": {"bf16": bf16}, "rollout": {"rollout_dtype": "bfloat16" if bf16 else "float32"}}
    checkpoint(tmp_path, saved)
    resumed = RunConfig(model=ModelConfig(precision="auto"), training=TrainingConfig(load=str(tmp_path)))
    settled = precision.settle_precision(resumed)
    assert (settled.model.bf16, settled.rollout.rollout_dtype) == (bf16, saved["rollout"]["rollout_dtype"])
    assert settled.rollout.max_log_prob_difference == (0.3 if bf16 else 0.01)


@pytest.mark.parametrize("speed", [AVX2, AMX])
def test_a_resume_on_the_same_machine_changes_no_setting(
    speed: MatrixSpeed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured(monkeypatch, speed)
    first = precision.settle_precision(AUTO)
    write_config(first, tmp_path / CONFIG_FILE)
    checkpoint(tmp_path, asdict(first))
    resumed = precision.settle_precision(replace(AUTO, training=TrainingConfig(load=str(tmp_path))))
    assert changed_settings(tmp_path / CONFIG_FILE, resumed) == {}


@pytest.mark.parametrize(
    ("model", "rollout", "speed", "words"),
    [
        (ModelConfig(), RolloutConfig(), AVX2, "bfloat16 was requested and is slow on this CPU"),
        (ModelConfig(bf16=False), RolloutConfig(), AMX, "float32 was requested and is slow on this CPU"),
        (ModelConfig(), RolloutConfig(), AMX, ""),
        (ModelConfig(), RolloutConfig(), MatrixSpeed(bf16=60.0, fp32=100.0), ""),
    ],
)
def test_a_name_is_obeyed_with_one_warning_where_it_is_slow(
    model: ModelConfig,
    rollout: RolloutConfig,
    speed: MatrixSpeed,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    measured(monkeypatch, speed)
    with caplog.at_level(logging.WARNING):
        settled = precision.settle_precision(RunConfig(model=model, rollout=rollout))
    assert settled.model.bf16 == model.bf16
    assert len(caplog.records) == bool(words)
    assert words in caplog.text


def test_what_does_not_go_with_the_choice_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    measured(monkeypatch, AVX2)
    offloading = OptimizerConfig(rl_offload_optimizer_during_inference=True)
    with pytest.raises(BadInput, match="needs --bf16"):
        precision.settle_precision(RunConfig(model=ModelConfig(precision="auto"), optimizer=offloading))
