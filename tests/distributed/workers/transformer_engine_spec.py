"""Check the GPU's layer spec on the CPU.

``python transformer_engine_spec.py QWEN3_DIR LLAMA_DIR`` needs tests/stand_ins first on
PYTHONPATH. Megatron-Core's wrappers of Transformer Engine are real; the wrapped modules are stand-ins.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
import transformer_engine.pytorch as te

from megatron_pz.checkpoint.loader import load_checkpoint, load_model_weights
from megatron_pz.checkpoint.sharded_state import ModelState
from megatron_pz.checkpoint.writer import save_checkpoint
from megatron_pz.config.schema import GrpoConfig, ModelConfig, ParallelConfig, RunConfig
from megatron_pz.hf.checkpoint import HFTensorSource
from megatron_pz.model import layers
from megatron_pz.model.attention import SharedPromptAttention
from megatron_pz.model.hf_mapping import hf_tensor_names
from megatron_pz.rl.losses import policy_loss
from megatron_pz.rl.packing import LossWeighting
from megatron_pz.trainer import policy as policy_module
from megatron_pz.trainer.policy import Policy, PolicyModel
from megatron_pz.trainer.topology import Topology
from tests.support.packed_reference import Reference, random_groups, reference

from megatron.core.extensions import transformer_engine as wrappers  # isort: skip

LOCAL_LAYER = layers._local_layer
SHAPES = [(20, (6, 9, 4)), (11, (5, 5, 3))]
FP8 = {"delayed": "TEDelayedScaling", "tensorwise": "Float8CurrentScaling", "blockwise": "Float8BlockScaling"}


def built(folder: Path, topology: Topology, model: ModelConfig) -> PolicyModel:
    return PolicyModel(replace(model, hf_model=str(folder)), ParallelConfig(), topology)


def largest_difference(policy: PolicyModel, expected: Reference) -> float:
    """Return the largest |log p - log p of transformers| over the response tokens of packed rows."""
    groups = random_groups(policy.architecture.vocab_size, SHAPES, seed=3)
    rows = policy.micro_batches(groups, LossWeighting.of(groups, "token_mean", 1), 64)
    assert all(row.tokens_S.numel() % policy.packed_shape.length_multiple == 0 for row in rows)
    largest = 0.0
    for row, log_probs_R in zip(rows, policy.log_probs(rows), strict=True):
        for number in range(int(row.response_index_R.max()) + 1):
            here = row.response_index_R == number
            wanted_R = expected.log_probs[tuple(row.labels_R[here].tolist())]
            largest = max(largest, float((log_probs_R[here] - wanted_R).abs().max()))
    return largest


def check_modules(policy: PolicyModel) -> None:
    """Check fused norms, our attention, and that the mapping knows every parameter by a distinct name."""
    (model,) = policy.chunks
    for layer in model.decoder.layers:
        assert type(layer.self_attention.linear_qkv) is wrappers.TELayerNormColumnParallelLinear
        assert type(layer.mlp.linear_fc1) is wrappers.TELayerNormColumnParallelLinear
        assert type(layer.self_attention.linear_proj) is type(layer.mlp.linear_fc2) is wrappers.TERowParallelLinear
        assert type(layer.self_attention.core_attention) is SharedPromptAttention
        if policy.architecture.family.qk_norm:
            norms = (layer.self_attention.q_layernorm, layer.self_attention.k_layernorm)
            assert all(type(norm) is te.RMSNorm for norm in norms)
    assert type(model.decoder.final_layernorm) is te.RMSNorm
    names = [name for name, _ in model.named_parameters()]
    assert "decoder.layers.0.self_attention.linear_qkv.layer_norm_weight" in names
    assert "decoder.layers.1.mlp.linear_fc1.layer_norm_weight" in names
    behind = [hf for name in names for hf in hf_tensor_names(name, model, policy.architecture).hf_names[0]]
    assert len(behind) == len(set(behind))


def linear_layers(policy: PolicyModel) -> Iterator[te.Linear]:
    """Return Transformer Engine's linear layers, in order."""
    return (module for module in policy.chunks[0].modules() if isinstance(module, te.Linear))


def check_fp8(folder: Path, topology: Topology, expected: Reference) -> None:
    """Check that each recipe reaches the layers, except the output layer and layers that stay in bfloat16."""
    in_bf16 = largest_difference(built(folder, topology, ModelConfig()), expected)
    for recipe, name in FP8.items():
        policy = built(folder, topology, ModelConfig(fp8_format="hybrid", fp8_recipe=recipe))
        difference = largest_difference(policy, expected)
        assert in_bf16 < difference < 1.0, (recipe, in_bf16, difference)
        assert policy.packed_shape.equal_counts is (recipe == "delayed")
        used = {used for layer in linear_layers(policy) for used in layer.used}
        assert used == {name}, (recipe, used)
    model = ModelConfig(fp8_format="e4m3", first_last_layers_bf16=True, num_layers_at_end_in_bf16=0)
    policy = built(folder, topology, model)
    largest_difference(policy, expected)
    used_by = [{used for layer in linear_layers_of(layer) for used in layer.used} for layer in decoder_layers(policy)]
    assert used_by == [{None}, {"Float8CurrentScaling"}], used_by


def check_training_and_resume(folder: Path, topology: Topology) -> None:
    """Check that an update changes every weight, and that a checkpoint restores the scaling state of FP8."""
    config = RunConfig(
        model=ModelConfig(hf_model=str(folder), fp8_format="hybrid", fp8_recipe="delayed"),
        parallel=ParallelConfig(use_distributed_optimizer=True),
    )
    policy = Policy(config.model, config.parallel, config.optimizer, topology)
    before = {name: tensor.clone() for name, tensor in policy.weights()}
    groups = random_groups(policy.architecture.vocab_size, SHAPES, seed=3)
    rows = policy.micro_batches(groups, LossWeighting.of(groups, "sequence_mean", 16), 64)
    result = policy.update(rows, partial(policy_loss, grpo=GrpoConfig(mismatch_correction="off")), 1e-2)
    assert result.applied and 0 < result.grad_norm < float("inf")
    assert all(not torch.equal(before[name], tensor) for name, tensor in policy.weights())

    histories = [layer.amax_history for layer in linear_layers(policy)]
    assert histories and all(histories)
    with tempfile.TemporaryDirectory() as run:
        save_checkpoint(run, 1, policy.chunks, policy.optimizer, common={}, per_rank={})
        resumed = Policy(config.model, config.parallel, config.optimizer, topology)
        assert not any(layer.amax_history for layer in linear_layers(resumed))
        load_checkpoint(run, {"": ModelState(resumed.chunks, resumed.optimizer)})
        check_reading_on_a_cpu(folder, topology, Path(run), policy)
    assert [layer.amax_history for layer in linear_layers(resumed)] == histories
    assert all(torch.equal(*pair) for pair in zip(policy.log_probs(rows), resumed.log_probs(rows), strict=True))


def check_reading_on_a_cpu(folder: Path, topology: Topology, run: Path, written: PolicyModel) -> None:
    """Check a conversion of a GPU's checkpoint, for which the layers are Megatron-Core's local ones."""
    layers._local_layer = LOCAL_LAYER
    local = built(folder, topology, ModelConfig())
    layers._local_layer = layers._transformer_engine_layer
    assert not any(isinstance(module, te.Linear) for module in local.chunks[0].modules())
    load_model_weights(run, local.chunks)
    theirs = dict(written.weights())
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in local.weights())


def decoder_layers(policy: PolicyModel) -> list[torch.nn.Module]:
    return list(policy.chunks[0].decoder.layers)


def linear_layers_of(layer: torch.nn.Module) -> Iterator[te.Linear]:
    return (module for module in layer.modules() if isinstance(module, te.Linear))


def main(qwen3: Path, llama: Path) -> None:
    layers._local_layer = layers._transformer_engine_layer  # the specification that block_spec uses with a CUDA device
    policy_module.require_precision = lambda model, machine: None
    topology = Topology.start(ParallelConfig(), seed=1)
    for folder in (qwen3, llama):
        policy = built(folder, topology, ModelConfig(bf16=False))
        check_modules(policy)
        groups = random_groups(policy.architecture.vocab_size, SHAPES, seed=3)
        expected = reference(folder, groups)
        difference = largest_difference(policy, expected)
        assert difference < 1e-4, difference
        source, streamed = HFTensorSource(folder), dict(policy.weights())
        assert set(streamed) == set(source.names())
        assert all(torch.equal(tensor, source.slices(name)[:]) for name, tensor in streamed.items())
        if folder == qwen3:
            check_fp8(folder, topology, expected)
            check_training_and_resume(folder, topology)
        print(f"{policy.architecture.model_type}: log-probs within {difference:.1e} of transformers")
    topology.close()


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
