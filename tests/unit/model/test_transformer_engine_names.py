"""Transformer Engine keeps two norms of a layer inside the next linear layers; the mapping knows both names."""

from __future__ import annotations

import pytest

from megatron_pz.model.hf_mapping import LAYER_RULES

FUSED = {
    "self_attention.linear_qkv.layer_norm_weight": "input_layernorm.weight",
    "mlp.linear_fc1.layer_norm_weight": "pre_mlp_layernorm.weight",
}
"""Transformer Engine's name of a norm's weight, and that of Megatron-Core's local layers."""


@pytest.mark.parametrize("family", LAYER_RULES)
def test_a_norm_has_one_hugging_face_name_under_either_layer_spec(family: str) -> None:
    rules = LAYER_RULES[family]
    for fused, local in FUSED.items():
        assert rules[fused].hf_names == rules[local].hf_names
        assert type(rules[fused].layout) is type(rules[local].layout)
    assert rules["self_attention.linear_qkv.layer_norm_weight"].hf_names == ("input_layernorm.weight",)
    assert rules["mlp.linear_fc1.layer_norm_weight"].hf_names == ("post_attention_layernorm.weight",)
