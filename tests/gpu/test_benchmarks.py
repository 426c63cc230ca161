"""Speed at the shape of Qwen3-4B, as ratios to what the GPU itself can do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.gpu.log_prob_kernel import compare
from benchmarks.gpu.measure import matrix_rate
from benchmarks.gpu.random_model import QWEN3_4B, write_random_model
from benchmarks.gpu.results import Goal
from benchmarks.gpu.update_rate import measure_updates, random_groups
from megatron_pz.config.schema import ModelConfig, TrainingConfig
from megatron_pz.config.validate_precision import machine_refusals
from megatron_pz.model.precision import this_machine
from megatron_pz.planning.memory import GIB, plan_memory
from megatron_pz.trainer.policy import Policy
from megatron_pz.trainer.topology import Topology
from tests.gpu.conftest import Record, run_config

pytestmark = pytest.mark.timeout(580)  # the first test also writes a model of 8 GB
ROW_TOKENS = 8192
"""One group: a prompt of 1024 and 8 responses of 896 tokens."""
FP8 = ModelConfig(fp8_format="hybrid", fp8_recipe="tensorwise")
_seconds: dict[str, float] = {}


@pytest.fixture(scope="module")
def model_4b(tmp_path_factory: pytest.TempPathFactory, topology: Topology) -> Path:
    return write_random_model(tmp_path_factory.mktemp("qwen3_4b") / "model", QWEN3_4B, topology.device)


@pytest.fixture(scope="module")
def bf16_rate(topology: Topology) -> float:
    return matrix_rate(topology.device, torch.bfloat16)


@pytest.mark.parametrize(("name", "model"), [("bf16", ModelConfig()), ("FP8 tensorwise", FP8)])
def test_update_at_the_shape_of_qwen3_4b(
    name: str, model: ModelConfig, topology: Topology, model_4b: Path, bf16_rate: float, record: Record
) -> None:
    config = run_config(model_4b, model)
    if reasons := machine_refusals(config, this_machine()):
        pytest.skip("; ".join(reasons))
    groups = random_groups(QWEN3_4B.vocab_size, prompt=1024, response=896, responses=8, count=4)
    torch.cuda.reset_peak_memory_stats()
    found = measure_updates(Policy(config.model, config.parallel, config.optimizer, topology), groups, ROW_TOKENS)
    _seconds[name] = found.seconds
    record("bf16 matrix rate", bf16_rate / 1e12, "TFLOP/s")
    record(f"update, {name}, {found.tokens} tokens", found.seconds, "s")
    goal = Goal("at least", 0.45) if name == "bf16" else None
    record(f"update, {name}", found.rate / bf16_rate, "of the bf16 matrix rate", goal)
    record(f"peak of memory, update, {name}", torch.cuda.max_memory_allocated() / GIB, "GiB")
    if name == "bf16":
        training = TrainingConfig(micro_batch_tokens=ROW_TOKENS)
        plan = plan_memory(QWEN3_4B, replace(config, training=training), gpus=1, card_gib=80)
        planned = max(stage.updating() for stage in plan.stages)
        record("the same, over what is planned", torch.cuda.max_memory_allocated() / planned, "x")
    if name != "bf16" and "bf16" in _seconds:
        record("update, FP8 tensorwise against bf16", _seconds["bf16"] / found.seconds, "x", Goal("at least", 1.25))


def test_update_of_many_short_responses(topology: Topology, model_4b: Path, bf16_rate: float, record: Record) -> None:
    """Attention needs a kernel call per response; this measures 100 of them in a row."""
    groups = random_groups(QWEN3_4B.vocab_size, prompt=300, response=48, responses=8, count=24)
    config = run_config(model_4b)
    policy = Policy(config.model, config.parallel, config.optimizer, topology)
    found = measure_updates(policy, groups, ROW_TOKENS)
    record(f"update, short responses, {found.tokens} tokens", found.seconds, "s")
    record("update, short responses", found.rate / bf16_rate, "of the bf16 matrix rate")


def test_log_probs_against_materialised_logits(topology: Topology, record: Record) -> None:
    found = compare(4096, QWEN3_4B.hidden_size, QWEN3_4B.vocab_size, topology.device, torch.bfloat16)
    record("linear + log-prob, 4096 tokens, vocabulary 151,936", found.seconds * 1e3, "ms")
    record("the same against materialised logits", found.speed_up, "x", Goal("at least", 1.5))
    record("the same, share of their memory", found.memory_share, "", Goal("at most", 1 / 8))
    record("the same, multiple of its three matrix products", found.seconds / found.floor_seconds, "x")
    assert found.log_prob_error < 0.05
    assert found.gradient_error < 0.05
