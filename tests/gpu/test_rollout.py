"""vLLM beside the trainer on one GPU: agreement of log-probabilities, weight sync, sleep."""

from __future__ import annotations

import gc
import importlib.util
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.gpu.agreement import against_rollout, perturb, time_sync
from benchmarks.gpu.random_model import QWEN3_4B, write_random_model
from benchmarks.gpu.results import Goal
from megatron_pz.config.schema import RolloutConfig
from megatron_pz.config.validate_precision import machine_refusals
from megatron_pz.hf.architecture import Architecture
from megatron_pz.model.precision import this_machine
from megatron_pz.rollout.engine import VllmEngine
from megatron_pz.rollout.log_prob_semantics import require_log_prob_semantics
from megatron_pz.rollout.weight_sync import load_weights
from megatron_pz.trainer.policy import PolicyModel
from megatron_pz.trainer.topology import Topology
from tests.gpu.conftest import Record, run_config
from tests.support.rollout_reference import random_prompts

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed"),
    pytest.mark.timeout(580),  # the first start of a model compiles it
]

GIB = 2**30
BF16 = RolloutConfig(
    max_prompt_length=512,
    max_response_length=256,
    rollout_max_num_seqs=64,  # half as many CUDA graphs to capture as by default, in each of six starts
    gpu_memory_utilization=0.3,
)
RUNNERS = {"V1": "vllm.v1.worker.gpu_model_runner", "V2": "vllm.v1.worker.gpu."}
"""vLLM's model runners, by what the names of their modules begin with."""
ROLLOUTS = {"bf16": BF16, "FP8": replace(BF16, rollout_quantization="fp8")}


@pytest.fixture(scope="module")
def model_4b(topology: Topology, model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return random weights in the shape of Qwen3-4B, with the small model's tokenizer, which vLLM needs."""
    folder = write_random_model(tmp_path_factory.mktemp("qwen3_4b") / "model", QWEN3_4B, topology.device)
    for file in model_dir.glob("tokenizer*"):
        shutil.copy(file, folder)
    return folder


@pytest.mark.parametrize("name", ROLLOUTS)
def test_rollouts_and_trainer_agree_before_and_after_a_sync(
    name: str, topology: Topology, model_dir: Path, record: Record
) -> None:
    config = run_config(model_dir, rollout=ROLLOUTS[name])
    if reasons := machine_refusals(config, this_machine()):
        pytest.skip("; ".join(reasons))
    policy = PolicyModel(config.model, config.parallel, topology)
    vocabulary = Architecture.from_hf(model_dir).vocab_size
    prompts = random_prompts(16, vocabulary=vocabulary, shortest=64, longest=256)
    with VllmEngine(model_dir, config.rollout, seed=0, colocated=True) as engine:
        require_log_prob_semantics(engine)
        load_weights(engine, policy.weights())
        found = against_rollout(policy, engine, prompts, n=4, max_tokens=128)
        goal = Goal("at most", 0.02) if name == "bf16" else None
        record(f"|Δ log p| of {name} rollouts, mean", found.difference.mean, "nats", goal)
        record(f"|Δ log p| of {name} rollouts, max", found.difference.max, "nats")
        record(f"k3 KL of {name} rollouts", found.difference.k3, "nats")
        record(f"effective sample size of {name} rollouts", found.effective_sample_size)
        perturb(policy, 0.1, seed=2)
        stale = against_rollout(policy, engine, prompts, n=4, max_tokens=128)
        load_weights(engine, policy.weights())
        synced = against_rollout(policy, engine, prompts, n=4, max_tokens=128)
        record(f"|Δ log p| of {name} rollouts after a sync of changed weights", synced.difference.mean, "nats")
        assert stale.difference.mean > 3 * synced.difference.mean
        assert synced.difference.mean < (0.2 if name == "bf16" else 0.6)


@pytest.mark.parametrize("runner", RUNNERS)
def test_each_model_runner_keeps_seeds_scores_and_takes_weights(
    runner: str, topology: Topology, model_dir: Path, monkeypatch: pytest.MonkeyPatch, record: Record
) -> None:
    """CPU tests have only V1. On a GPU, vLLM takes V2 for some families since 0.24 and for all since 0.32."""
    monkeypatch.setenv("VLLM_USE_V2_MODEL_RUNNER", str(int(runner == "V2")))
    config = run_config(model_dir, rollout=BF16)
    policy = PolicyModel(config, topology)
    prompts = random_prompts(8, vocabulary=Architecture.from_hf(model_dir).vocab_size, shortest=64, longest=256)

    def sampled(engine: VllmEngine, first_seed: int) -> list[tuple[int, ...]]:
        groups = engine.generate(prompts, 2, seeds=range(first_seed, first_seed + 8), max_tokens=32, stop=[])
        return [response.token_ids for group in groups for response in group]

    with VllmEngine(model_dir, BF16, seed=0, colocated=True) as engine:
        (own,) = engine.llm.collective_rpc(lambda worker: type(worker.model_runner).__module__)
        assert own.startswith(RUNNERS[runner]), "the engine did not take the runner that was asked for"
        require_log_prob_semantics(engine)  # processed log-probabilities, over the whole vocabulary
        once, other = sampled(engine, 0), sampled(engine, 100)
        assert sampled(engine, 0) == once, "the same seeds, after other work, give the same tokens"
        assert len({*once, *other}) == 2 * len(once), "every sample has noise of its own"
        perturb(policy, 0.1, seed=2)
        stale = against_rollout(policy, engine, prompts, n=2, max_tokens=64)
        load_weights(engine, policy.weights())
        synced = against_rollout(policy, engine, prompts, n=2, max_tokens=64)
        record(f"|Δ log p| under model runner {runner}, after reload_weights", synced.difference.mean, "nats")
        assert stale.difference.mean > 3 * synced.difference.mean


def test_a_sleeping_engine_gives_its_memory_back(topology: Topology, model_dir: Path, record: Record) -> None:
    prompts = random_prompts(4, vocabulary=1000, shortest=32, longest=64)
    with VllmEngine(model_dir, BF16, seed=0, colocated=True) as engine:
        awake = engine.generate(prompts, 1, seeds=range(4), max_tokens=16, stop=[])
        free_awake = torch.cuda.mem_get_info()[0]
        engine.sleep()
        freed = torch.cuda.mem_get_info()[0] - free_awake
        engine.wake()
        record("memory that a sleeping engine gives back", freed / GIB, "GiB")
        assert freed > 0.8 * 0.3 * torch.cuda.mem_get_info()[1] - 4 * GIB
        assert engine.generate(prompts, 1, seeds=range(4), max_tokens=16, stop=[]) == awake


@pytest.mark.parametrize("name", ROLLOUTS)
def test_time_of_a_weight_sync_at_the_size_of_qwen3_4b(
    name: str, topology: Topology, model_4b: Path, record: Record
) -> None:
    config = run_config(model_4b, rollout=ROLLOUTS[name])
    if reasons := machine_refusals(config, this_machine()):
        pytest.skip("; ".join(reasons))
    policy = PolicyModel(config.model, config.parallel, topology)
    with VllmEngine(model_4b, config.rollout, seed=0, colocated=True) as engine:
        found = time_sync(policy, engine)
    del policy
    gc.collect()
    record(f"weight sync to {name} rollouts, 4B, colocated", found.seconds, "s", Goal("at most", 0.5))
    record(f"the same as a multiple of one device copy, {name}", found.seconds / found.copy_seconds, "x")


def test_a_second_engine_of_the_process_finds_the_memory_of_the_first(
    topology: Topology, model_dir: Path, record: Record
) -> None:
    """A second engine must find the memory, so that a failed engine can be replaced."""
    prompts = random_prompts(4, vocabulary=1000, shortest=32, longest=64)
    free, answers = torch.cuda.mem_get_info()[0], []
    for number in ("first", "second"):
        with VllmEngine(model_dir, BF16, seed=0, colocated=True) as engine:
            answers.append(engine.generate(prompts, 1, seeds=range(4), max_tokens=16, stop=[]))
        kept = (free - torch.cuda.mem_get_info()[0]) / GIB
        record(f"memory that the {number} engine keeps after its end", kept, "GiB")
        assert kept < 4  # of 40; CUDA's libraries stay
    first_tokens = [[group[0].token_ids[0] for group in groups] for groups in answers]
    assert first_tokens[0] == first_tokens[1]
