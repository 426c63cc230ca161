"""Hugging Face directories: shards, companions, and what is refused or cleaned up."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from megatron_pz.hf import checkpoint as hf_checkpoint
from megatron_pz.hf.architecture import Architecture
from megatron_pz.hf.checkpoint import HFTensorSource, save_hf
from megatron_pz.runtime.errors import BadInput


def stream_of(folder: Path, dtype: torch.dtype = torch.float32) -> Iterator[tuple[str, torch.Tensor]]:
    """The weights of a checkpoint, one by one."""
    source = HFTensorSource(folder)
    for name in source.names():
        yield name, source.slices(name)[:].to(dtype)


def save_copy(source: Path, out: Path, **options: int) -> None:
    save_hf(stream_of(source), Architecture.from_hf(source), source, out, **options)


@pytest.mark.parametrize("max_shard_bytes", [10**9, 60_000, 1])
def test_transformers_loads_what_is_saved_in_one_file_or_many(
    tiny_qwen3_dir: Path, tmp_path: Path, max_shard_bytes: int
) -> None:
    out = tmp_path / "run" / "hf"
    save_copy(tiny_qwen3_dir, out, max_shard_bytes=max_shard_bytes)
    expected = load_file(tiny_qwen3_dir / "model.safetensors")
    files = sorted(out.glob("*.safetensors"))
    if max_shard_bytes == 10**9:
        assert [file.name for file in files] == ["model.safetensors"]
    else:
        assert all(len(load_file(file)) == 1 or file.stat().st_size < max_shard_bytes + 4096 for file in files)
        assert len(files) == (len(expected) if max_shard_bytes == 1 else len(files)) > 1
        index = json.loads((out / "model.safetensors.index.json").read_text())
        assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in expected.values())
    again = AutoModelForCausalLM.from_pretrained(out).state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in expected.items())
    assert {name for name, _ in stream_of(out)} == expected.keys()
    assert [path.name for path in out.parent.iterdir()] == ["hf"]


def test_the_tokenizer_comes_along_and_the_configuration_tells_the_dtype(tiny_llama_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "hf"
    out.mkdir()  # an empty directory is as good as none
    save_hf(stream_of(tiny_llama_dir, torch.bfloat16), Architecture.from_hf(tiny_llama_dir), tiny_llama_dir, out)
    assert AutoModelForCausalLM.from_pretrained(out).dtype == torch.bfloat16
    text = "The railway reached the village in 1887."
    ids = AutoTokenizer.from_pretrained(out)(text).input_ids
    assert ids == AutoTokenizer.from_pretrained(tiny_llama_dir)(text).input_ids
    assert HFTensorSource(out).dtype == torch.bfloat16
    assert HFTensorSource(tiny_llama_dir).dtype == torch.float32


def test_an_output_that_is_not_empty_is_refused_and_kept(tiny_llama_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_text("precious")
    with pytest.raises(BadInput, match="is not an empty directory"):
        save_copy(tiny_llama_dir, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_a_source_of_another_architecture_is_refused(
    tiny_llama_dir: Path, tiny_qwen3_dir: Path, tmp_path: Path
) -> None:
    with pytest.raises(BadInput, match="holds another architecture"):
        save_hf(stream_of(tiny_llama_dir), Architecture.from_hf(tiny_llama_dir), tiny_qwen3_dir, tmp_path / "hf")


def test_a_full_disk_leaves_nothing_and_the_stream_runs_to_its_end(
    tiny_llama_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stream is a collective: were it left half way, the other ranks would wait in it for ever."""
    real_save, writes = hf_checkpoint.save_file, []

    def fails_at_the_second_file(*args: object, **kwargs: object) -> None:
        writes.append(args)
        if len(writes) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        real_save(*args, **kwargs)

    monkeypatch.setattr(hf_checkpoint, "save_file", fails_at_the_second_file)
    stream = stream_of(tiny_llama_dir)
    with pytest.raises(BadInput, match=r"cannot be written: .*No space left on device"):
        save_hf(stream, Architecture.from_hf(tiny_llama_dir), tiny_llama_dir, tmp_path / "hf", max_shard_bytes=1)
    assert len(writes) == 2
    assert next(stream, None) is None
    assert list(tmp_path.iterdir()) == []


def test_missing_or_damaged_weights_are_refused(tiny_qwen3_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"neither model\.safetensors nor"):
        HFTensorSource(tmp_path)

    single = tmp_path / "single"
    shutil.copytree(tiny_qwen3_dir, single)
    whole = (single / "model.safetensors").read_bytes()
    (single / "model.safetensors").write_bytes(whole[:-1000])
    with pytest.raises(BadInput, match=r"model\.safetensors is not a complete safetensors file"):
        HFTensorSource(single)

    sharded = tmp_path / "sharded"
    save_copy(tiny_qwen3_dir, sharded, max_shard_bytes=60_000)
    first = min(sharded.glob("*.safetensors"))
    first.unlink()
    with pytest.raises(BadInput, match=f"lacks {first.name}, which"):
        HFTensorSource(sharded)
    (sharded / "model.safetensors.index.json").write_text("{")
    with pytest.raises(BadInput, match=r"index\.json cannot be read"):
        HFTensorSource(sharded)


def test_only_the_slice_asked_for_is_read(tiny_qwen3_dir: Path) -> None:
    name = "model.layers.1.mlp.down_proj.weight"
    source = HFTensorSource(tiny_qwen3_dir)
    assert source.shape(name) == (64, 96)
    expected = load_file(tiny_qwen3_dir / "model.safetensors")[name]
    assert torch.equal(source.slices(name)[:, 48:96], expected[:, 48:96])
    with pytest.raises(BadInput, match=r"the weights lack model\.nothing"):
        source.shape("model.nothing")
