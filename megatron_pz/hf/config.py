"""Read a Hugging Face config.json, and refuse missing, damaged or unsupported values in one clear line."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from megatron_pz.runtime.errors import BadInput

_ONLY: Mapping[str, Any] = {
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "use_sliding_window": False,
    "quantization_config": None,
    # Keys that vLLM, but not transformers, reads from the configurations of these families.
    "bias": False,
    "qkv_bias": False,
    "is_causal": True,
    "logit_scale": 1.0,
    "dual_chunk_attention_config": None,
    "attention_chunk_size": None,
    "rotary_pct": 1.0,
    "rotary_emb_fraction": 1.0,
    "rotary_emb_base": None,
    "compression_config": None,
    "shared_expert_intermediate_size": 0,
    "is_encoder_decoder": False,
    # Nested configurations of a text model, which transformers takes for the whole configuration.
    "text_config": None,
    "decoder": None,
    "generator": None,
    # A weight file with an unusual name (transformers 5).
    "transformers_weights": None,
}
"""Keys of the supported families that change the computation, with the only supported value."""
_PLAIN_ROPE = {"rope_type", "type", "rope_theta", "partial_rotary_factor"}
"""Keys of RoPE of the type "default"."""


class HFConfigReader:
    """Read typed values from config.json; failures name the file and the key."""

    def __init__(self, raw: Mapping[str, Any], path: Path) -> None:
        self._raw, self._path = raw, path

    def number(self, key: str) -> float:
        """Return a positive finite number."""
        value = self._raw.get(key)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
            raise BadInput(f"{self._path}: {key} is {value!r}, not a positive number")
        return value

    def size(self, key: str, default: int | None = None) -> int:
        """Return a positive whole number, or ``default`` if the key is absent or null."""
        if self._raw.get(key) is None and default is not None:
            return default
        value = self.number(key)
        if not isinstance(value, int):
            raise BadInput(f"{self._path}: {key} is {value!r}, not a whole number")
        return value

    def switch(self, key: str, default: bool) -> bool:
        """Return true or false, or ``default`` if the key is absent or null."""
        value = self._raw.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise BadInput(f"{self._path}: {key} is {value!r}, not true or false")
        return value

    def entries(self, key: str) -> list[Any]:
        """Return a list, which is empty if the key is absent or null."""
        value = [] if self._raw.get(key) is None else self._raw[key]
        if not isinstance(value, list):
            raise BadInput(f"{self._path}: {key} is {value!r}, not a list")
        return value

    def section(self, key: str) -> dict[str, Any]:
        """Return an object, which is empty if the key is absent or null."""
        value = {} if self._raw.get(key) is None else self._raw[key]
        if not isinstance(value, dict):
            raise BadInput(f"{self._path}: {key} is {value!r}, not an object")
        return value


def read_json(path: Path) -> dict[str, Any]:
    """Read the JSON object in a file of a checkpoint. Raise BadInput if there is none."""
    if not path.parent.is_dir():
        raise BadInput(f"{path.parent} is not a directory; give the directory of a Hugging Face checkpoint")
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadInput(f"{path.parent} has no {path.name}; give the directory of a Hugging Face checkpoint") from None
    except (OSError, ValueError, RecursionError) as error:
        raise BadInput(f"{path} cannot be read: {error}") from None
    if not isinstance(raw, dict):
        raise BadInput(f"{path} does not hold a JSON object")
    return raw


def refuse_variants(raw: Mapping[str, Any], path: Path) -> None:
    """Raise BadInput if a key requests a computation that is not implemented."""
    for key, value in _ONLY.items():
        off = (None,) if not value else ()  # null turns a feature off, but is not a valid function or factor
        if raw.get(key, value) not in (value, *off):
            raise BadInput(f"{path}: {key} {raw[key]!r} is not supported, only {value!r}")
    # transformers reads it only if use_sliding_window is true; for Llama, vLLM always reads it.
    if raw.get("model_type") == "llama" and raw.get("sliding_window"):
        raise BadInput(f"{path}: sliding_window {raw['sliding_window']!r} is not supported, only null")
    kinds = HFConfigReader(raw, path).entries("layer_types")
    if other_layers := {str(kind) for kind in kinds} - {"full_attention"}:
        raise BadInput(f"{path}: layer_types {', '.join(sorted(other_layers))} not supported, only full_attention")
    if kinds and len(kinds) != raw.get("num_hidden_layers"):
        raise BadInput(f"{path}: layer_types has {len(kinds)} entries for {raw.get('num_hidden_layers')} layers")


def rotary_base(raw: Mapping[str, Any], path: Path, default: float) -> float:
    """Return RoPE's theta, from ``rope_parameters`` since transformers 5 and from its own key before.

    Raises BadInput if it is given twice with different values, or if RoPE is not of the default kind.
    """
    read = HFConfigReader(raw, path)
    found = {"rope_theta": raw["rope_theta"]} if raw.get("rope_theta") is not None else {}
    partial = raw.get("partial_rotary_factor")
    if partial not in (None, 1.0):
        raise BadInput(f"{path}: partial_rotary_factor {partial!r} is not supported, only plain RoPE ('default')")
    for section in ("rope_scaling", "rope_parameters"):
        rope = read.section(section)
        kinds = {str(rope[key]) for key in ("rope_type", "type") if rope.get(key) is not None} or {"default"}
        if kinds != {"default"} or rope.get("partial_rotary_factor") not in (None, 1.0):
            names = " and ".join(map(repr, sorted(kinds)))
            raise BadInput(f"{path}: {section} of type {names} is not supported, only plain RoPE ('default')")
        if of_kinds := [name for name, value in rope.items() if isinstance(value, dict)]:
            raise BadInput(f"{path}: {section} for each kind of layer ({', '.join(of_kinds)}) is not supported")
        if others := sorted(name for name in rope.keys() - _PLAIN_ROPE if rope[name] not in (None, 1)):
            raise BadInput(f"{path}: {section} has {others[0]} {rope[others[0]]!r}, which plain RoPE has not")
        if rope.get("rope_theta") is not None:
            found[f"{section}.rope_theta"] = rope["rope_theta"]
    thetas = [HFConfigReader(found, path).number(key) for key in found] or [default]
    if len(set(thetas)) > 1:
        given = " and ".join(f"{key} {value}" for key, value in found.items())
        raise BadInput(f"{path}: {given} contradict each other; leave the one that the model was trained with")
    return thetas[0]
