"""Hugging Face directories: shards, companions, refusals and clean-up."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from megatron_pz.hf import checkpoint as hf_checkpoint
from megatron_pz.hf.architecture import Architecture
from megatron_pz.hf.checkpoint import HFTensorSource, save_hf
from megatron_pz.runtime.errors import BadInput


def stream_of(folder: Path, dtype: torch.dtype = torch.float32) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the weights of a checkpoint, one by one."""
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
    out.mkdir()  # an empty directory counts as none
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
    """The stream is a collective; if it were abandoned, the other ranks would wait in it forever."""
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


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_weight_matrices_decide_the_dtype(dtype: torch.dtype, tiny_llama_dir: Path, tmp_path: Path) -> None:
    """Norms and stray buffers in float32 do not widen the dtype, in any order."""
    folder = Path(shutil.copytree(tiny_llama_dir, tmp_path / "model"))
    tensors = load_file(folder / "model.safetensors")
    mixed = {name: tensor.to(dtype) if tensor.dim() > 1 else tensor for name, tensor in tensors.items()}
    stray = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8), "zzz.rotary_emb.inv_freq": torch.ones(8)}
    save_file({**mixed, **stray}, folder / "model.safetensors")
    assert HFTensorSource(folder).dtype == dtype
    save_hf(HFTensorSource(folder).stream(tied_head=False), Architecture.from_hf(folder), folder, tmp_path / "hf")
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert {config[key] for key in ("dtype", "torch_dtype") if key in config} == {str(dtype).removeprefix("torch.")}


def test_companions_of_every_kind_come_along(tiny_llama_dir: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_llama_dir, tmp_path / "model"))
    files = [
        "NOTICE",
        "Notice.txt",
        "LICENSE.md",
        "USE_POLICY.md",
        "modeling_own.py",
        "chat_template.jinja",
        "additional_chat_templates/tool_use.jinja",
        "chat_templates/a/b.jinja",
        "tokenizer.model",
        "tokenizer_parts/vocab.txt",
    ]
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    left = ["pytorch_model.bin", "README.md", ".git/config", "optimizer.pt", "other.safetensors"]
    for name in left:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(name)
    save_copy(folder, tmp_path / "hf")
    assert all((tmp_path / "hf" / name).read_text() == name for name in files)
    assert not any((tmp_path / "hf" / name).exists() for name in left)


@pytest.mark.parametrize("name", ["tokenizer_old.json", "LICENSE", "modeling_x.py"])
def test_a_companion_that_cannot_be_copied_does_not_cost_the_export(
    name: str, tiny_llama_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(tiny_llama_dir, tmp_path / "model"))
    (folder / name).symlink_to(tmp_path / "gone")
    (folder / "chat_templates").mkdir()
    (folder / "chat_templates" / "x.jinja").symlink_to(tmp_path / "gone")
    save_copy(folder, tmp_path / "hf")
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "hf").dtype == torch.float32
    said = capsys.readouterr().err
    assert said.count("was not copied") == 2 and name in said


def test_an_earlier_export_stays_until_the_new_one_is_whole(
    tiny_llama_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arch, out = Architecture.from_hf(tiny_llama_dir), tmp_path / "hf"
    save_copy(tiny_llama_dir, out)
    before = (out / "model.safetensors").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(hf_checkpoint, "save_file", lambda *_, **__: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
        with pytest.raises(BadInput, match="full"):
            save_hf(stream_of(tiny_llama_dir), arch, tiny_llama_dir, out, replace=True)
    assert (out / "model.safetensors").read_bytes() == before
    zeros = ((name, torch.zeros_like(tensor)) for name, tensor in stream_of(tiny_llama_dir))
    save_hf(zeros, arch, tiny_llama_dir, out, replace=True)
    assert not load_file(out / "model.safetensors")["model.norm.weight"].any()
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]


@pytest.mark.parametrize(
    ("key", "value"),
    [("rope_theta", 77_000.0), ("rms_norm_eps", 3e-3), ("vocab_size", 777), ("max_position_embeddings", 64)],
)
def test_the_refusal_of_another_architecture_names_the_field_and_both_values(
    key: str, value: float, tiny_llama_dir: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny_llama_dir, tmp_path / "model"))
    raw = json.loads((folder / "config.json").read_text())
    raw.pop("rope_parameters", None)
    (folder / "config.json").write_text(json.dumps({**raw, key: value}))
    with pytest.raises(BadInput, match=rf"another architecture .*: {key} is {value} there and .* in the model"):
        save_hf(stream_of(tiny_llama_dir), Architecture.from_hf(tiny_llama_dir), folder, tmp_path / "hf")


def test_a_link_in_a_companion_brings_no_weights_along(
    tiny_llama_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A copy through a link to a parent directory would contain the weights forty times."""
    folder, out = tmp_path / "source", tmp_path / "out"
    shutil.copytree(tiny_llama_dir, folder)
    (folder / "chat_templates").mkdir()
    (folder / "chat_templates/up").symlink_to(folder)
    (folder / "chat_templates/x.jinja").touch()
    (folder / "tokenizer_here").symlink_to(".")
    save_copy(folder, out)
    assert [path.name for path in (out / "chat_templates").iterdir()] == ["x.jinja"]
    assert not (out / "tokenizer_here").exists()
    (line,) = capsys.readouterr().err.splitlines()
    assert "tokenizer_here was not copied" in line and "it leads to the checkpoint itself" in line


def test_an_export_goes_where_a_link_leads(
    tiny_llama_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "storage/hf")
    save_copy(tiny_llama_dir, tmp_path / "link")
    assert (tmp_path / "storage/hf/config.json").is_file()
    assert (tmp_path / "link").is_symlink()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    save_copy(tiny_llama_dir, Path())
    assert (tmp_path / "here/config.json").is_file()
