"""What the engine has to know about a Hugging Face directory before and beside vLLM."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from megatron_pz.errors import BadInput


def read_hf_config(model_dir: Path) -> dict[str, Any]:
    """The directory's config.json; BadInput where there is none."""
    path = model_dir / "config.json"
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise BadInput(f"{path} cannot be read as a Hugging Face configuration: {one_line(error)}") from error


def checkpoint_shapes(model_dir: Path, *, tied_head: bool) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of a complete stream, from the headers of the checkpoint's safetensors files.

    Raises:
        BadInput: there are no such files in model_dir, or they cannot be read.
    """
    index = model_dir / "model.safetensors.index.json"
    if index.is_file():
        files = sorted({model_dir / name for name in json.loads(index.read_text())["weight_map"].values()})
    else:
        files = sorted(model_dir.glob("*.safetensors"))
    if not files:
        raise BadInput(f"{model_dir} has no *.safetensors file: convert the checkpoint to safetensors")
    shapes = {}
    for file in files:
        try:
            with safe_open(file, framework="pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118 (not a dictionary)
                    shapes[name] = tuple(tensors.get_slice(name).get_shape())
        except (OSError, SafetensorError) as error:
            raise BadInput(f"{file} cannot be read as safetensors: {one_line(error)}; fetch it again") from error
    if tied_head:
        shapes.pop("lm_head.weight", None)
    return {name: shape for name, shape in shapes.items() if not name.endswith("rotary_emb.inv_freq")}


def one_line(error: BaseException) -> str:
    """The error's message without its line breaks."""
    return " ".join(str(error).split())
