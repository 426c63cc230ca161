"""A checkpoint records its model's architecture, because shapes show neither RoPE's theta nor a padded vocabulary."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from megatron_pz.checkpoint.loader import load_checkpoint, load_model_weights
from megatron_pz.checkpoint.sharded_state import ModelState
from megatron_pz.checkpoint.writer import save_checkpoint
from megatron_pz.config.schema import ModelConfig, ParallelConfig
from megatron_pz.hf.architecture import Architecture, Experts
from megatron_pz.model.gpt import build_chunks
from megatron_pz.model.transformer_config import transformer_config
from megatron_pz.runtime.errors import BadInput

if TYPE_CHECKING:
    from megatron_pz.trainer.topology import Topology

ARCH = Architecture(
    model_type="qwen3",
    num_layers=2,
    hidden_size=32,
    ffn_hidden_size=48,
    num_attention_heads=4,
    num_query_groups=2,
    kv_channels=16,
    vocab_size=331,
    max_position_embeddings=128,
    layernorm_epsilon=1e-6,
    rotary_base=1e6,
    tied_embeddings=False,
)


def model_of(arch: Architecture) -> list[torch.nn.Module]:
    chunks = build_chunks(arch, transformer_config(arch, ModelConfig(bf16=False), ParallelConfig()))
    for weight in chunks[0].parameters():
        weight.data.fill_(0.5)
    return list(chunks)


@pytest.fixture(scope="module")
def stored(topology: Topology, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    save_checkpoint(folder, 3, model_of(ARCH), None, common={}, per_rank={})
    return folder


def test_the_same_architecture_is_loaded(stored: Path) -> None:
    load_checkpoint(stored, {"": ModelState(model_of(ARCH), None)})
    load_model_weights(stored, model_of(ARCH))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"rotary_base": 1e4}, "a model with rope_theta 1000000.0, and the config.json of --hf-model has 10000.0"),
        ({"layernorm_epsilon": 1e-5}, "rms_norm_eps 1e-06, and the config.json of --hf-model has 1e-05"),
        ({"vocab_size": 300}, "vocab_size 331, and the config.json of --hf-model has 300"),
        ({"vocab_size": 384}, "vocab_size 331, and the config.json of --hf-model has 384"),
        ({"vocab_size": 500}, "vocab_size 331, and the config.json of --hf-model has 500"),
        ({"num_attention_heads": 2, "kv_channels": 32}, "num_attention_heads 4, and the config.json of --hf-model has"),
        ({"num_layers": 1}, "num_hidden_layers 2, and the config.json of --hf-model has 1"),
        ({"tied_embeddings": True}, "tie_word_embeddings False, and the config.json of --hf-model has True"),
        ({"model_type": "llama"}, "model_type qwen3, and the config.json of --hf-model has llama"),
        (
            {"model_type": "qwen3_moe", "experts": Experts(4, 2, 24, True, (True, True))},
            "model_type qwen3, and the config.json of --hf-model has qwen3_moe",
        ),
    ],
)
def test_another_architecture_is_refused_before_anything_is_loaded(change: dict, words: str, stored: Path) -> None:
    chunks = model_of(dataclasses.replace(ARCH, **change))
    for load in (
        lambda: load_checkpoint(stored, {"": ModelState(chunks, None)}),
        lambda: load_model_weights(stored, chunks),
    ):
        with pytest.raises(BadInput) as refusal:
            load()
        assert words in str(refusal.value)
        assert "\n" not in str(refusal.value)


def test_a_checkpoint_without_an_architecture_says_so(
    stored: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Checkpoints of earlier versions have no architecture."""
    old = Path(shutil.copytree(stored, tmp_path / "old"))
    header = old / "iter_0000003" / "run_state.json"
    content = json.loads(header.read_text())
    del content["architecture"]
    header.write_text(json.dumps(content))
    load_model_weights(old, model_of(ARCH))
    assert "was written before checkpoints stored their architecture" in capsys.readouterr().err
