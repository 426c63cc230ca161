"""Hugging Face weights in a Megatron-Core model give transformers' logits, and are exported with the same bits."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    PreTrainedConfig,
    Qwen3Config,
    Qwen3MoeConfig,
    SmolLM3Config,
)

from megatron_pz.config.schema import ModelConfig, ParallelConfig
from megatron_pz.hf.architecture import Architecture
from megatron_pz.hf.checkpoint import HFTensorSource
from megatron_pz.model.gpt import build_model
from megatron_pz.model.hf_mapping import (
    Columns,
    GateUp,
    GroupedQKV,
    ShardLayout,
    Vocabulary,
    load_hf_weights,
)
from megatron_pz.model.hf_stream import stream_hf_weights
from megatron_pz.model.transformer_config import transformer_config
from megatron_pz.runtime.errors import BadInput

pytestmark = pytest.mark.usefixtures("topology")

SMALL = {"vocab_size": 331, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
NO_SPECIALS = {"pad_token_id": None, "bos_token_id": None, "eos_token_id": None}
VARIANTS: dict[str, PreTrainedConfig] = {
    "qwen3 tied, wide heads": Qwen3Config(**SMALL, **HEADS, head_dim=16, tie_word_embeddings=True),
    "qwen3 untied": Qwen3Config(**SMALL, **HEADS, head_dim=8, tie_word_embeddings=False),
    "qwen3, one key/value head": Qwen3Config(**SMALL, num_attention_heads=4, num_key_value_heads=1, head_dim=16),
    "llama tied": LlamaConfig(**SMALL, **HEADS, tie_word_embeddings=True),
    "llama untied, no grouping": LlamaConfig(**SMALL, num_attention_heads=4, tie_word_embeddings=False),
    "qwen3 with experts": Qwen3MoeConfig(**SMALL, **HEADS, **EXPERTS, head_dim=16, norm_topk_prob=True),
    "qwen3 with experts in the second layer, not normalised": Qwen3MoeConfig(
        **SMALL, **HEADS, **EXPERTS, head_dim=16, norm_topk_prob=False, decoder_sparse_step=2
    ),
    "qwen3 with experts, but not in the first layer": Qwen3MoeConfig(
        **SMALL, **HEADS, **EXPERTS, head_dim=16, norm_topk_prob=True, mlp_only_layers=[0]
    ),
    "qwen3 with one expert a token": Qwen3MoeConfig(
        **SMALL, **HEADS, **{**EXPERTS, "num_experts_per_tok": 1}, head_dim=16, norm_topk_prob=True
    ),
    "qwen3 with one expert a token, not normalised": Qwen3MoeConfig(
        **SMALL, **HEADS, **{**EXPERTS, "num_experts_per_tok": 1}, head_dim=16, norm_topk_prob=False
    ),
    "smollm3, second layer without RoPE": SmolLM3Config(**SMALL, **HEADS, **NO_SPECIALS, no_rope_layer_interval=2),
    "smollm3, first layer without RoPE": SmolLM3Config(**SMALL, **HEADS, **NO_SPECIALS, no_rope_layers=[0, 1, 1]),
}


@pytest.fixture(params=VARIANTS)
def checkpoint(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return random_checkpoint(VARIANTS[request.param], tmp_path)


def random_checkpoint(config: PreTrainedConfig, folder: Path) -> Path:
    """Write a float32 checkpoint in which every tensor, including norms, is random, so that swaps are detected."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        model = AutoModelForCausalLM.from_config(config).float()
        for weight in model.parameters():
            weight.data.normal_(1.0 if weight.dim() == 1 else 0.0, 0.2)
    model.save_pretrained(folder)
    return folder


def loaded_model(folder: Path, bf16: bool = False) -> tuple[torch.nn.Module, Architecture]:
    arch = Architecture.from_hf(folder)
    model = build_model(arch, transformer_config(arch, ModelConfig(bf16=bf16), ParallelConfig()))
    load_hf_weights(model, arch, HFTensorSource(folder))
    return model, arch


def test_logits_are_those_of_transformers_and_the_weights_come_back_bit_for_bit(checkpoint: Path) -> None:
    model, arch = loaded_model(checkpoint)
    input_ids_BS = torch.randint(arch.vocab_size, (2, 21), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits_BSV = model.eval()(input_ids_BS, torch.arange(21).expand(2, -1), attention_mask=None)
        expected_BSV = AutoModelForCausalLM.from_pretrained(checkpoint)(input_ids_BS).logits
    assert logits_BSV.shape == (2, 21, 384)
    assert expected_BSV.abs().max() > 0.5
    torch.testing.assert_close(logits_BSV[..., : arch.vocab_size], expected_BSV, rtol=0, atol=1e-4)

    streamed = dict(stream_hf_weights([model], arch))
    on_disk = load_file(checkpoint / "model.safetensors")
    assert streamed.keys() == on_disk.keys()
    assert all(torch.equal(streamed[name], on_disk[name]) for name in on_disk)


def test_bfloat16_weights_are_streamed_as_they_are(tiny_qwen3_dir: Path) -> None:
    model, arch = loaded_model(tiny_qwen3_dir, bf16=True)
    on_disk = load_file(tiny_qwen3_dir / "model.safetensors")
    for name, tensor in stream_hf_weights([model], arch):
        assert tensor.dtype == torch.bfloat16
        assert torch.equal(tensor, on_disk[name].bfloat16()), name


def test_the_padding_of_the_vocabulary_is_zero(tiny_qwen3_dir: Path) -> None:
    model, arch = loaded_model(tiny_qwen3_dir)
    for weight in (model.embedding.word_embeddings.weight, model.output_layer.weight):
        assert weight.shape[0] == 384
        assert not weight[arch.vocab_size :].any()
        assert weight[: arch.vocab_size].any(dim=1).all()


def test_a_checkpoint_that_contradicts_its_configuration_is_refused(tmp_path: Path) -> None:
    folder = random_checkpoint(VARIANTS["llama untied, no grouping"], tmp_path)
    weights = load_file(folder / "model.safetensors")
    key, norm = "model.layers.1.self_attn.k_proj.weight", "model.norm.weight"

    save_file({**weights, key: weights[key][:16].clone()}, folder / "model.safetensors")
    with pytest.raises(BadInput, match=r"layers\.1\.self_attn\.k_proj.* shape \[16, 32\] .* implies \[32, 32\]"):
        loaded_model(folder)
    save_file({name: tensor for name, tensor in weights.items() if name != norm}, folder / "model.safetensors")
    with pytest.raises(BadInput, match=r"the weights lack model\.norm\.weight"):
        loaded_model(folder)
    save_file({**weights, "model.layers.3.mlp.up_proj.weight": torch.ones(48, 32)}, folder / "model.safetensors")
    with pytest.raises(BadInput, match=r"the weights hold model\.layers\.3\.mlp\.up_proj\.weight, for which"):
        loaded_model(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_weight_that_is_not_finite_is_refused(value: float, tmp_path: Path) -> None:
    folder = random_checkpoint(VARIANTS["llama untied, no grouping"], tmp_path)
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.1.self_attn.k_proj.weight"][3, 5] = value
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(BadInput, match=r"layers\.1\.self_attn\.k_proj\.weight.* holds NaN or infinity"):
        loaded_model(folder)


def test_queries_keys_and_values_lie_group_by_group() -> None:
    """For two groups of two heads of one channel, worked by hand, Megatron's order is q0 q1 k0 v0, q2 q3 k1 v1."""
    arch = SimpleNamespace(num_attention_heads=4, num_query_groups=2, kv_channels=1)
    q = torch.tensor([[0.0], [1.0], [2.0], [3.0]])
    k, v = torch.tensor([[10.0], [11.0]]), torch.tensor([[20.0], [21.0]])
    whole = GroupedQKV().cut((q, k, v), (8, 1), 0, arch)
    assert whole.flatten().tolist() == [0, 1, 10, 20, 2, 3, 11, 21]
    second_rank = GroupedQKV().cut((q, k, v), (4, 1), 1, arch)
    assert second_rank.flatten().tolist() == [2, 3, 11, 21]


@pytest.mark.parametrize(
    ("layout", "shard"),
    [(Columns(), (5, 4)), (GateUp(), (8, 5)), (GroupedQKV(), (16, 5)), (Vocabulary(), (8, 5))],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("ranks", [1, 3])
def test_what_is_cut_for_the_ranks_joins_to_what_was_there(layout: ShardLayout, shard: tuple, ranks: int) -> None:
    """The vocabulary of 7 leaves padding on rank 0 of one, and only padding on two of three ranks."""
    arch = SimpleNamespace(num_attention_heads=6 * ranks, num_query_groups=2 * ranks, kv_channels=2, vocab_size=7)
    if isinstance(layout, GroupedQKV):
        shard = (2 * 5 * 2, 5)  # two groups of three queries, a key and a value, of two channels each
    shapes = layout.hf_shapes(shard, ranks, arch)
    tensors = [torch.randn(shape, generator=torch.Generator().manual_seed(i)) for i, shape in enumerate(shapes)]
    shards = [layout.cut(tensors, shard, rank, arch) for rank in range(ranks)]
    assert all(part.shape == shard for part in shards)
    joined = layout.join(shards, arch)
    assert len(joined) == len(tensors)
    assert all(torch.equal(after, before) for after, before in zip(joined, tensors, strict=True))
