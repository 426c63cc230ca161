"""Typed reads from a Hugging Face config.json; what is missing, damaged or not built is one clear line."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from megatron_pz.runtime.errors import BadInput

# Switches of the supported families that change the computation in a way that is not built, with the value that is.
_ONLY: Mapping[str, Any] = {
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "use_sliding_window": False,
    "quantization_config": None,
}


class HFConfigReader:
    """Typed reads from config.json whose failures name the file and the key."""

    def __init__(self, raw: Mapping[str, Any], path: Path) -> None:
        self._raw, self._path = raw, path

    def number(self, key: str) -> float:
        value = self._raw.get(key)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
            raise BadInput(f"{self._path}: {key} is {value!r}, not a positive number")
        return value

    def size(self, key: str, default: int | None = None) -> int:
        """A positive whole number; ``default`` where the key is absent or null."""
        if self._raw.get(key) is None and default is not None:
            return default
        value = self.number(key)
        if not isinstance(value, int):
            raise BadInput(f"{self._path}: {key} is {value!r}, not a whole number")
        return value

    def entries(self, key: str) -> list[Any]:
        """A list; empty where the key is absent or null."""
        value = self._raw.get(key) or []
        if not isinstance(value, list):
            raise BadInput(f"{self._path}: {key} is {value!r}, not a list")
        return value

    def section(self, key: str) -> dict[str, Any]:
        """An object; empty where the key is absent or null."""
        value = self._raw.get(key) or {}
        if not isinstance(value, dict):
            raise BadInput(f"{self._path}: {key} is {value!r}, not an object")
        return value


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object of a config.json. Raises BadInput where there is none."""
    if not path.parent.is_dir():
        raise BadInput(f"{path.parent} is not a directory; give the directory of a Hugging Face checkpoint")
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadInput(f"{path.parent} has no config.json; give the directory of a Hugging Face checkpoint") from None
    except (OSError, ValueError) as error:
        raise BadInput(f"{path} cannot be read: {error}") from None
    if not isinstance(raw, dict):
        raise BadInput(f"{path} does not hold a JSON object")
    return raw


def refuse_variants(raw: Mapping[str, Any], path: Path) -> None:
    """Raise BadInput where a switch asks for a computation that is not built."""
    for key, value in _ONLY.items():
        if raw.get(key, value) not in (value, None):
            raise BadInput(f"{path}: {key} {raw[key]!r} is not supported, only {value!r}")
    other_layers = {str(kind) for kind in HFConfigReader(raw, path).entries("layer_types")} - {"full_attention"}
    if other_layers:
        raise BadInput(f"{path}: layer_types {', '.join(sorted(other_layers))} not supported, only full_attention")


def rotary_base(raw: Mapping[str, Any], path: Path, default: float) -> float:
    """RoPE's theta: in ``rope_parameters`` since transformers 5, a key of its own (beside ``rope_scaling``) before."""
    read, theta = HFConfigReader(raw, path), raw.get("rope_theta")
    for section in ("rope_scaling", "rope_parameters"):
        rope = read.section(section)
        kind = rope.get("rope_type", rope.get("type", "default"))
        if kind != "default" or rope.get("partial_rotary_factor", 1.0) != 1.0:
            raise BadInput(f"{path}: {section} of type {kind!r} is not supported, only plain RoPE ('default')")
        if of_kinds := [name for name, value in rope.items() if isinstance(value, dict)]:
            raise BadInput(f"{path}: {section} for each kind of layer ({', '.join(of_kinds)}) is not supported")
        theta = rope.get("rope_theta", theta)
    return HFConfigReader({"rope_theta": default if theta is None else theta}, path).number("rope_theta")
