"""Write a model of a given shape with random weights, as a Hugging Face directory for speed measurements."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file

from megatron_pz.hf.architecture import Architecture

QWEN3_4B = Architecture("qwen3", 36, 2560, 9728, 32, 8, 128, 151_936, 40_960, 1e-6, 1e6, tied_embeddings=True)
"""Qwen3-4B's config.json."""
QWEN3_06B = Architecture("qwen3", 28, 1024, 3072, 16, 8, 128, 151_936, 40_960, 1e-6, 1e6, tied_embeddings=True)
"""Qwen3-0.6B's config.json."""


def write_random_model(folder: Path, arch: Architecture, device: torch.device, seed: int = 0) -> Path:
    """Write a bfloat16 checkpoint of ``arch`` (dense Qwen3): config.json and one safetensors file, no tokenizer.

    Norms are ones, and matrices are normal with standard deviation 0.02, the usual initialisation of such models.
    """
    folder.mkdir(parents=True)
    config = {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": arch.model_type,
        "num_hidden_layers": arch.num_layers,
        "hidden_size": arch.hidden_size,
        "intermediate_size": arch.ffn_hidden_size,
        "num_attention_heads": arch.num_attention_heads,
        "num_key_value_heads": arch.num_query_groups,
        "head_dim": arch.kv_channels,
        "vocab_size": arch.vocab_size,
        "max_position_embeddings": arch.max_position_embeddings,
        "rms_norm_eps": arch.layernorm_epsilon,
        "rope_theta": arch.rotary_base,
        "tie_word_embeddings": arch.tied_embeddings,
        "hidden_act": "silu",
        "attention_bias": False,
        "torch_dtype": "bfloat16",
        "eos_token_id": 0,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    generator = torch.Generator(device).manual_seed(seed)
    tensors = {}
    for name, shape in _shapes(arch):
        if len(shape) == 1:
            tensors[name] = torch.ones(shape, dtype=torch.bfloat16)
        else:
            tensors[name] = torch.randn(shape, generator=generator, device=device).mul_(0.02).bfloat16().cpu()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def _shapes(arch: Architecture) -> Iterator[tuple[str, tuple[int, ...]]]:
    hidden, width = arch.hidden_size, arch.ffn_hidden_size
    queries, keys = arch.num_attention_heads * arch.kv_channels, arch.num_query_groups * arch.kv_channels
    yield "model.embed_tokens.weight", (arch.vocab_size, hidden)
    for layer in range(arch.num_layers):
        prefix = f"model.layers.{layer}."
        yield prefix + "input_layernorm.weight", (hidden,)
        yield prefix + "post_attention_layernorm.weight", (hidden,)
        for letter, rows in {"q": queries, "k": keys, "v": keys}.items():
            yield f"{prefix}self_attn.{letter}_proj.weight", (rows, hidden)
        for letter in "qk":
            yield f"{prefix}self_attn.{letter}_norm.weight", (arch.kv_channels,)
        yield prefix + "self_attn.o_proj.weight", (hidden, queries)
        for name in ("gate", "up"):
            yield f"{prefix}mlp.{name}_proj.weight", (width, hidden)
        yield prefix + "mlp.down_proj.weight", (hidden, width)
    yield "model.norm.weight", (hidden,)
    if not arch.tied_embeddings:
        yield "lm_head.weight", (arch.vocab_size, hidden)
