"""What the engine has to know about a Hugging Face directory before and beside vLLM."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from megatron_pz.runtime.errors import BadInput, one_line

_OUTPUT_LAYER = "lm_head.weight"


def read_hf_config(model_dir: Path) -> dict[str, Any]:
    """The directory's config.json; BadInput where there is none."""
    return _read_json(model_dir / "config.json")


def has_tied_head(model_dir: Path, hf_config: dict[str, Any]) -> bool:
    """Whether the output layer is the embedding: as config.json tells, or else where the checkpoint has no such layer.

    transformers 4 left ``tie_word_embeddings`` out of SmolLM3's config.json, where it is true unless told otherwise.

    Raises:
        BadInput: as :func:`checkpoint_shapes`.
    """
    if "tie_word_embeddings" in hf_config:
        return bool(hf_config["tie_word_embeddings"])
    return _OUTPUT_LAYER not in checkpoint_shapes(model_dir, tied_head=False)


def checkpoint_shapes(model_dir: Path, *, tied_head: bool) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of a complete stream, from the headers of the checkpoint's safetensors files.

    Raises:
        BadInput: there are no such files in model_dir, or they cannot be read.
    """
    shapes = {}
    for file in _weight_files(model_dir):
        try:
            with safe_open(file, framework="pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118 (not a dictionary)
                    shapes[name] = tuple(tensors.get_slice(name).get_shape())
        except (OSError, SafetensorError) as error:
            raise BadInput(f"{file} cannot be read as safetensors: {one_line(error)}; fetch it again") from error
    if tied_head:
        shapes.pop(_OUTPUT_LAYER, None)
    return {name: shape for name, shape in shapes.items() if not name.endswith("rotary_emb.inv_freq")}


def _weight_files(model_dir: Path) -> list[Path]:
    index = model_dir / "model.safetensors.index.json"
    if index.is_file():
        places = _read_json(index).get("weight_map")
        if not isinstance(places, dict):
            raise BadInput(f"{index} has no weight_map: fetch the checkpoint again")
        return sorted({model_dir / str(name) for name in places.values()})
    files = sorted(model_dir.glob("*.safetensors"))
    if not files:
        raise BadInput(f"{model_dir} has no *.safetensors file: convert the checkpoint to safetensors")
    return files


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(f"{path} cannot be read: {one_line(error)}; give a Hugging Face directory") from error
    if not isinstance(content, dict):
        raise BadInput(f"{path} does not hold a JSON object; give a Hugging Face directory")
    return content
