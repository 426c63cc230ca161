"""Find the tensors of a Hugging Face directory, from the headers of its safetensors files and without torch.

The files are chosen as transformers chooses them: ``model.safetensors`` if it exists, otherwise the shards that
``model.safetensors.index.json`` names.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from megatron_pz.hf.config import read_json
from megatron_pz.runtime.errors import BadInput, one_line

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
ADAPTER = "adapter_config.json"
OUTPUT_LAYER = "lm_head.weight"


@dataclass(frozen=True)
class StoredTensor:
    """The description of a tensor in the header of its file."""

    file: Path
    dtype: str
    """Dtype in safetensors' notation: BF16, F16, F32, …"""
    shape: tuple[int, ...]


def read_hf_config(model_dir: Path) -> dict[str, Any]:
    """Read the directory's config.json. Raise BadInput if there is none."""
    return read_json(model_dir / "config.json")


def require_end_tokens(model_dir: Path, vocab_size: int) -> None:
    """Refuse a generation_config.json whose end tokens an engine would not find.

    vLLM ignores an unreadable file and an id that is not a number, so that responses would never end.

    Raises:
        BadInput: the file is damaged, or an ``eos_token_id`` is not a token of the model.
    """
    path = model_dir / "generation_config.json"
    if not path.exists() and not path.is_symlink():
        return
    ids = read_json(path).get("eos_token_id")
    for each in ids if isinstance(ids, list) else [] if ids is None else [ids]:
        if type(each) is not int or not 0 <= each < vocab_size:
            raise BadInput(f"{path}: eos_token_id {each!r} is not a token of the model, which has {vocab_size}")


def stored_tensors(model_dir: Path) -> dict[str, StoredTensor]:
    """Return every tensor of a checkpoint by its name.

    If two shards hold a tensor of the same name, the index decides between them. A tensor that is missing from the
    index is included, as in transformers.

    Raises:
        BadInput: there are no such files, one is missing or damaged, the index does not describe them, or an adapter
            lies beside them, which transformers would apply.
    """
    if (model_dir / ADAPTER).exists():
        raise BadInput(
            f"{model_dir} holds an adapter ({ADAPTER}), which is not read: merge it into the weights (merge_and_unload "
            "of peft), or remove the file"
        )
    if (model_dir / SINGLE).is_file():
        return _tensors_of_file(model_dir / SINGLE)
    if not (model_dir / INDEX).is_file():
        raise BadInput(
            f"{model_dir} has neither {SINGLE} nor {INDEX}: it has no weights in a form that is read; convert the "
            "checkpoint to safetensors"
        )
    place_of = _weight_map(model_dir / INDEX)
    files = sorted(set(place_of.values()))
    missing = [name for name in files if not (model_dir / name).is_file()]
    if missing:
        raise BadInput(f"{model_dir} lacks {', '.join(missing)}, which {INDEX} names; fetch the checkpoint again")
    held = {file: _tensors_of_file(model_dir / file) for file in files}
    tensors = {}
    for name, file in place_of.items():
        if name not in held[file]:
            raise BadInput(f"{model_dir / file} lacks {name}, which {INDEX} places there; fetch the checkpoint again")
        tensors[name] = held[file][name]
    for file in files:
        for name, tensor in held[file].items():
            if name not in place_of and name in tensors:
                raise BadInput(
                    f"{model_dir}: {tensors[name].file.name} and {file} both hold {name}, and {INDEX} does not say "
                    "which of them counts; fetch the checkpoint again"
                )
            tensors.setdefault(name, tensor)
    return tensors


def is_read_alike(model_dir: Path, tensors: Mapping[str, StoredTensor]) -> bool:
    """Return whether a reader that takes all safetensors files, filtered by an index, finds the same tensors.

    vLLM is such a reader. It also takes the last of two tensors of one name, whatever the index says.
    """
    files = {tensor.file for tensor in tensors.values()}
    if (model_dir / SINGLE).is_file():
        return not (model_dir / INDEX).is_file() and set(model_dir.glob("*.safetensors")) == files
    counts = Counter(name for file in files for name in _tensors_of_file(file))
    return max(counts.values(), default=1) == 1


def has_tied_head(model_dir: Path, hf_config: Mapping[str, Any]) -> bool:
    """Return whether the output layer is the embedding.

    config.json decides. If it has no ``tie_word_embeddings``, the model is tied unless the checkpoint has an output
    layer: transformers 4 left the key out of SmolLM3's config.json, where the default is true.

    Raises:
        BadInput: as :func:`stored_tensors`.
    """
    if hf_config.get("tie_word_embeddings") is not None:
        return bool(hf_config["tie_word_embeddings"])
    return OUTPUT_LAYER not in stored_tensors(model_dir)


def checkpoint_shapes(model_dir: Path, *, tied_head: bool) -> dict[str, tuple[int, ...]]:
    """Return name and shape of every tensor of a complete weight stream, without a tied head and buffers.

    Raises:
        BadInput: as :func:`stored_tensors`.
    """
    return {
        name: tensor.shape
        for name, tensor in stored_tensors(model_dir).items()
        if not is_harmless(name) and not (tied_head and name == OUTPUT_LAYER)
    }


def is_harmless(name: str) -> bool:
    """Return whether a tensor is a buffer that every reader computes itself: RoPE's inverse frequencies."""
    return name.endswith("rotary_emb.inv_freq")


def _tensors_of_file(file: Path) -> dict[str, StoredTensor]:
    try:
        with safe_open(file, framework="np") as opened:
            tensors = {}
            for name in opened.keys():  # noqa: SIM118 (not a dictionary)
                header = opened.get_slice(name)
                tensors[name] = StoredTensor(file, header.get_dtype(), tuple(header.get_shape()))
            return tensors
    except (OSError, SafetensorError) as error:
        raise BadInput(
            f"{file} cannot be read: {file.name} is not a complete safetensors file ({one_line(error)}); fetch it again"
        ) from error


def _weight_map(index: Path) -> dict[str, str]:
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(file, str) for file in places.values()):
        raise BadInput(f"{index} has no weight_map from names to files; fetch the checkpoint again")
    return places
