"""What a Hugging Face config.json says about a model, and Megatron-Core's configuration for it.

A new family is one row of :data:`FAMILIES` and one table of weight names in ``hf_mapping``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from megatron.core.transformer import TransformerConfig

from megatron_pz.config import ModelConfig, ParallelConfig
from megatron_pz.errors import BadInput


@dataclass(frozen=True)
class Family:
    """How a Hugging Face ``model_type`` differs from a plain transformer with pre-RMSNorm, RoPE, SwiGLU and GQA."""

    qk_norm: bool
    """RMSNorm over each head of the queries and of the keys, before RoPE."""
    derives_heads: bool
    """config.json may leave out head_dim (then hidden / heads) and num_key_value_heads (then num_attention_heads)."""


FAMILIES: Mapping[str, Family] = {
    "llama": Family(qk_norm=False, derives_heads=True),
    "qwen3": Family(qk_norm=True, derives_heads=False),
}

# Switches of these families that change the computation in a way that is not built here, with the value that is.
_ONLY: Mapping[str, Any] = {
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "use_sliding_window": False,
    "quantization_config": None,
}


@dataclass(frozen=True)
class Architecture:
    """The sizes of a causal language model, in Megatron-Core's terms where the two worlds differ."""

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

    @property
    def family(self) -> Family:
        return FAMILIES[self.model_type]

    @classmethod
    def from_hf(cls, directory: str | Path) -> Architecture:
        """Read ``directory/config.json``.

        Raises BadInput where the file is missing or damaged, or the model is of another family or variant.
        """
        path = Path(directory) / "config.json"
        raw = _read_json(path)
        model_type = raw.get("model_type")
        if not isinstance(model_type, str) or model_type not in FAMILIES:
            raise BadInput(f"{path}: model_type {model_type!r} is not supported; supported are {', '.join(FAMILIES)}")
        _refuse_variants(raw, path)
        read = _Reader(raw, path)
        heads, hidden = read.size("num_attention_heads"), read.size("hidden_size")
        derives = FAMILIES[model_type].derives_heads
        groups = read.size("num_key_value_heads", default=heads if derives else None)
        if heads % groups:
            raise BadInput(f"{path}: num_attention_heads {heads} is not a multiple of num_key_value_heads {groups}")
        return cls(
            model_type=model_type,
            num_layers=read.size("num_hidden_layers"),
            hidden_size=hidden,
            ffn_hidden_size=read.size("intermediate_size"),
            num_attention_heads=heads,
            num_query_groups=groups,
            kv_channels=read.size("head_dim", default=hidden // heads if derives else None),
            vocab_size=read.size("vocab_size"),
            max_position_embeddings=read.size("max_position_embeddings"),
            layernorm_epsilon=read.number("rms_norm_eps"),
            rotary_base=_rotary_base(raw, path),
            tied_embeddings=bool(raw.get("tie_word_embeddings", False)),
        )


@dataclass
class PolicyTransformerConfig(TransformerConfig):
    """Megatron-Core's TransformerConfig together with the one size that GPTModel is given beside it."""

    padded_vocab_size: int = 0
    """Rows of the embedding and the output layer over all tensor parallel ranks."""


def padded_vocab_size(vocab_size: int, divisible_by: int, tensor_parallel: int) -> int:
    """The vocabulary, rounded up to a multiple of ``divisible_by * tensor_parallel`` as Megatron-LM does."""
    multiple = divisible_by * tensor_parallel
    return -(-vocab_size // multiple) * multiple


def transformer_config(arch: Architecture, model: ModelConfig, parallel: ParallelConfig) -> PolicyTransformerConfig:
    """Megatron-Core's configuration of ``arch`` in a layout. Raises BadInput where the layout does not fit the model.

    Weights are left uninitialised: every model here is filled from a checkpoint.
    """
    _refuse_layout(arch, parallel)
    on_gpu = torch.cuda.is_available()
    dtype = torch.bfloat16 if model.bf16 else torch.float32
    tensor_parallel = parallel.tensor_model_parallel_size
    return PolicyTransformerConfig(
        padded_vocab_size=padded_vocab_size(arch.vocab_size, model.make_vocab_size_divisible_by, tensor_parallel),
        num_layers=arch.num_layers,
        hidden_size=arch.hidden_size,
        ffn_hidden_size=arch.ffn_hidden_size,
        num_attention_heads=arch.num_attention_heads,
        num_query_groups=arch.num_query_groups,
        kv_channels=arch.kv_channels,
        normalization="RMSNorm",
        layernorm_epsilon=arch.layernorm_epsilon,
        qk_layernorm=arch.family.qk_norm,
        gated_linear_unit=True,
        activation_func=torch.nn.functional.silu,
        add_bias_linear=False,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        params_dtype=dtype,
        pipeline_dtype=dtype,
        bf16=model.bf16,
        tensor_model_parallel_size=tensor_parallel,
        pipeline_model_parallel_size=parallel.pipeline_model_parallel_size,
        sequence_parallel=parallel.sequence_parallel,
        variable_seq_lengths=True,  # pipeline stages are sent packed rows of any length
        moe_token_dispatcher_type="alltoall",  # asked for by variable_seq_lengths, experts or not
        perform_initialization=False,
        use_cpu_initialization=not on_gpu,
        bias_activation_fusion=on_gpu,
        bias_dropout_fusion=on_gpu,
        # The fused kernel counts positions itself; packed rows bring their own.
        apply_rope_fusion=False,
        # Needs Apex's kernel, or weights that are all Transformer Engine's (the output layer is not).
        gradient_accumulation_fusion=False,
    )


def _refuse_layout(arch: Architecture, parallel: ParallelConfig) -> None:
    tensor_parallel, stages = parallel.tensor_model_parallel_size, parallel.pipeline_model_parallel_size
    cut_by_tensor = {
        "attention heads": arch.num_attention_heads,
        "key/value heads": arch.num_query_groups,
        "feed-forward channels": arch.ffn_hidden_size,
    }
    for what, count in cut_by_tensor.items():
        if count % tensor_parallel:
            fits = [size for size in range(1, tensor_parallel) if all(n % size == 0 for n in cut_by_tensor.values())]
            raise BadInput(
                f"tensor_model_parallel_size {tensor_parallel} does not divide the model's {count} {what}; "
                f"the next smaller size that fits is {fits[-1]}"
            )
    if arch.num_layers % stages:
        fits = [size for size in range(1, stages) if arch.num_layers % size == 0]
        raise BadInput(
            f"pipeline_model_parallel_size {stages} does not divide the model's {arch.num_layers} layers; "
            f"the next smaller size that fits is {fits[-1]}"
        )
    if parallel.sequence_parallel and tensor_parallel == 1:
        raise BadInput("sequence_parallel needs a tensor_model_parallel_size above 1; turn it off or raise that size")


class _Reader:
    """Typed reads from config.json whose failures name the file and the key."""

    def __init__(self, raw: Mapping[str, Any], path: Path) -> None:
        self._raw, self._path = raw, path

    def number(self, key: str) -> float:
        value = self._raw.get(key)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value <= 0:
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


def _read_json(path: Path) -> dict[str, Any]:
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


def _refuse_variants(raw: Mapping[str, Any], path: Path) -> None:
    for key, value in _ONLY.items():
        if raw.get(key, value) not in (value, None):
            raise BadInput(f"{path}: {key} {raw[key]!r} is not supported, only {value!r}")
    other_layers = set(raw.get("layer_types") or ()) - {"full_attention"}
    if other_layers:
        raise BadInput(f"{path}: layer_types {', '.join(sorted(other_layers))} not supported, only full_attention")


def _rotary_base(raw: Mapping[str, Any], path: Path) -> float:
    """RoPE's theta: in ``rope_parameters`` since transformers 5, a key of its own (beside ``rope_scaling``) before."""
    theta = raw.get("rope_theta")
    for section in ("rope_scaling", "rope_parameters"):
        rope = raw.get(section) or {}
        kind = rope.get("rope_type", rope.get("type", "default"))
        if kind != "default" or rope.get("partial_rotary_factor", 1.0) != 1.0:
            raise BadInput(f"{path}: {section} of type {kind!r} is not supported, only plain RoPE ('default')")
        theta = rope.get("rope_theta", theta)
    return _Reader({"rope_theta": 10_000.0 if theta is None else theta}, path).number("rope_theta")
