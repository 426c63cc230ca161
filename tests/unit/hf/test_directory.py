"""The reader of a Hugging Face directory: the files that count, and the comparison of tensors with config.json."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, Qwen3Config, Qwen3MoeConfig

from megatron_pz.hf.architecture import Architecture
from megatron_pz.hf.checkpoint import HFTensorSource
from megatron_pz.hf.directory import INDEX, SINGLE, checkpoint_shapes, is_read_alike, require_end_tokens, stored_tensors
from megatron_pz.hf.expected_tensors import expected_shapes
from megatron_pz.runtime.errors import BadInput
from tests.support.torchrun import ROOT

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def write_index(folder: Path, places: dict[str, str]) -> None:
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": places}))


def changed(source: Path, folder: Path, change: dict[str, torch.Tensor | None], **config: object) -> Path:
    """Copy a checkpoint with tensors replaced, added or (None) removed, and keys of config.json set."""
    shutil.copytree(source, folder)
    tensors = {**load_file(folder / SINGLE), **change}
    save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, folder / SINGLE)
    raw = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**raw, **config}))
    return folder


def require(folder: Path) -> None:
    HFTensorSource(folder).require(Architecture.from_hf(folder))


@pytest.mark.parametrize("name", ["tiny_llama_dir", "tiny_qwen3_dir", "tiny_smollm3_dir"])
def test_the_expected_tensors_are_those_that_transformers_saves(name: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(name)
    saved = {name: tuple(tensor.shape) for name, tensor in load_file(folder / SINGLE).items()}
    assert expected_shapes(Architecture.from_hf(folder)) == saved
    require(folder)


def test_the_experts_are_among_them(tmp_path: Path) -> None:
    config = Qwen3MoeConfig(
        vocab_size=331,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=24,
        mlp_only_layers=[1],
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    saved = {name: tuple(tensor.shape) for name, tensor in load_file(tmp_path / SINGLE).items()}
    assert expected_shapes(Architecture.from_hf(tmp_path)) == saved


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model.layers.0.self_attn.q_proj.bias": torch.zeros(48)}, "layers.0.self_attn.q_proj.bias, for which"),
        ({"model.layers.1.mlp.down_proj.bias": torch.zeros(64)}, "mlp.down_proj.bias, for which config.json's llama"),
        ({"model.layers.0.self_attn.q_norm.weight": torch.ones(16)}, "self_attn.q_norm.weight, for which"),
        ({"model.layers.99.input_layernorm.weight": torch.ones(64)}, "model.layers.99.input_layernorm.weight, for"),
        ({"score.weight": torch.ones(2, 64)}, "score.weight, for which"),
        ({f"stray.{number}": torch.ones(1) for number in range(5)}, "stray.0, stray.1, stray.2 and 2 more, for which"),
        ({"model.norm.weight": None}, "the weights lack model.norm.weight"),
        ({"model.norm.weight": torch.ones(65)}, "model.norm.weight has shape [65] where config.json implies [128]"),
        ({"model.norm.weight": torch.ones(128, dtype=torch.int8)}, "model.norm.weight has dtype I8"),
    ],
)
def test_a_tensor_without_a_place_is_refused(
    change: dict[str, torch.Tensor | None], words: str, tiny_llama_dir: Path, tmp_path: Path
) -> None:
    folder = changed(tiny_llama_dir, tmp_path / "model", change)
    with pytest.raises(BadInput) as refusal:
        require(folder)
    assert words in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("name", ["model.layers.0.self_attn.rotary_emb.inv_freq", "model.rotary_emb.inv_freq"])
def test_inverse_frequencies_are_harmless(name: str, tiny_llama_dir: Path, tmp_path: Path) -> None:
    folder = changed(tiny_llama_dir, tmp_path / "model", {name: torch.ones(8)})
    require(folder)
    assert name not in checkpoint_shapes(folder, tied_head=False)
    assert name not in dict(HFTensorSource(folder).stream(tied_head=False))


def test_a_tied_head_may_only_be_a_copy_of_the_embedding(tiny_qwen3_dir: Path, tmp_path: Path) -> None:
    embedding = load_file(tiny_qwen3_dir / SINGLE)[EMBEDDING]
    other = embedding.clone()
    other[-1, -1] += 1
    require(changed(tiny_qwen3_dir, tmp_path / "same", {HEAD: embedding.clone()}, tie_word_embeddings=True))
    require(changed(tiny_qwen3_dir, tmp_path / "absent", {HEAD: None}, tie_word_embeddings=True))
    with pytest.raises(BadInput, match=r"tie_word_embeddings true, but lm_head\.weight differs"):
        require(changed(tiny_qwen3_dir, tmp_path / "other", {HEAD: other}, tie_word_embeddings=True))
    require(changed(tiny_qwen3_dir, tmp_path / "untied", {HEAD: other}, tie_word_embeddings=False))


def test_a_single_file_counts_whatever_lies_beside_it(tmp_path: Path) -> None:
    """As in transformers, neither a stale index nor another safetensors file changes the result."""
    AutoModelForCausalLM.from_config(
        Qwen3Config(
            vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2, head_dim=16
        )
    ).save_pretrained(tmp_path)
    true = load_file(tmp_path / SINGLE)
    zeros = {name: torch.zeros_like(tensor) for name, tensor in true.items()}
    assert is_read_alike(tmp_path, stored_tensors(tmp_path))
    save_file({"adapter": torch.zeros(1)}, tmp_path / "adapter_model.safetensors")
    assert not is_read_alike(tmp_path, stored_tensors(tmp_path))
    (tmp_path / "adapter_model.safetensors").unlink()
    save_file(zeros, tmp_path / "model-00001-of-00001.safetensors")
    write_index(tmp_path, dict.fromkeys(zeros, "model-00001-of-00001.safetensors"))
    source, loaded = HFTensorSource(tmp_path), AutoModelForCausalLM.from_pretrained(tmp_path).state_dict()
    for name, tensor in source.stream(tied_head=False):
        assert torch.equal(tensor, loaded[name]) and torch.equal(tensor, true[name])
    assert not is_read_alike(tmp_path, source.stored)
    write_index(tmp_path, dict.fromkeys(zeros, "gone.safetensors"))
    assert stored_tensors(tmp_path).keys() == true.keys()


def test_the_index_says_which_of_two_tensors_counts(tmp_path: Path) -> None:
    save_file({"a": torch.full((2,), 1.0), "b": torch.zeros(3)}, tmp_path / "one.safetensors")
    save_file({"a": torch.full((2,), 2.0), "c": torch.zeros(4)}, tmp_path / "two.safetensors")
    for file, value in (("one.safetensors", 1.0), ("two.safetensors", 2.0)):
        write_index(tmp_path, {"a": file, "b": "one.safetensors", "c": "two.safetensors"})
        source = HFTensorSource(tmp_path)
        assert source.slices("a")[:].tolist() == [value, value]
        assert not is_read_alike(tmp_path, source.stored)


@pytest.mark.parametrize(
    ("places", "words"),
    [
        ({"b": "one.safetensors", "c": "two.safetensors"}, "both hold a, and"),
        ({"a": "one.safetensors", "c": "one.safetensors"}, "one.safetensors lacks c, which"),
        ({"a": "gone.safetensors"}, "lacks gone.safetensors, which"),
        ({"a": 3}, "has no weight_map"),
    ],
)
def test_an_index_that_does_not_describe_its_shards_is_refused(places: dict, words: str, tmp_path: Path) -> None:
    save_file({"a": torch.zeros(2), "b": torch.zeros(3)}, tmp_path / "one.safetensors")
    save_file({"a": torch.zeros(2), "c": torch.zeros(4)}, tmp_path / "two.safetensors")
    write_index(tmp_path, places)
    with pytest.raises(BadInput) as refusal:
        stored_tensors(tmp_path)
    assert words in str(refusal.value)


def test_a_tensor_that_the_index_leaves_out_is_found(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(2), "stray": torch.zeros(3)}, tmp_path / "one.safetensors")
    write_index(tmp_path, {"a": "one.safetensors"})
    assert stored_tensors(tmp_path).keys() == {"a", "stray"}


def test_a_link_to_nothing_is_no_file(tmp_path: Path) -> None:
    (tmp_path / SINGLE).symlink_to(tmp_path / "gone")
    with pytest.raises(BadInput, match=r"neither model\.safetensors nor"):
        stored_tensors(tmp_path)


def test_the_reader_needs_no_torch(tiny_llama_dir: Path) -> None:
    script = (
        "import sys, pathlib; from megatron_pz.hf import directory, expected_tensors, architecture; "
        f"folder = pathlib.Path({str(tiny_llama_dir)!r}); "
        "tensors = directory.stored_tensors(folder); "
        "expected_tensors.require_expected_tensors(folder, tensors, architecture.Architecture.from_hf(folder)); "
        "assert tensors and 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT)


@pytest.mark.parametrize("ids", [None, 0, [0, 330], []])
def test_end_tokens_are_one_id_or_several_or_none(tmp_path: Path, ids: object) -> None:
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": ids}))
    require_end_tokens(tmp_path, 331)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('{"eos_token_id": "2"}', "eos_token_id '2' is not a token of the model, which has 331"),
        ('{"eos_token_id": [0, 331]}', "eos_token_id 331 is not a token"),
        ('{"eos_token_id": [[0]]}', r"eos_token_id \[0\] is not a token"),
        ('{"eos_token_id": -1}', "eos_token_id -1 is not a token"),
        ('{"eos_token_id": true}', "eos_token_id True is not a token"),
        ('{"eos_token', "generation_config.json cannot be read"),
    ],
)
def test_end_tokens_that_no_engine_would_find_are_refused(tmp_path: Path, content: str, reason: str) -> None:
    """vLLM starts silently with each of them."""
    (tmp_path / "generation_config.json").write_text(content)
    with pytest.raises(BadInput, match=reason):
        require_end_tokens(tmp_path, 331)


def test_end_tokens_behind_a_link_to_nothing_are_refused(tmp_path: Path) -> None:
    require_end_tokens(tmp_path, 331)
    (tmp_path / "generation_config.json").symlink_to(tmp_path / "gone")
    with pytest.raises(BadInput, match="has no generation_config"):
        require_end_tokens(tmp_path, 331)


def test_an_adapter_beside_the_weights_is_refused(tiny_llama_dir: Path, tmp_path: Path) -> None:
    """transformers applies it, but vLLM and Megatron do not."""
    folder = changed(tiny_llama_dir, tmp_path / "m", {})
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(BadInput, match=r"holds an adapter \(adapter_config\.json\)"):
        require(folder)
