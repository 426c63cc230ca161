"""A weight stream is compared with the checkpoint by tensor, because vLLM itself accepts stale weights."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from megatron_pz.hf.directory import checkpoint_shapes, has_tied_head, read_hf_config
from megatron_pz.rollout.weight_sync import complete_stream
from megatron_pz.runtime.errors import BadInput

SHAPES = {"a": (2, 3), "b": (4,)}


def streamed(*tensors: tuple[str, torch.Tensor]) -> list[str]:
    return [name for name, _ in complete_stream(iter(tensors), SHAPES)]


def test_a_complete_stream_passes_in_any_order() -> None:
    assert streamed(("b", torch.zeros(4)), ("a", torch.zeros(2, 3))) == ["b", "a"]


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ([("a", torch.zeros(2, 3))], "ended without 1 tensors, 'b' among them"),
        ([("c", torch.zeros(1))], "has 'c', which the checkpoint does not have"),
        ([("b", torch.zeros(4)), ("b", torch.zeros(4))], "has 'b', a second time"),
        ([("b", torch.zeros(5))], r"has 'b' as \(5,\), the checkpoint as \(4,\)"),
    ],
)
def test_a_stream_that_does_not_fit_the_checkpoint_raises(
    tensors: list[tuple[str, torch.Tensor]], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        streamed(*tensors)


def test_a_stream_is_not_read_ahead() -> None:
    drawn = []

    def stream() -> Iterator[tuple[str, torch.Tensor]]:
        for name, shape in SHAPES.items():
            drawn.append(name)
            yield name, torch.zeros(shape)

    checked = complete_stream(stream(), SHAPES)
    next(checked)
    assert drawn == ["a"]


def test_shapes_come_from_all_shards_without_a_tied_head(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(2, 3)}, tmp_path / "model-00001-of-00002.safetensors")
    save_file({"lm_head.weight": torch.zeros(4)}, tmp_path / "model-00002-of-00002.safetensors")
    save_file({"stray": torch.zeros(1)}, tmp_path / "consolidated.safetensors")
    index = {"a": "model-00001-of-00002.safetensors", "lm_head.weight": "model-00002-of-00002.safetensors"}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    assert checkpoint_shapes(tmp_path, tied_head=False) == {"a": (2, 3), "lm_head.weight": (4,)}
    assert checkpoint_shapes(tmp_path, tied_head=True) == {"a": (2, 3)}


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    save_file({"a": torch.zeros(64)}, file)
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(BadInput, match=r"model\.safetensors cannot be read"):
        checkpoint_shapes(tmp_path, tied_head=False)


def test_a_directory_without_safetensors_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="has no"):
        checkpoint_shapes(tmp_path, tied_head=False)


@pytest.mark.parametrize("content", ["{", "[]", '{"weight_map": 3}'])
def test_a_damaged_index_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(content)
    with pytest.raises(BadInput, match=r"index\.json (cannot be read|does not hold|has no weight_map)"):
        checkpoint_shapes(tmp_path, tied_head=False)


@pytest.mark.parametrize("told", [True, False])
def test_whether_the_head_is_tied_is_known_without_being_told(
    told: bool, tiny_smollm3_dir: Path, tiny_qwen3_dir: Path
) -> None:
    """A tied head that is taken for an untied one silently becomes stale in the CPU's engine."""
    for model_dir, tied in ((tiny_smollm3_dir, True), (tiny_qwen3_dir, False)):
        config = read_hf_config(model_dir)
        assert config["tie_word_embeddings"] is tied
        if not told:
            del config["tie_word_embeddings"]
        assert has_tied_head(model_dir, config) is tied
