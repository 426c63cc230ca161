"""NeMo 2 checkpoints without NeMo: the keys that it requires, reading back, and refusals.

The keys and shapes below are those that NeMo 2.7.3 wrote for such models (tests/system/test_nemo_exchange.py runs NeMo
itself if it is installed).
"""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from megatron_pz.checkpoint import nemo_checkpoint
from megatron_pz.config.schema import ModelConfig, ParallelConfig
from megatron_pz.hf.architecture import Architecture
from megatron_pz.hf.checkpoint import HFTensorSource
from megatron_pz.model.gpt import build_chunks
from megatron_pz.model.hf_mapping import load_hf_weights
from megatron_pz.model.transformer_config import transformer_config
from megatron_pz.runtime.errors import BadInput
from tests.conftest import TINY_VOCAB_SIZE

from megatron.core.models.gpt import GPTModel  # isort: skip

QWEN3_KEYS = {
    "embedding.word_embeddings.weight": (TINY_VOCAB_SIZE, 64),
    "decoder.layers.self_attention.linear_qkv.layer_norm_weight": (2, 64),
    "decoder.layers.self_attention.linear_qkv.weight": (2, (4 + 2 * 2) * 32, 64),
    "decoder.layers.self_attention.q_layernorm.weight": (2, 32),
    "decoder.layers.self_attention.k_layernorm.weight": (2, 32),
    "decoder.layers.self_attention.linear_proj.weight": (2, 64, 4 * 32),
    "decoder.layers.mlp.linear_fc1.layer_norm_weight": (2, 64),
    "decoder.layers.mlp.linear_fc1.weight": (2, 2 * 96, 64),
    "decoder.layers.mlp.linear_fc2.weight": (2, 64, 96),
    "decoder.final_layernorm.weight": (64,),
    "output_layer.weight": (TINY_VOCAB_SIZE, 64),
}


pytestmark = pytest.mark.usefixtures("topology")


def built(folder: Path, divisible_by: int = 1) -> tuple[GPTModel, Architecture]:
    """Return a model whose weights are all zero."""
    arch = Architecture.from_hf(folder)
    config = transformer_config(
        arch, ModelConfig(bf16=False, make_vocab_size_divisible_by=divisible_by), ParallelConfig()
    )
    (model,) = build_chunks(arch, config)
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
    return model, arch


@pytest.fixture
def written(tiny_qwen3_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, GPTModel]:
    """Return a NeMo checkpoint without a context, and the model in it."""
    model, arch = built(tiny_qwen3_dir)
    load_hf_weights(model, arch, HFTensorSource(tiny_qwen3_dir))
    monkeypatch.setattr(nemo_checkpoint, "_write_context", lambda folder, *_: folder.mkdir())
    nemo_checkpoint.save_nemo(tmp_path / "nemo", model, arch, tiny_qwen3_dir)
    return tmp_path / "nemo", model


def test_the_keys_are_nemos(written: tuple[Path, GPTModel]) -> None:
    folder, _ = written
    assert sorted(path.name for path in folder.iterdir()) == ["context", "weights"]
    assert [path.name for path in folder.parent.iterdir()] == ["nemo"]
    shapes = nemo_checkpoint.tensor_shapes(folder / "weights")
    assert shapes == {f"module.{key}": shape for key, shape in QWEN3_KEYS.items()}


def test_transformer_engines_layers_find_their_scaling_states(written: tuple[Path, GPTModel]) -> None:
    """Each module in each layer has an empty state; Megatron-Core's loader fails on a module without one."""
    from torch.distributed.checkpoint import FileSystemReader

    folder, _ = written
    keys = FileSystemReader(folder / "weights").read_metadata().state_dict_metadata
    modules = ("core_attention", "linear_qkv", "linear_proj", "q_layernorm", "k_layernorm")
    names = [f"self_attention.{module}" for module in modules] + ["mlp.linear_fc1", "mlp.linear_fc2"]
    expected = {f"module.decoder.layers.{name}._extra_state/shard_{n}_2" for name in names for n in (0, 1)}
    assert {key for key in keys if "_extra_state" in key} == {
        *expected,
        "module.decoder.final_layernorm._extra_state/shard_0_1",
    }


def test_what_was_written_is_read_bit_for_bit_into_another_padding(
    written: tuple[Path, GPTModel], tiny_qwen3_dir: Path
) -> None:
    folder, source = written
    (folder / "weights" / "common.pt").write_bytes(b"pickles of classes that are not installed here")
    model, arch = built(tiny_qwen3_dir, divisible_by=128)
    nemo_checkpoint.load_nemo_weights(folder, model, arch)
    wanted = dict(source.named_parameters())
    for name, weight in model.named_parameters():
        rows = len(wanted[name])
        assert torch.equal(weight[:rows], wanted[name]), name
        assert not weight[rows:].any(), name


def test_another_model_is_refused(written: tuple[Path, GPTModel], tiny_llama_dir: Path, tiny_qwen3_dir: Path) -> None:
    folder, _ = written
    model, arch = built(tiny_llama_dir)
    with pytest.raises(BadInput, match=r"another model than --hf-model: \S+ has shape \[\d.*\] instead of"):
        nemo_checkpoint.load_nemo_weights(folder, model, arch)
    model, arch = built(tiny_qwen3_dir)
    with pytest.raises(BadInput, match=r"word_embeddings.weight has shape \[331, 64\] instead of"):
        nemo_checkpoint.load_nemo_weights(folder, model, replace(arch, vocab_size=332))


def test_damage_is_one_line(written: tuple[Path, GPTModel], tiny_qwen3_dir: Path) -> None:
    folder, _ = written
    model, arch = built(tiny_qwen3_dir)
    (data,) = (folder / "weights").glob("*.distcp")
    data.write_bytes(data.read_bytes()[: data.stat().st_size // 2])
    with pytest.raises(BadInput, match="cannot be loaded") as refusal:
        nemo_checkpoint.load_nemo_weights(folder, model, arch)
    assert "\n" not in str(refusal.value)
    shutil.rmtree(folder / "weights")
    with pytest.raises(BadInput, match=r"is not a NeMo 2 checkpoint: it has no weights/\.metadata"):
        nemo_checkpoint.load_nemo_weights(folder, model, arch)


def test_a_failed_save_leaves_nothing(tiny_qwen3_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    model, arch = built(tiny_qwen3_dir)
    monkeypatch.setattr(nemo_checkpoint, "_write_context", full)
    with pytest.raises(BadInput, match=r"cannot be written: rank 0: .*No space left"):
        nemo_checkpoint.save_nemo(tmp_path / "nemo", model, arch, tiny_qwen3_dir)
    assert not list(tmp_path.iterdir())


def test_families_without_a_nemo_form(tiny_qwen3_dir: Path) -> None:
    arch = Architecture.from_hf(tiny_qwen3_dir)
    nemo_checkpoint.refuse_family(arch)
    for family in ("smollm3", "qwen3_moe"):
        with pytest.raises(BadInput, match=f"^{family} is not converted to or from NeMo 2"):
            nemo_checkpoint.refuse_family(replace(arch, model_type=family))


def test_writing_without_nemo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nemo", None)  # importing it fails
    with pytest.raises(BadInput, match=r"cannot be imported here .* nemo-toolkit\[llm\]==2\.7\.3") as refusal:
        nemo_checkpoint.require_nemo()
    assert "\n" not in str(refusal.value)
