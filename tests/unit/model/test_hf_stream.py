"""Weights are streamed completely and in order, in buckets within the bound."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from megatron_pz.config.schema import ModelConfig, ParallelConfig
from megatron_pz.hf.architecture import Architecture
from megatron_pz.hf.checkpoint import HFTensorSource
from megatron_pz.model import hf_stream
from megatron_pz.model.gpt import build_model
from megatron_pz.model.hf_mapping import Columns, HFTensorNames, Replicated, load_hf_weights
from megatron_pz.model.transformer_config import transformer_config

pytestmark = pytest.mark.usefixtures("topology")


def entry(numel: int, of_expert: bool = False, dtype: torch.dtype = torch.float32) -> hf_stream._Entry:
    layout = Columns() if of_expert else Replicated()
    return hf_stream._Entry(HFTensorNames((("name",),), layout, of_expert), (numel,), dtype)


def test_a_bucket_is_filled_up_to_the_bound_and_is_of_one_kind() -> None:
    entries = [entry(4), entry(4), entry(4), entry(100), entry(1), entry(2, of_expert=True), entry(2, of_expert=True)]
    entries += [entry(1), entry(1, dtype=torch.bfloat16), entry(1, dtype=torch.bfloat16)]
    buckets = list(hf_stream._buckets(entries, bucket_bytes=32))
    assert [[each.numel for each in bucket] for bucket in buckets] == [[4, 4], [4], [100], [1], [2, 2], [1], [1, 1]]
    assert [each for bucket in buckets for each in bucket] == entries
    assert list(hf_stream._buckets([], bucket_bytes=32)) == []


def test_one_rank_streams_its_own_memory(tiny_qwen3_dir: Path) -> None:
    """Without other ranks nothing is copied, except interleaved queries, keys and values."""
    arch = Architecture.from_hf(tiny_qwen3_dir)
    model = build_model(arch, transformer_config(arch, ModelConfig(bf16=False), ParallelConfig()))
    load_hf_weights(model, arch, HFTensorSource(tiny_qwen3_dir))
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    copied = {
        name.split(".")[-2]
        for name, tensor in hf_stream.stream_hf_weights([model], arch)
        if tensor.untyped_storage().data_ptr() not in own
    }
    assert copied == {"q_proj", "k_proj", "v_proj"}
