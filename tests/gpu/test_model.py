"""Transformer Engine's layers in bfloat16 and FP8 against float32 on the CPU, on the same weights."""

from __future__ import annotations

import math
import os
from functools import partial
from pathlib import Path

import pytest
import torch

from benchmarks.gpu.agreement import against_reference
from benchmarks.gpu.attention_check import compare_attention
from megatron_pz.checkpoint.loader import load_checkpoint
from megatron_pz.checkpoint.sharded_state import ModelState
from megatron_pz.checkpoint.writer import save_checkpoint
from megatron_pz.config.schema import GrpoConfig, ModelConfig
from megatron_pz.config.validate_precision import machine_refusals
from megatron_pz.hf.architecture import Architecture
from megatron_pz.hf.checkpoint import HFTensorSource
from megatron_pz.model.precision import this_machine
from megatron_pz.model.transformer_config import transformer_config
from megatron_pz.rl.experience import ScoredGroup
from megatron_pz.rl.losses import policy_loss
from megatron_pz.rl.packing import LossWeighting
from megatron_pz.trainer.policy import Policy, PolicyModel
from megatron_pz.trainer.topology import Topology
from tests.gpu.conftest import Record, run_config
from tests.support.packed_reference import Reference, random_groups, reference

FP8 = {
    "hybrid delayed": ModelConfig(fp8_format="hybrid", fp8_recipe="delayed"),
    "hybrid tensorwise": ModelConfig(fp8_format="hybrid", fp8_recipe="tensorwise"),
    "hybrid tensorwise, ends in bf16": ModelConfig(fp8_format="hybrid", first_last_layers_bf16=True),
    "hybrid tensorwise, weights in FP8": ModelConfig(fp8_format="hybrid", fp8_param_gather=True),
    "e4m3 blockwise": ModelConfig(fp8_format="e4m3", fp8_recipe="blockwise"),
    "e4m3 mxfp8": ModelConfig(fp8_format="e4m3", fp8_recipe="mxfp8"),
}
PRECISIONS = {"float32": ModelConfig(bf16=False), "bfloat16": ModelConfig(), **FP8}
LARGEST_MEAN = {"float32": 1e-2, "bfloat16": 0.1}
"""Of |Δ log p|; float32 matrices of Transformer Engine are multiplied in TF32. FP8 is reported, and held below 0.5."""
SHAPES = [(160, (40, 40, 24, 40)), (96, (64, 16, 48))]


@pytest.fixture(params=PRECISIONS)
def precision(request: pytest.FixtureRequest, weights_dir: Path) -> tuple[str, ModelConfig]:
    model = PRECISIONS[request.param]
    reasons = machine_refusals(
        run_config(weights_dir, model, distributed_optimizer=model.fp8_param_gather), this_machine()
    )
    if reasons:
        pytest.skip("; ".join(reasons))
    return request.param, model


@pytest.fixture(scope="module")
def groups(weights_dir: Path) -> list[ScoredGroup]:
    return random_groups(Architecture.from_hf(weights_dir).vocab_size, SHAPES, seed=3)


@pytest.fixture(scope="module")
def expected(weights_dir: Path, groups: list[ScoredGroup]) -> Reference:
    torch.set_num_threads(len(os.sched_getaffinity(0)))  # all other tests want one
    return reference(weights_dir, groups)


def test_log_probs_by_precision(
    precision: tuple[str, ModelConfig],
    topology: Topology,
    weights_dir: Path,
    groups: list[ScoredGroup],
    expected: Reference,
    record: Record,
) -> None:
    name, model = precision
    config = run_config(weights_dir, model, distributed_optimizer=model.fp8_param_gather)
    difference = against_reference(PolicyModel(config.model, config.parallel, topology), groups, expected.log_probs)
    record(f"|Δ log p| against float32, {name}, mean", difference.mean, "nats")
    record(f"|Δ log p| against float32, {name}, max", difference.max, "nats")
    assert difference.mean < LARGEST_MEAN.get(name, 0.5)


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-4), (torch.bfloat16, 2e-2)])
def test_packed_attention(
    topology: Topology, weights_dir: Path, groups: list[ScoredGroup], dtype: torch.dtype, bound: float, record: Record
) -> None:
    config = run_config(weights_dir)
    policy = PolicyModel(config.model, config.parallel, topology)
    (row,) = policy.micro_batches(groups, LossWeighting.of(groups, "token_mean", 1), 4096)
    architecture = Architecture.from_hf(weights_dir)
    errors = compare_attention(
        row, transformer_config(architecture, config.model, config.parallel), topology.device, dtype
    )
    record(f"packed attention against float64, {dtype}, output", errors.output, "of its norm")
    record(f"packed attention against float64, {dtype}, gradients", errors.gradient, "of their norm")
    assert max(errors.output, errors.gradient) < bound


def update(policy: Policy, groups: list[ScoredGroup], times: int) -> list[float]:
    """Return the gradient norms of a number of optimizer steps."""
    rows = policy.micro_batches(groups, LossWeighting.of(groups, "sequence_mean", 64), 4096)
    loss = partial(policy_loss, grpo=GrpoConfig(mismatch_correction="off"))
    return [policy.update(rows, loss, 1e-6).grad_norm for _ in range(times)]


def test_a_run_in_this_precision_learns_and_resumes_exactly(
    precision: tuple[str, ModelConfig],
    topology: Topology,
    weights_dir: Path,
    groups: list[ScoredGroup],
    expected: Reference,
    tmp_path: Path,
    record: Record,
) -> None:
    """Under delayed scaling the checkpoint must restore the scales, or the log-probabilities would differ."""
    name, model = precision
    config = run_config(weights_dir, model, distributed_optimizer=True)
    policy = Policy(config.model, config.parallel, config.optimizer, topology)
    before = dict(policy.weights())
    before = {key: tensor.clone() for key, tensor in before.items()}
    norms = update(policy, groups, 2)
    record(f"gradient norm, {name}", norms[0])
    assert all(math.isfinite(norm) and norm > 0 for norm in norms)
    assert any(not torch.equal(before[key], tensor) for key, tensor in policy.weights())

    save_checkpoint(tmp_path / "run", 2, policy.chunks, policy.optimizer, common={}, per_rank={})
    rows = policy.micro_batches(groups, LossWeighting.of(groups, "token_mean", 1), 4096)
    continued = [update(policy, groups, 1), policy.log_probs(rows)]
    resumed = Policy(config.model, config.parallel, config.optimizer, topology)
    load_checkpoint(tmp_path / "run", {"": ModelState(resumed.chunks, resumed.optimizer)})
    again = [update(resumed, groups, 1), resumed.log_probs(rows)]
    assert again[0] == continued[0]
    assert all(torch.equal(*pair) for pair in zip(again[1], continued[1], strict=True))


def test_weights_kept_in_fp8_are_exported_as_bfloat16(topology: Topology, weights_dir: Path) -> None:
    model = FP8["hybrid tensorwise, weights in FP8"]
    config = run_config(weights_dir, model, distributed_optimizer=True)
    if reasons := machine_refusals(config, this_machine()):
        pytest.skip("; ".join(reasons))
    source = HFTensorSource(weights_dir)
    streamed = dict(PolicyModel(config.model, config.parallel, topology).weights())
    assert {type(tensor) for tensor in streamed.values()} == {torch.Tensor}
    assert {tensor.dtype for tensor in streamed.values()} == {torch.bfloat16}
    rounded = 0
    for name, tensor in streamed.items():
        values = source.slices(name)[:].float()
        error = float((tensor.cpu().float() - values).norm() / values.norm())
        assert error < 0.05, name
        rounded += error > 0.005
    assert rounded > len(streamed) // 4, "no weight was kept in FP8"
