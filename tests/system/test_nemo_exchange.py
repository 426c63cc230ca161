"""Weights to NeMo 2 and back, judged by NeMo's own exporter and importer, where NeMo is installed.

This runs in a separate environment, on a machine without a GPU. NeMo trains in Transformer Engine's layers, for which
tests/stand_ins is used. The weights pass through NeMo's model, its checkpoints and its mapping of the weights.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.support.torchrun import ROOT, run_workers

TOOL = ROOT / "tools" / "convert_checkpoint.py"
NEMO_SIDE = Path(__file__).parent / "workers" / "nemo_side.py"

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("nemo") is None,
        reason="nemo-toolkit 2.7.3 is not installed (the extra nemo, in an environment of its own)",
    ),
    pytest.mark.skipif(torch.cuda.is_available(), reason="its stand-ins answer NeMo on a machine without a GPU"),
]


@pytest.fixture
def qwen3_dir(tmp_path: Path, tiny_tokenizer_dir: Path) -> Path:
    """Return a random bfloat16 Qwen3 with the head size that NeMo's importer assumes."""
    from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

    sizes = {"vocab_size": 331, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 128}
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = Qwen3ForCausalLM(Qwen3Config(**sizes, **heads, tie_word_embeddings=False)).bfloat16()
        for weight in model.parameters():
            weight.data.normal_(1.0 if weight.dim() == 1 else 0.0, 0.2)
    model.save_pretrained(tmp_path / "qwen3")
    AutoTokenizer.from_pretrained(tiny_tokenizer_dir).save_pretrained(tmp_path / "qwen3")
    return tmp_path / "qwen3"


def nemo_side(way: str, family: str, source: Path, target: Path) -> None:
    path = os.pathsep.join([str(ROOT / "tests" / "stand_ins"), str(ROOT)])
    run_workers(NEMO_SIDE, 1, way, family, source, target, env={"PYTHONPATH": path}, timeout=300)


def assert_same_bits(folder: Path, other: Path) -> None:
    """Require every tensor of the first in the second. NeMo also exports a tied output layer."""
    wanted, found = (load_file(each / "model.safetensors") for each in (folder, other))
    assert wanted.keys() <= found.keys()
    assert found.keys() - wanted.keys() <= {"lm_head.weight"}
    for name, weight in wanted.items():
        assert weight.dtype == found[name].dtype
        assert torch.equal(weight, found[name]), name


@pytest.mark.timeout(900)
@pytest.mark.parametrize("family", ["qwen3", "llama"])
def test_nemo_and_this_package_read_each_other(family: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    source = request.getfixturevalue({"qwen3": "qwen3_dir", "llama": "tiny_llama_dir"}[family])
    model = ("--hf-model", source)
    run_workers(TOOL, 1, "hf-to-megatron", *model, "--save", tmp_path / "megatron")
    written = tmp_path / "written"
    run_workers(TOOL, 1, "megatron-to-nemo", "--load", tmp_path / "megatron", *model, "--save", written, timeout=300)
    nemo_side("export", family, written, tmp_path / "exported")
    assert_same_bits(source, tmp_path / "exported")

    nemo_side("import", family, source, tmp_path / "nemo")
    run_workers(TOOL, 1, "nemo-to-megatron", "--load", tmp_path / "nemo", *model, "--save", tmp_path / "read")
    run_workers(TOOL, 1, "megatron-to-hf", "--load", tmp_path / "read", *model, "--save", tmp_path / "back")
    assert_same_bits(source, tmp_path / "back")
