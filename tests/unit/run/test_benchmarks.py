"""Benchmarks between the steps of a run: lengths that leave no room for an answer."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from megatron_pz.config.schema import ModelConfig, RolloutConfig, RunConfig, TrainingConfig
from megatron_pz.run.benchmarks import TrainingBenchmarks
from megatron_pz.runtime.errors import BadInput
from tests.support.benchmark_files import write_gsm8k


def test_a_benchmark_whose_prompts_cannot_be_asked_is_refused(tiny_llama_dir: Path, tmp_path: Path) -> None:
    write_gsm8k(tmp_path)
    alone: Any = SimpleNamespace(rank=0, world_size=1)

    def benchmarks(max_prompt_length: int, ranks_per_engine: int = 1) -> TrainingBenchmarks:
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

    lengths = [len(prompt.token_ids) for prompt in benchmarks(100_000).benchmarks["gsm8k"].prompts]
    assert benchmarks(min(lengths)).parts, "a prompt with room for one token can be asked"
    with pytest.raises(BadInput, match=f"--benchmarks gsm8k: no prompt is shorter than .* {min(lengths)} tokens"):
        benchmarks(min(lengths) - 1)
    with pytest.raises(BadInput, match="1 processes cannot be divided among engines of that size"):
        benchmarks(max(lengths), ranks_per_engine=2)
