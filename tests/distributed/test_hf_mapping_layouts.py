"""Hugging Face weights in tensor, sequence and pipeline parallel layouts, and the conversion tool across layouts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, Qwen3Config, Qwen3ForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM

from tests.support.torchrun import ROOT, run_workers

WORKER = Path(__file__).parent / "workers" / "hf_mapping_worker.py"
TOOL = ROOT / "tools" / "convert_checkpoint.py"


@pytest.fixture
def four_layers_dir(tmp_path: Path) -> Path:
    """Return a random tied Qwen3 of four layers, which two pipeline stages can also share unevenly."""
    config = Qwen3Config(
        vocab_size=331,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng():
        torch.manual_seed(5)
        model = Qwen3ForCausalLM(config).float()
        for weight in model.parameters():
            weight.data.normal_(1.0 if weight.dim() == 1 else 0.0, 0.2)
    model.save_pretrained(tmp_path / "four_layers")
    return tmp_path / "four_layers"


def _layouts_that_pass(folder: Path, nproc: int, *layouts: str) -> list[str]:
    output = run_workers(WORKER, nproc, folder, *layouts)
    return [line.removeprefix("OK ") for line in output.splitlines() if line.startswith("OK ")]


def test_untied_qwen3_in_layouts_of_two(tiny_qwen3_dir: Path) -> None:
    layouts = ["tp2", "tp2,sp", "pp2"]
    assert _layouts_that_pass(tiny_qwen3_dir, 2, *layouts) == layouts


def test_tied_llama_in_layouts_of_two(tiny_llama_dir: Path) -> None:
    layouts = ["tp2", "pp2"]
    assert _layouts_that_pass(tiny_llama_dir, 2, *layouts) == layouts


def test_four_ranks_and_stages_of_unequal_length(four_layers_dir: Path) -> None:
    layouts = ["tp2,pp2", "tp2,sp,pp2,first1", "pp2,first3"]  # the last with two data parallel ranks
    assert _layouts_that_pass(four_layers_dir, 4, *layouts) == layouts


def test_conversion_to_megatron_and_back_is_exact_across_layouts(tiny_qwen3_dir: Path, tmp_path: Path) -> None:
    """Weights written by two tensor ranks and read by two stages keep their bits, and transformers loads them."""
    megatron, back = tmp_path / "megatron", tmp_path / "hf"
    to_megatron = ("hf-to-megatron", "--hf-model", tiny_qwen3_dir, "--save", megatron)
    run_workers(TOOL, 2, *to_megatron, "--tensor-model-parallel-size", 2)
    assert (megatron / "latest_checkpointed_iteration.txt").read_text().strip() == "0"
    assert (megatron / "iter_0000000").is_dir()
    refused = run_workers(TOOL, 1, *to_megatron, expect_failure=True)
    assert f"error: {megatron} holds checkpoints already; give --save a new directory" in refused

    to_hf = ("megatron-to-hf", "--load", megatron, "--hf-model", tiny_qwen3_dir, "--save", back)
    run_workers(TOOL, 2, *to_hf, "--pipeline-model-parallel-size", 2)
    _assert_same_weights(tiny_qwen3_dir, back)
    assert AutoModelForCausalLM.from_pretrained(back).dtype == torch.float32


def test_experts_are_converted_too(tmp_path: Path) -> None:
    """Weights of two ranks with two of the four experts each are read by two ranks with half of every expert."""
    source, megatron, back = tmp_path / "source", tmp_path / "megatron", tmp_path / "hf"
    config = Qwen3MoeConfig(
        vocab_size=331,
        hidden_size=32,
        intermediate_size=48,
        moe_intermediate_size=24,
        num_experts=4,
        num_experts_per_tok=2,
        norm_topk_prob=True,
        num_hidden_layers=2,
        mlp_only_layers=[0],
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
    )
    Qwen3MoeForCausalLM(config).float().save_pretrained(source)
    to_megatron = ("hf-to-megatron", "--hf-model", source, "--save", megatron)
    run_workers(TOOL, 2, *to_megatron, "--expert-model-parallel-size", 2)
    to_hf = ("megatron-to-hf", "--load", megatron, "--hf-model", source, "--save", back)
    run_workers(TOOL, 2, *to_hf, "--tensor-model-parallel-size", 2)
    _assert_same_weights(source, back)


def _assert_same_weights(source: Path, back: Path) -> None:
    before, after = (load_file(folder / "model.safetensors") for folder in (source, back))
    assert before.keys() == after.keys()
    assert all(before[name].dtype == after[name].dtype and torch.equal(before[name], after[name]) for name in before)
