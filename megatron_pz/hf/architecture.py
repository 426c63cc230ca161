"""Describe the architecture of a Hugging Face config.json.

To add a model family, add a row to :data:`FAMILIES` and a table of weight names to ``megatron_pz.model.hf_mapping``.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_pz.hf.config import HFConfigReader, read_json, refuse_variants, rotary_base
from megatron_pz.runtime.errors import BadInput


@dataclass(frozen=True)
class Family:
    """The traits in which a ``model_type`` differs from a transformer with pre-RMSNorm, RoPE, SwiGLU and GQA."""

    model_class: str
    """transformers' name, by which vLLM chooses the model that it builds."""
    qk_norm: bool = False
    """RMSNorm over each head of the queries and of the keys, before RoPE."""
    derives_heads: bool = False
    """config.json may leave out head_dim (then hidden / heads) and num_key_value_heads (then num_attention_heads)."""
    has_experts: bool = False
    """Layers may hold a mixture of experts instead of one MLP."""
    skips_rope: bool = False
    """Some layers have no position embedding."""
    rotary_base: float = 10_000.0
    """RoPE's theta if config.json does not give it."""
    tied_embeddings: bool = False
    """Whether the output layer is the embedding if config.json does not say."""


FAMILIES: Mapping[str, Family] = {
    "llama": Family("LlamaForCausalLM", derives_heads=True),
    "qwen3": Family("Qwen3ForCausalLM", qk_norm=True),
    "qwen3_moe": Family("Qwen3MoeForCausalLM", qk_norm=True, has_experts=True),
    "smollm3": Family(
        "SmolLM3ForCausalLM", derives_heads=True, skips_rope=True, rotary_base=2_000_000.0, tied_embeddings=True
    ),
}


@dataclass(frozen=True)
class Experts:
    """A mixture of experts: a router sends every token to a few of many small MLPs."""

    number: int
    per_token: int
    ffn_hidden_size: int
    """Width of one expert."""
    normalized: bool
    """A token's weights for its experts are divided by their sum."""
    in_layer: tuple[bool, ...]
    """True for each layer that has experts; the others have one MLP of the architecture's ``ffn_hidden_size``."""


@dataclass(frozen=True)
class Architecture:
    """The sizes of a causal language model, in Megatron-Core's terms where these differ from transformers'."""

    model_type: str
    num_layers: int
    hidden_size: int
    ffn_hidden_size: int
    num_attention_heads: int
    num_query_groups: int
    """Key/value heads."""
    kv_channels: int
    """Width of one head; heads times this need not be hidden_size."""
    vocab_size: int
    """Rows of the Hugging Face embedding, without Megatron's padding."""
    max_position_embeddings: int
    layernorm_epsilon: float
    rotary_base: float
    tied_embeddings: bool
    """The output layer is the embedding; the checkpoint has no lm_head."""
    experts: Experts | None = None
    """None: every layer has one MLP."""
    layers_without_rope: tuple[int, ...] = ()
    """Layers are numbered from 0."""

    @property
    def family(self) -> Family:
        return FAMILIES[self.model_type]

    @property
    def all_layers_are_sparse(self) -> bool:
        """Return whether no layer has an MLP of ``ffn_hidden_size``."""
        return self.experts is not None and all(self.experts.in_layer)

    @classmethod
    def from_hf(cls, directory: str | Path) -> Architecture:
        """Read ``directory/config.json``.

        Raises BadInput if the file is missing or damaged, or if the model's family or variant is not supported.
        """
        path = Path(directory) / "config.json"
        raw = read_json(path)
        model_type = raw.get("model_type")
        if not isinstance(model_type, str) or model_type not in FAMILIES:
            raise BadInput(f"{path}: model_type {model_type!r} is not supported; supported are {', '.join(FAMILIES)}")
        refuse_variants(raw, path)
        family, read = FAMILIES[model_type], HFConfigReader(raw, path)
        if (classes := read.entries("architectures")) and classes != [family.model_class]:
            raise BadInput(f"{path}: architectures {classes} is not {model_type}, which is {family.model_class}")
        heads, hidden = read.size("num_attention_heads"), read.size("hidden_size")
        layers = read.size("num_hidden_layers")
        groups = read.size("num_key_value_heads", default=heads if family.derives_heads else None)
        if family.derives_heads and raw.get("head_dim") is None and hidden % heads:
            raise BadInput(f"{path}: hidden_size {hidden} is not a multiple of num_attention_heads {heads}")
        if heads % groups:
            raise BadInput(f"{path}: num_attention_heads {heads} is not a multiple of num_key_value_heads {groups}")
        width = read.size("head_dim", default=hidden // heads if family.derives_heads else None)
        if width % 2:
            raise BadInput(f"{path}: the attention heads have {width} channels, and RoPE turns them in pairs")
        return cls(
            model_type=model_type,
            num_layers=layers,
            hidden_size=hidden,
            ffn_hidden_size=read.size("intermediate_size"),
            num_attention_heads=heads,
            num_query_groups=groups,
            kv_channels=width,
            vocab_size=read.size("vocab_size"),
            max_position_embeddings=read.size("max_position_embeddings"),
            layernorm_epsilon=read.number("rms_norm_eps"),
            rotary_base=rotary_base(raw, path, default=family.rotary_base),
            tied_embeddings=read.switch("tie_word_embeddings", family.tied_embeddings),
            experts=_experts(raw, read, path, layers) if family.has_experts else None,
            layers_without_rope=_layers_without_rope(raw, read, path, layers) if family.skips_rope else (),
        )


_HF_KEYS: Mapping[str, str] = {
    "num_layers": "num_hidden_layers",
    "ffn_hidden_size": "intermediate_size",
    "num_query_groups": "num_key_value_heads",
    "kv_channels": "head_dim",
    "layernorm_epsilon": "rms_norm_eps",
    "rotary_base": "rope_theta",
    "tied_embeddings": "tie_word_embeddings",
    "layers_without_rope": "no_rope_layers",
    "experts.number": "num_experts",
    "experts.per_token": "num_experts_per_tok",
    "experts.ffn_hidden_size": "moe_intermediate_size",
    "experts.normalized": "norm_topk_prob",
    "experts.in_layer": "decoder_sparse_step and mlp_only_layers",
}
"""The keys of config.json that fields of an :class:`Architecture` come from, if they have other names."""


def plain_architecture(arch: Architecture) -> dict[str, Any]:
    """Return the architecture as JSON values, for storage in a checkpoint."""
    return json.loads(json.dumps(dataclasses.asdict(arch)))


def first_difference(one: Mapping[str, Any], other: Mapping[str, Any]) -> tuple[str, Any, Any] | None:
    """Compare two architectures in the form of :func:`plain_architecture`.

    Returns:
        The key of config.json that differs and its value in each; None if the architectures are the same.
    """
    left, right = _flat(one), _flat(other)
    for name in dict.fromkeys((*left, *right)):
        if left.get(name) != right.get(name):
            return _HF_KEYS.get(name, name.removeprefix("experts.")), left.get(name), right.get(name)
    return None


def _flat(arch: Mapping[str, Any]) -> dict[str, Any]:
    experts = arch.get("experts") or {}
    return {
        **{name: value for name, value in arch.items() if name != "experts"},
        **{f"experts.{name}": value for name, value in experts.items()},
    }


def _experts(raw: Mapping[str, Any], read: HFConfigReader, path: Path, layers: int) -> Experts:
    """Read Qwen3-MoE's experts: in every ``decoder_sparse_step``-th layer except those in ``mlp_only_layers``."""
    step, dense = read.size("decoder_sparse_step", default=1), read.entries("mlp_only_layers")
    # "num_local_experts" is what transformers 5 writes.
    numbers = {key: read.size(key) for key in ("num_experts", "num_local_experts") if raw.get(key) is not None}
    number = next(iter(numbers.values())) if numbers else read.size("num_local_experts")
    if set(numbers.values()) != {number}:
        raise BadInput(
            f"{path}: {' and '.join(f'{key} {size}' for key, size in numbers.items())} contradict each other"
        )
    per_token = read.size("num_experts_per_tok")
    in_layer = tuple((layer + 1) % step == 0 and layer not in dense for layer in range(layers))
    if not any(in_layer):
        raise BadInput(f"{path}: decoder_sparse_step {step} and mlp_only_layers leave no layer with experts")
    if per_token > number:
        raise BadInput(f"{path}: num_experts_per_tok {per_token} is more than num_experts {number}")
    return Experts(
        number=number,
        per_token=per_token,
        ffn_hidden_size=read.size("moe_intermediate_size"),
        normalized=read.switch("norm_topk_prob", False),
        in_layer=in_layer,
    )


def _layers_without_rope(raw: Mapping[str, Any], read: HFConfigReader, path: Path, layers: int) -> tuple[int, ...]:
    """Read SmolLM3's layers without RoPE: 0 in ``no_rope_layers``, or every ``no_rope_layer_interval``-th layer."""
    uses_rope = raw.get("no_rope_layers")
    if uses_rope is None:
        interval = read.size("no_rope_layer_interval", default=4)
        uses_rope = [int((layer + 1) % interval != 0) for layer in range(layers)]
    if not isinstance(uses_rope, list) or len(uses_rope) < layers or any(each not in (0, 1) for each in uses_rope):
        raise BadInput(f"{path}: no_rope_layers is not a list of 0 and 1 for each of the {layers} layers")
    return tuple(layer for layer in range(layers) if not uses_rope[layer])
