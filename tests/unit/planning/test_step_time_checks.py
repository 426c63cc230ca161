"""Simulated steps, compared with NeMo-RL's published table and a table simulated by another program."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from megatron_pz.config.parse import load_yaml
from megatron_pz.config.schema import (
    GameConfig,
    GrpoConfig,
    OptimizerConfig,
    ParallelConfig,
    RolloutConfig,
    RunConfig,
    TrainingConfig,
)
from megatron_pz.hf.architecture import Architecture
from megatron_pz.planning.memory import plan_memory
from megatron_pz.planning.step_time.devices import find_device
from megatron_pz.planning.step_time.rates import GPU_RATES
from megatron_pz.planning.step_time.rollout import Schedule
from megatron_pz.planning.step_time.step import Cluster, simulate_step
from megatron_pz.planning.step_time.workload import workload_of

ROOT = Path(__file__).resolve().parents[3]
PUBLISHED = json.loads((ROOT / "tests/fixtures/published_models.json").read_text())
H100 = find_device("H100")
LLAMA_8B = {
    "model_type": "llama",
    "num_hidden_layers": 32,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "tie_word_embeddings": False,
    "hidden_act": "silu",
}


def architecture(config: dict[str, object], folder: Path) -> Architecture:
    (folder / "config.json").write_text(json.dumps(config))
    return Architecture.from_hf(folder)


@pytest.mark.parametrize(
    ("stages", "mean", "schedule", "published"), [(2, 1019, "barrier", 92.8), (1, 1123, "rollout-ranks", 64.8)]
)
def test_nemo_rl(stages: int, mean: int, schedule: Schedule, published: float, tmp_path: Path) -> None:
    """The source is NeMo-RL 0.5, Llama-3.1-8B on 16 H100: docs.nvidia.com/nemo/rl/0.5.0/about/performance-summary.html.

    The table states 2048 samples (recipe: 64 prompts x 32), 512 in an optimizer step, at most 4096 tokens, generation
    with one GPU per engine, training with TP 1, PP 2 (one step off: PP 1 on 8 GPUs, and 8 that generate), 1,581 and
    2,478 tokens/s/GPU. Tokens per step over samples minus the mean length are prompts of 127 and 131 tokens. The recipe
    (examples/configs/recipes/llm/performance/grpo-llama3.1-8b-instruct-2n8g.yaml) recomputes all activations and packs
    sequences, without sharing prompts, into 4096 tokens. The spread of the lengths is not published.
    """
    arch = architecture(LLAMA_8B, tmp_path)
    parallel = ParallelConfig(
        pipeline_model_parallel_size=stages,
        use_distributed_optimizer=True,
        overlap_grad_reduce=True,
        recompute_granularity="full",
    )
    config = RunConfig(
        parallel=parallel,
        game=GameConfig(passages_per_step=64, masks_per_passage=1, grpo_group_size=32, mask_strategy="random_span"),
        rollout=RolloutConfig(max_response_length=4096 - 128, rollout_max_num_seqs=256),
        grpo=GrpoConfig(updates_per_step=4),
        optimizer=OptimizerConfig(rl_offload_optimizer_during_inference=True),
        training=TrainingConfig(micro_batch_tokens=4096),
    )
    plan = plan_memory(arch, config, 16, 80)
    for sigma in (0.5, 0.9):
        work = replace(workload_of(config, mean, mean, sigma, 128), packs_groups=False)
        found = simulate_step(arch, config, plan, Cluster(H100, GPU_RATES, 16), work, schedule, 2, rollout_gpus=8)
        assert found.seconds == pytest.approx(published, rel=0.25)
        if schedule == "rollout-ranks":
            assert found.update > found.rollout, "the trainer's half is the slower one"


SIMULATED = {
    # engines, mean length: seconds of barrier, one queue, generator ahead
    (16, 600): (54, 44, 35),
    (16, 1000): (67, 62, 48),
    (32, 1000): (55, 53, 35),
    (8, 1800): (140, 140, 119),
}


def test_the_table_that_motivated_the_schedules(tmp_path: Path) -> None:
    """The table is of Qwen3-4B on H100s, simulated by another program with 70 % of the bandwidth, 1.5 ms and 40 % MFU.

    Unstated values are chosen here: a sigma of 0.9 before the cut at 4096 tokens, prompts of 700 tokens, data
    parallelism only, an unlimited cache, no sync and no rest. All twelve cells then agree within 7 %.
    """
    arch = architecture(PUBLISHED["qwen3_4b"]["config"], tmp_path)
    config = replace(load_yaml(ROOT / "examples/qwen3_4b/config.yaml"), parallel=ParallelConfig())
    rates = replace(GPU_RATES, rest_seconds=0.0, sync_bytes_per_second=math.inf)
    schedules: tuple[Schedule, ...] = ("barrier", "one-queue", "generator-ahead")
    for (engines, before_cut), told in SIMULATED.items():
        plan = plan_memory(arch, config, engines, 80)
        plan = replace(plan, engine=replace(plan.engine, cache_tokens=10**9), sleeps=False)
        lengths = np.random.default_rng(0).lognormal(math.log(before_cut) - 0.9**2 / 2, 0.9, 100_000)
        mean = float(np.minimum(lengths, 4096).mean())
        work = workload_of(config, mean, mean, 0.9, 700)
        cluster = Cluster(H100, rates, engines)
        found = [simulate_step(arch, config, plan, cluster, work, schedule, 2).seconds for schedule in schedules]
        assert found == pytest.approx(told, rel=0.1)
