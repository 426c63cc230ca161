"""Benchmarks between the steps of a run: prompts that leave no room for an answer, and the files of answers."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from megatron_pz.config.schema import ModelConfig, RolloutConfig, RunConfig, TrainingConfig
from megatron_pz.rl.experience import Response
from megatron_pz.run.evaluation.benchmarks import TrainingBenchmarks
from megatron_pz.runtime.errors import BadInput
from tests.support.benchmark_files import respond, write_gsm8k

Make = Callable[..., TrainingBenchmarks]


@pytest.fixture
def benchmarks(tiny_llama_dir: Path, tmp_path: Path) -> Make:
    """Return a function that makes the benchmarks of a run with responses of one token."""
    write_gsm8k(tmp_path)
    alone: Any = SimpleNamespace(rank=0, world_size=1, rollout_ranks=0, all_gather_object=lambda each: [each])

    def make(max_prompt_length: int, ranks_per_engine: int = 1) -> TrainingBenchmarks:
        config = RunConfig(
            model=ModelConfig(hf_model=str(tiny_llama_dir)),
            rollout=RolloutConfig(
                max_prompt_length=max_prompt_length,
                max_response_length=1,
                rollout_tensor_parallel_size=ranks_per_engine,
            ),
            training=TrainingConfig(
                save=str(tmp_path / "run"),
                benchmarks=("gsm8k",),
                benchmark_data=str(tmp_path),
                benchmark_prompt_format="plain",
            ),
        )
        return TrainingBenchmarks(config, alone)

    return make


def lengths(benchmarks: TrainingBenchmarks) -> list[int]:
    return [len(prompt.token_ids) for prompt in benchmarks.benchmarks["gsm8k"].prompts]


def test_a_benchmark_whose_prompts_cannot_be_asked_is_refused(benchmarks: Make) -> None:
    shortest = min(lengths(benchmarks(100_000)))
    assert benchmarks(shortest).parts, "a prompt with room for one token can be asked"
    with pytest.raises(BadInput, match=f"--benchmarks gsm8k: no prompt is shorter than .* {shortest} tokens"):
        benchmarks(shortest - 1)
    with pytest.raises(BadInput, match="1 processes cannot be divided among engines of that size"):
        benchmarks(100_000, ranks_per_engine=2)


def test_prompts_that_are_not_asked_are_said_and_counted(
    benchmarks: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with (tmp_path / "gsm8k/test.jsonl").open("a") as file:
        file.write(json.dumps({"question": "What is one and one? " * 20, "answer": "#### 2"}) + "\n")
    *short, long = lengths(benchmarks(100_000))
    assert capsys.readouterr().out == ""
    some = benchmarks(max(short))
    assert max(short) < long
    assert "--benchmarks gsm8k: 1 of 7 prompts are not shorter than" in capsys.readouterr().out
    engine: Any = SimpleNamespace(context=max(short) + 1, generate=answer_seven)
    metrics = some.evaluate(3, engine)
    assert metrics["benchmark/gsm8k"] == metrics["benchmark/gsm8k_too_long"] == 1 / 7
    kept = [path.name for path in (tmp_path / "run/benchmarks").iterdir()]
    assert kept == ["gsm8k-0000003.parquet"]
    with monkeypatch.context() as patch, pytest.raises(OSError, match="Input/output"):
        patch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(5, "Input/output error")))
        some.evaluate(4, engine)
    assert [path.name for path in (tmp_path / "run/benchmarks").iterdir()] == kept, "nothing half written"


def answer_seven(prompts: Sequence[Sequence[int]], n: int, **_: Any) -> list[list[Response]]:
    return [[respond("\\boxed{7}")] * n for _ in prompts]
