"""Planned sizes, compared with the actual allocations of Megatron-Core."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from megatron.core import parallel_state, tensor_parallel
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.testing._internal.distributed.fake_pg import FakeStore

from megatron_pz.config.parse import load_yaml
from megatron_pz.config.schema import ModelConfig, OptimizerConfig, ParallelConfig, RolloutConfig, RunConfig
from megatron_pz.config.validate_parallel import expert_tensor_parallel_size
from megatron_pz.model.gpt import build_chunks
from megatron_pz.model.transformer_config import transformer_config
from megatron_pz.planning.memory import GIB, data_parallel_sizes, layer_activations, plan_memory, stage_activations
from megatron_pz.planning.parameters import ShardSize, model_size, shard_sizes
from megatron_pz.runtime.errors import BadInput
from megatron_pz.trainer.policy import Policy
from megatron_pz.trainer.topology import Topology
from tests.support.published_models import PUBLISHED, architecture
from tools import plan_cluster

ROOT = Path(__file__).resolve().parents[3]

LAYOUTS: dict[str, tuple[str, dict[str, Any]]] = {
    "dense": ("qwen3_0.6b", {}),
    "a head of its own": ("qwen3_8b", {"tensor_model_parallel_size": 2}),
    "tied over stages": ("qwen3_4b", {"tensor_model_parallel_size": 2, "pipeline_model_parallel_size": 4}),
    "uneven stages": ("smollm2_135m", {"pipeline_model_parallel_size": 3, "decoder_first_pipeline_num_layers": 8}),
    "interleaved": (
        "smollm3_3b",
        {"pipeline_model_parallel_size": 2, "virtual_pipeline_model_parallel_size": 3, "context_parallel_size": 2},
    ),
    "experts": ("qwen3_30b_a3b", {"expert_model_parallel_size": 8, "pipeline_model_parallel_size": 2}),
    "cut experts": (
        "qwen3_30b_a3b",
        {
            "tensor_model_parallel_size": 4,
            "sequence_parallel": True,
            "expert_model_parallel_size": 4,
            "expert_tensor_parallel_size": 2,
        },
    ),
}
GPUS = 48


@contextmanager
def one_of_many(parallel: ParallelConfig, stage: int, gpus: int = GPUS) -> Iterator[None]:
    """Imitate the first process of a pipeline stage, without the other processes of the run."""
    rank = stage * (gpus // parallel.pipeline_model_parallel_size)
    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=gpus)
    chunks = parallel.virtual_pipeline_model_parallel_size
    parallel_state.initialize_model_parallel(
        parallel.tensor_model_parallel_size,
        parallel.pipeline_model_parallel_size,
        chunks if chunks > 1 else None,
        context_parallel_size=parallel.context_parallel_size,
        expert_model_parallel_size=parallel.expert_model_parallel_size,
        expert_tensor_parallel_size=expert_tensor_parallel_size(parallel),
        create_gloo_process_groups=False,
    )
    tensor_parallel.model_parallel_cuda_manual_seed(1)
    try:
        yield
    finally:
        parallel_state.destroy_model_parallel()
        dist.destroy_process_group()


@pytest.mark.skipif(torch.cuda.is_available(), reason="Transformer Engine's layers do not build without memory")
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_stage_has_as_many_parameters_as_megatron_builds(layout: str, tmp_path: Path) -> None:
    name, settings = LAYOUTS[layout]
    arch, parallel = architecture(name, tmp_path), ParallelConfig(**settings)
    model = ModelConfig()
    for stage, expected in enumerate(shard_sizes(arch, model, parallel)):
        with one_of_many(parallel, stage), torch.device("meta"):
            built = build_chunks(arch, transformer_config(arch, model, parallel))
            weights = [weight for chunk in built for weight in chunk.parameters()]
            ranks = (
                parallel_state.get_data_parallel_world_size(with_context_parallel=True),
                parallel_state.get_expert_data_parallel_world_size(),
            )
        of_experts = sum(weight.numel() for weight in weights if not getattr(weight, "allreduce", True))
        assert expected == ShardSize(sum(weight.numel() for weight in weights) - of_experts, of_experts)
        assert data_parallel_sizes(parallel, GPUS) == ranks


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_whole_model_is_as_large_as_the_published_one(name: str, tmp_path: Path) -> None:
    assert model_size(architecture(name, tmp_path)) == PUBLISHED[name]["parameters"]


@pytest.mark.parametrize("bf16", [False, True])
def test_states_are_as_large_as_those_of_a_real_policy(bf16: bool, tiny_qwen3_dir: Path) -> None:
    config = RunConfig(model=ModelConfig(hf_model=str(tiny_qwen3_dir), bf16=bf16))
    topology = Topology.start(config.parallel, seed=1)
    policy = Policy(config.model, config.parallel, config.optimizer, topology)
    wrapped = policy.chunks[0]
    gradients = sum(weight.main_grad.nbytes for weight in wrapped.parameters())
    weights = sum(weight.nbytes for weight in wrapped.parameters())
    for weight in wrapped.parameters():
        weight.main_grad.zero_()
    policy.optimizer.step()
    moments = sum(
        tensor.nbytes
        for state in policy.optimizer.optimizer.state.values()
        for name, tensor in state.items()
        if name.startswith("exp_avg")
    )
    masters = sum(weight.nbytes for group in policy.optimizer.param_groups for weight in group["params"]) if bf16 else 0
    arch = policy.architecture
    topology.close()

    (planned,) = plan_memory(arch, config, 1, 80).stages
    assert (planned.weights, planned.gradients) == (weights, gradients)
    assert planned.optimizer == moments + masters


@pytest.mark.skipif(torch.cuda.is_available(), reason="counts what the plain layers of a CPU keep")
@pytest.mark.parametrize("settings", [{}, {"tensor_model_parallel_size": 2, "sequence_parallel": True}])
def test_a_layer_keeps_what_is_planned_and_the_plain_layers_float32_copies(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    """The local layers keep more than Transformer Engine's: norms in float32, and every step of the gated MLP."""
    arch, parallel, tokens = architecture("qwen3_4b", tmp_path), ParallelConfig(**settings), 2048
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    with one_of_many(parallel, 0, gpus=2), FakeTensorMode():
        one_layer = dataclasses.replace(arch, num_layers=1)
        model = build_chunks(one_layer, transformer_config(one_layer, ModelConfig(bf16=True), parallel))
        layer = model[0].decoder.layers[0]
        own = tokens // (2 if parallel.sequence_parallel else 1)
        hidden = torch.empty(own, 1, arch.hidden_size, dtype=torch.bfloat16, requires_grad=True)
        angles = torch.empty(tokens, 1, 1, arch.kv_channels)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            layer(hidden, attention_mask=None, rotary_pos_emb=angles)
    weights = {weight.untyped_storage()._cdata for weight in layer.parameters()}
    found = sum(tensor.untyped_storage().nbytes() for key, tensor in kept.items() if key not in weights)

    tensor, sequence = parallel.tensor_model_parallel_size, tokens // own
    heads = (arch.num_attention_heads + arch.num_query_groups) * arch.kv_channels
    # float32 input and output of each norm; silu(gate), up and gate of the MLP separately
    copies = 2 * 2 * 4 * arch.hidden_size / sequence + 2 * 4 * heads / tensor + 2 * 2 * arch.ffn_hidden_size / tensor
    planned = layer_activations(arch, parallel, sparse=False)
    assert 0.9 < found / tokens / (planned + copies) < 1.1


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [36.0]),
        ({"recompute_granularity": "full", "recompute_num_layers": 2}, [18 * 1 / 23 + 2]),
        ({"recompute_granularity": "full", "recompute_method": "block", "recompute_num_layers": 35}, [35 / 23 + 2]),
        ({"pipeline_model_parallel_size": 3}, [36.0, 24.0, 12.0]),
        ({"pipeline_model_parallel_size": 2, "virtual_pipeline_model_parallel_size": 2}, [45.0, 45.0]),
        ({"context_parallel_size": 2}, [18.0]),
    ],
)
def test_layers_under_way(settings: dict[str, Any], expected: list[float], tmp_path: Path) -> None:
    """The unit is one layer of one whole row; a layer's input is 1/23 of it in this model."""
    arch = architecture("qwen3_4b", tmp_path)
    config = RunConfig(parallel=ParallelConfig(**settings))
    layer = layer_activations(arch, ParallelConfig(), sparse=False)
    assert layer / (2 * arch.hidden_size) == 23.0
    row = config.training.micro_batch_tokens * layer
    assert [of_stage / row for of_stage in stage_activations(arch, config)] == pytest.approx(expected)


def test_the_phases_of_a_step(tmp_path: Path) -> None:
    arch = architecture("qwen3_4b", tmp_path)
    awake = RunConfig(rollout=RolloutConfig(gpu_memory_utilization=0.5, sleep_during_update=False))
    asleep = dataclasses.replace(awake, rollout=dataclasses.replace(awake.rollout, sleep_during_update=True))
    aside = dataclasses.replace(asleep, optimizer=OptimizerConfig(rl_offload_optimizer_during_inference=True))
    plans = [plan_memory(arch, config, 8, 80) for config in (awake, asleep, aside)]
    assert plans[0].updating() - plans[1].updating() == 40 * GIB, "the engine's share"
    (stage,) = plans[1].stages
    assert plans[1].sampling() - plans[2].sampling() == stage.gradients + stage.optimizer
    # two bytes each for key and value of every layer
    engine = plans[0].engine
    assert engine.cache_tokens == int((40 * GIB - 2 * model_size(arch)) / (2 * 2 * 36 * 8 * 128))


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_recipe_fits_on_the_gpus_that_it_is_written_for(name: str, tmp_path: Path) -> None:
    gpus = {"qwen3_4b": 16, "qwen3_8b": 32, "qwen3_30b_a3b": 64}.get(name, 8)
    config = load_yaml(ROOT / "examples" / name / "config.yaml")
    plan = plan_memory(architecture(name, tmp_path), config, gpus, 80)
    assert plan.spare > 8 * GIB, "room for CUDA, NCCL and the allocator"


def test_the_tool_says_whether_it_fits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    architecture("qwen3_4b", tmp_path)
    recipe = ["--config", str(ROOT / "examples/qwen3_4b/config.yaml"), "--hf-model", str(tmp_path)]
    plan_cluster.main([*recipe, "--gpus", "16", "--gpu-memory", "80"])
    told = capsys.readouterr().out
    assert "GiB to spare" in told
    # 4.02 billion weights over two GPUs, each with a master weight and two moments in float32
    assert f"written or read: {4.0225e9 / 2 * 12 / 2**30:.1f} GiB for each" in told
    plan_cluster.main([*recipe, "--gpus", "16", "--gpu-memory", "80", "--no-overlap-grad-reduce"])
    # with one bucket, one of the three exists two more times
    assert f"written or read: {4.0225e9 / 2 * 20 / 2**30:.1f} GiB for each" in capsys.readouterr().out
    with pytest.raises(SystemExit) as refused:
        plan_cluster.main([*recipe, "--gpus", "16", "--gpu-memory", "40"])
    assert refused.value.code == 1 and "lacks " in capsys.readouterr().out
    with pytest.raises(SystemExit) as refused:
        plan_cluster.main([*recipe, "--gpus", "7", "--gpu-memory", "80"])
    assert refused.value.code == 2
    assert capsys.readouterr().err == "error: --gpus 7: the layout needs a multiple of 2\n"


def test_an_engine_without_room_for_its_weights_is_refused(tmp_path: Path) -> None:
    config = RunConfig(rollout=RolloutConfig(gpu_memory_utilization=0.05))
    with pytest.raises(BadInput, match="does not hold their weights"):
        plan_memory(architecture("qwen3_8b", tmp_path), config, 8, 80)
