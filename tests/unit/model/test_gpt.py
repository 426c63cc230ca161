"""GPTModel and HybridModel have the same names, values and checkpoints.

Forward passes are equal bit for bit. The backward pass of the same model differs in the last bits
between calls on a CPU, so gradients, and weights after a step, are compared up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

from megatron_pz.checkpoint.loader import load_checkpoint
from megatron_pz.checkpoint.sharded_state import ModelState
from megatron_pz.checkpoint.writer import save_checkpoint
from megatron_pz.config.schema import ModelConfig, OptimizerConfig, ParallelConfig
from megatron_pz.hf.architecture import Architecture
from megatron_pz.hf.checkpoint import HFTensorSource
from megatron_pz.model import gpt
from megatron_pz.model.hf_mapping import load_hf_weights
from megatron_pz.model.layout import layers_of_stages
from megatron_pz.model.packed_forward import packed_forward
from megatron_pz.model.transformer_config import transformer_config
from megatron_pz.rl.packing import LossWeighting, pack_groups
from megatron_pz.trainer.optimizer import wrap
from tests.support.packed_reference import objective, random_groups

from megatron.core.dist_checkpointing.dict_utils import nested_values  # isort: skip
from megatron.core.dist_checkpointing.mapping import apply_factories  # isort: skip

needs_hybrid_model = pytest.mark.skipif(
    not gpt.HAS_HYBRID_MODEL,
    reason="megatron-core before 0.18 has no HybridModel: ./tests/run.sh versions",
)
CLASSES = ("GPTModel", "HybridModel")
RESPONSES = 5


@pytest.fixture(scope="module")
def tiny_mixture_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory of a random Qwen3-MoE: a dense layer, then one with experts."""
    folder = tmp_path_factory.mktemp("mixture")
    config = Qwen3MoeConfig(
        vocab_size=331,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        mlp_only_layers=[0],
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=24,
        tie_word_embeddings=False,
    )
    with torch.random.fork_rng():
        torch.manual_seed(3)
        Qwen3MoeForCausalLM(config).float().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=["tiny_qwen3_dir", "tiny_llama_dir", "tiny_smollm3_dir", "tiny_mixture_dir"])
def hf_dir(request: pytest.FixtureRequest) -> Path:
    """Return a model with QK norm, a tied one, a tied one with a layer without RoPE, and one with experts."""
    return request.getfixturevalue(request.param)


@dataclass
class Trained:
    """A model of one of the two classes with its optimizer."""

    arch: Architecture
    model: torch.nn.Module

    def __post_init__(self) -> None:
        self.chunks, self.optimizer = wrap([self.model], OptimizerConfig(lr=1e-2), ParallelConfig(), bf16=False)

    def step(self) -> torch.Tensor:
        """Make a step of the optimizer; return the output of the forward pass before it, [R, 2]."""
        groups = random_groups(self.arch.vocab_size, [(9, [3, 2])], seed=1)
        weights = LossWeighting.of(groups, "sequence_mean", 100)
        (batch,) = pack_groups(groups, micro_batch_tokens=64, loss_weights=weights, pad_to_multiple=8)
        self.chunks[0].zero_grad_buffer()
        output_R2 = packed_forward(self.chunks[0], batch)
        objective(output_R2[:, 0], batch, RESPONSES).backward()
        self.chunks[0].finish_grad_sync()
        self.optimizer.step()
        return output_R2.detach()

    def gradients(self) -> dict[str, torch.Tensor]:
        return {name: weight.main_grad.clone() for name, weight in self.model.named_parameters()}

    def weights(self) -> dict[str, torch.Tensor]:
        return {name: weight.detach() for name, weight in self.model.named_parameters()}

    def state(self) -> ModelState:
        return ModelState(self.chunks, self.optimizer)


@pytest.fixture
def trained(hf_dir: Path, topology: object, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Trained]]:
    """Build a model of the class with this name, with the weights of the Hugging Face directory."""
    arch = Architecture.from_hf(hf_dir)

    def build(name: str) -> Trained:
        monkeypatch.setattr(gpt, "HAS_HYBRID_MODEL", name == "HybridModel")
        config = transformer_config(arch, ModelConfig(hf_model=str(hf_dir), bf16=False), ParallelConfig())
        model = gpt.build_model(arch, config)
        assert type(model).__name__ == name
        load_hf_weights(model, arch, HFTensorSource(hf_dir))
        return Trained(arch, model)

    yield build


def assert_equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert list(found) == list(expected)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


@needs_hybrid_model
def test_both_classes_give_the_same_values(trained: Callable[[str], Trained]) -> None:
    old, new = (trained(name) for name in CLASSES)
    tokens, positions = torch.arange(14).view(2, 7), torch.arange(7).expand(2, 7)
    assert torch.equal(old.model(tokens, positions, None), new.model(tokens, positions, None))
    assert torch.equal(old.step(), new.step())
    assert_equal(new.gradients(), old.gradients())
    assert_equal(new.weights(), old.weights())


@needs_hybrid_model
def test_both_classes_store_the_same_tensors(trained: Callable[[str], Trained]) -> None:
    described = []
    for name in CLASSES:
        state = trained(name).model.sharded_state_dict()
        apply_factories(state)
        described.append(
            sorted(str((each.key, each.global_shape, each.global_offset)) for each in nested_values(state))
        )
        assert not any("output_layer._extra_state" in line for line in described[-1])
    assert described[0] == described[1]


@needs_hybrid_model
@pytest.mark.parametrize(("writer", "reader"), [CLASSES, CLASSES[::-1]])
def test_a_checkpoint_of_either_class_is_the_others(
    trained: Callable[[str], Trained], writer: str, reader: str, tmp_path: Path
) -> None:
    first, second = trained(writer), trained(reader)
    first.step()
    save_checkpoint(tmp_path, 1, first.chunks, first.optimizer, common={}, per_rank={})
    load_checkpoint(tmp_path, {"": second.state()})
    for name, weight in first.weights().items():
        assert torch.equal(second.weights()[name], weight), name
    assert torch.equal(first.step(), second.step())
    assert_equal(second.weights(), first.weights())


@pytest.mark.parametrize(
    ("parallel", "pattern"),
    [
        ({}, "********"),
        ({"pipeline_model_parallel_size": 2}, "****|****"),
        ({"pipeline_model_parallel_size": 2, "virtual_pipeline_model_parallel_size": 2}, "**|**|**|**"),
        (
            {
                "pipeline_model_parallel_size": 3,
                "decoder_first_pipeline_num_layers": 1,
                "decoder_last_pipeline_num_layers": 3,
            },
            "*|****|***",
        ),
        (
            {
                "pipeline_model_parallel_size": 2,
                "virtual_pipeline_model_parallel_size": 2,
                "decoder_first_pipeline_num_layers": 2,
            },
            "*|***|*|***",
        ),
    ],
)
def test_the_pattern_has_the_layers_of_every_stage(parallel: dict[str, int], pattern: str) -> None:
    arch = Architecture("qwen3", 8, 32, 48, 4, 2, 16, 331, 64, 1e-6, 1e6, tied_embeddings=False)
    layout = ParallelConfig(**parallel)
    config = transformer_config(arch, ModelConfig(bf16=False), layout)
    assert gpt._layer_pattern(config) == pattern
    stages, parts = layout.pipeline_model_parallel_size, pattern.split("|")
    assert [sum(map(len, parts[stage::stages])) for stage in range(stages)] == layers_of_stages(8, layout)
