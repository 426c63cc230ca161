"""FP8 weights are filled, streamed and exported, with a stand-in for Transformer Engine's tensors."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from megatron_pz.config.schema import ModelConfig, ParallelConfig
from megatron_pz.hf.architecture import Architecture
from megatron_pz.hf.checkpoint import HFTensorSource, save_hf
from megatron_pz.model.gpt import build_model
from megatron_pz.model.hf_mapping import load_hf_weights
from megatron_pz.model.hf_stream import stream_hf_weights
from megatron_pz.model.precision import plain_tensor
from megatron_pz.model.transformer_config import transformer_config
from tests.support.quantized_stand_in import StandInFloat8, quantized_parameter

pytestmark = pytest.mark.usefixtures("topology")

DOWN = "model.layers.0.mlp.down_proj.weight"
IN_FP8 = {DOWN, *(f"model.layers.1.self_attn.{letter}_proj.weight" for letter in "qkv")}


@pytest.mark.parametrize("keeps_initial_values", [False, True])
def test_weights_in_fp8_are_streamed_and_exported_as_bfloat16(
    tiny_qwen3_dir: Path, tmp_path: Path, keeps_initial_values: bool
) -> None:
    arch = Architecture.from_hf(tiny_qwen3_dir)
    model = build_model(arch, transformer_config(arch, ModelConfig(), ParallelConfig()))
    fc2, qkv = model.decoder.layers[0].mlp.linear_fc2, model.decoder.layers[1].self_attention.linear_qkv
    for layer in (fc2, qkv):
        layer.weight = quantized_parameter(torch.ones_like(layer.weight), keeps_initial_values)
    load_hf_weights(model, arch, HFTensorSource(tiny_qwen3_dir))
    save_hf(stream_hf_weights([model], arch), arch, tiny_qwen3_dir, tmp_path / "out")
    source, exported = (load_file(path / "model.safetensors") for path in (tiny_qwen3_dir, tmp_path / "out"))

    assert {tensor.dtype for tensor in exported.values()} == {torch.bfloat16}
    assert {name for name in source if not torch.equal(exported[name], source[name].bfloat16())} == IN_FP8
    assert torch.equal(exported[DOWN], StandInFloat8.quantize(source[DOWN]).dequantize())
    for name in IN_FP8:  # e4m3 has three bits of mantissa
        torch.testing.assert_close(exported[name].float(), source[name], rtol=2**-4, atol=1e-3)
    if keeps_initial_values:  # Megatron-Core makes the float32 weights from these
        assert torch.equal(fc2.weight.get_high_precision_init_val(), source[DOWN])


def test_ordinary_tensors_are_handed_on_as_they_are() -> None:
    for tensor in (torch.ones(2, dtype=torch.bfloat16), torch.nn.Parameter(torch.ones(2))):
        assert plain_tensor(tensor) is tensor
