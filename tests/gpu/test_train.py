"""Ten steps of PretrainZero with a real small model, in bfloat16 and FP8: agreement in every step, peaks by phase."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.gpu.results import Goal
from tests.gpu.conftest import ROOT, Record
from tests.support.tiny_run import make_corpus

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed"),
    pytest.mark.timeout(580),  # the first test also makes the corpus and the cold start
]

CONFIG = """
game: {prompt_family: quote, passages_per_step: 8, masks_per_passage: 8, grpo_group_size: 8, whole_words: true,
       span_policy: one_mask, invalid_mask_penalty: -0.2}
rollout: {max_prompt_length: 256, max_response_length: 48, gpu_memory_utilization: 0.4}
optimizer: {lr: 2.0e-5, lr_decay_style: constant}
training: {micro_batch_tokens: 8192, save_interval: 100, train_iters: 10}
cold_start: {cold_start_iters: 20, cold_start_lr: 1.0e-4}
"""
PRECISIONS = {
    "bf16": [],
    "FP8": [
        *("--fp8-format", "hybrid", "--fp8-recipe", "tensorwise", "--rollout-quantization", "fp8"),
        *("--max-log-prob-difference", "1"),
    ],
}
MAX_DIFFERENCE = {"bf16": 0.3, "FP8": 1.0}
"""Nats a token: FP8's rounding alone is 0.2 on a model of 135 M parameters (emulated), on either side."""


def run(module: str, *arguments: object) -> str:
    """Run a command of the package, which must succeed, and return its output."""
    command = [sys.executable, "-m", f"megatron_pz.{module}", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))}
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280, check=False
        )
    except subprocess.TimeoutExpired as late:
        said = b"".join(filter(None, (late.stdout, late.stderr))).decode(errors="replace")
        pytest.fail(f"{module} took more than {late.timeout} s; the last that it said:\n{said[-8000:]}")
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ten_steps")
    (path / "config.yaml").write_text(CONFIG)
    return path


@pytest.fixture(scope="module")
def corpus(folder: Path, model_dir: Path) -> str:
    return make_corpus(folder, model_dir)


@pytest.fixture(scope="module")
def taught_model(folder: Path, corpus: str, model_dir: Path) -> Path:
    """Return the model after a short cold start, without which its answers have no form that earns a reward."""
    save = folder / "cold_start"
    run(
        "cold_start", "--config", folder / "config.yaml", "--hf-model", model_dir, "--data-path", corpus, "--save", save
    )
    return save / "hf"


@pytest.mark.parametrize("name", PRECISIONS)
def test_ten_steps(name: str, folder: Path, corpus: str, taught_model: Path, record: Record) -> None:
    save = folder / name
    arguments = ["--config", folder / "config.yaml", "--hf-model", taught_model, "--data-path", corpus, "--save", save]
    run("train", *arguments, *PRECISIONS[name])
    steps = [json.loads(line) for line in (save / "metrics.jsonl").read_text().splitlines()]
    assert [step["iteration"] for step in steps] == [*range(1, 11)]
    learned = [step for step in steps if step["train/grad_norm"] is not None]
    assert learned, "no step had anything to learn from"
    assert all(math.isfinite(step["train/grad_norm"]) for step in learned)
    difference = max(step["health/log_prob_difference_mean"] for step in learned)
    record(f"|Δ log p| in ten steps, {name}, largest mean", difference, "nats", Goal("at most", 0.3))
    assert difference < MAX_DIFFERENCE[name]
    for part in ("rollout", "update", "sync"):
        seconds = sorted(step[f"time/{part}"] for step in steps)
        record(f"{part}, {name}, median of ten steps", seconds[len(seconds) // 2], "s")
        peaks = [step[f"memory/peak_{part}"] for step in steps]
        record(f"peak of torch's memory, {part}, sleeping engines included, {name}", max(peaks), "GiB")
        used = [step[f"memory/device_used_{part}"] for step in steps]  # with what torch has freed and keeps
        record(f"memory of the GPU in use at the end, {part}, {name}", max(used), "GiB")
