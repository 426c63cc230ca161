"""Compare the tensors of a checkpoint with those that its config.json describes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from megatron_pz.hf.architecture import Architecture
from megatron_pz.hf.directory import OUTPUT_LAYER, StoredTensor, is_harmless
from megatron_pz.runtime.errors import BadInput

EMBEDDING = "model.embed_tokens.weight"
FLOATING = ("BF16", "F16", "F32", "F64")
_NAMED = 3
"""Maximum number of tensors that an error message names."""


def expected_shapes(arch: Architecture) -> dict[str, tuple[int, ...]]:
    """Return name and shape of every tensor of a model of this architecture; a tied output layer has none."""
    shapes: dict[str, tuple[int, ...]] = {EMBEDDING: (arch.vocab_size, arch.hidden_size)}
    for layer in range(arch.num_layers):
        shapes |= {f"model.layers.{layer}.{name}": shape for name, shape in _layer_shapes(arch, layer)}
    shapes["model.norm.weight"] = (arch.hidden_size,)
    if not arch.tied_embeddings:
        shapes[OUTPUT_LAYER] = (arch.vocab_size, arch.hidden_size)
    return shapes


def require_expected_tensors(model_dir: Path, tensors: Mapping[str, StoredTensor], arch: Architecture) -> None:
    """Refuse a checkpoint that does not hold exactly the model of ``arch``.

    Two additions are allowed: RoPE's frequencies, and a tied model's copy of the embedding as output layer, which
    :class:`~megatron_pz.hf.checkpoint.HFTensorSource` compares with the embedding.

    Raises:
        BadInput: a tensor is missing, has another shape, is not of a floating dtype, or belongs to no part of the
            model, which would then compute something else than it was trained to.
    """
    expected = expected_shapes(arch)
    if arch.tied_embeddings and OUTPUT_LAYER in tensors:
        expected[OUTPUT_LAYER] = expected[EMBEDDING]
    for name, shape in expected.items():
        if name not in tensors:
            raise BadInput(f"{model_dir}: the weights lack {name}; fetch the checkpoint again")
        if tensors[name].shape != shape:
            raise BadInput(
                f"{model_dir}: {name} has shape {list(tensors[name].shape)} where config.json implies {list(shape)}"
            )
        if tensors[name].dtype not in FLOATING:
            raise BadInput(
                f"{model_dir}: {name} has dtype {tensors[name].dtype}, of which only {', '.join(FLOATING)} are "
                "supported; give an unquantised checkpoint"
            )
    strays = [name for name in tensors if name not in expected and not is_harmless(name)]
    if strays:
        named = ", ".join(strays[:_NAMED]) + (f" and {len(strays) - _NAMED} more" if len(strays) > _NAMED else "")
        raise BadInput(
            f"{model_dir}: the weights hold {named}, for which config.json's {arch.model_type} model has no place; "
            "give a checkpoint whose config.json describes all of its weights"
        )


def _layer_shapes(arch: Architecture, layer: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    hidden, head = arch.hidden_size, arch.kv_channels
    queries, keys = arch.num_attention_heads * head, arch.num_query_groups * head
    yield "input_layernorm.weight", (hidden,)
    yield "self_attn.q_proj.weight", (queries, hidden)
    yield "self_attn.k_proj.weight", (keys, hidden)
    yield "self_attn.v_proj.weight", (keys, hidden)
    yield "self_attn.o_proj.weight", (hidden, queries)
    if arch.family.qk_norm:
        yield "self_attn.q_norm.weight", (head,)
        yield "self_attn.k_norm.weight", (head,)
    yield "post_attention_layernorm.weight", (hidden,)
    if arch.experts is None or not arch.experts.in_layer[layer]:
        yield from _mlp_shapes("mlp", arch.ffn_hidden_size, hidden)
        return
    yield "mlp.gate.weight", (arch.experts.number, hidden)
    for expert in range(arch.experts.number):
        yield from _mlp_shapes(f"mlp.experts.{expert}", arch.experts.ffn_hidden_size, hidden)


def _mlp_shapes(prefix: str, width: int, hidden: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{prefix}.gate_proj.weight", (width, hidden)
    yield f"{prefix}.up_proj.weight", (width, hidden)
    yield f"{prefix}.down_proj.weight", (hidden, width)
