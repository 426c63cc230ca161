"""The packed forward and backward pass of a Megatron model, compared with transformers response by response."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from megatron.core.models.gpt import GPTModel
from megatron.core.transformer.enums import AttnMaskType
from transformers import AutoModelForCausalLM

from megatron_pz.config.schema import ModelConfig, ParallelConfig
from megatron_pz.hf.architecture import Architecture
from megatron_pz.hf.checkpoint import HFTensorSource
from megatron_pz.model import attention
from megatron_pz.model.attention import SharedPromptAttention
from megatron_pz.model.gpt import build_model
from megatron_pz.model.hf_mapping import load_hf_weights
from megatron_pz.model.hf_stream import stream_hf_weights
from megatron_pz.model.packed_forward import packed_forward
from megatron_pz.model.transformer_config import transformer_config
from megatron_pz.rl.experience import MicroBatch
from megatron_pz.rl.packing import LossWeighting, empty_micro_batch, pack_groups
from megatron_pz.runtime.errors import BadInput
from tests.support.packed_reference import (
    Reference,
    assert_gradients_equal,
    assert_log_probs_equal,
    objective,
    random_groups,
    reference,
)

pytestmark = pytest.mark.usefixtures("topology")

SHAPES = [(17, [5, 1, 9]), (1, [3, 4]), (30, [2, 2, 2, 2, 2, 2, 2, 12])]
RESPONSES = sum(len(lengths) for _, lengths in SHAPES)


@pytest.fixture(scope="module", params=["tiny_qwen3_dir", "tiny_llama_dir", "tiny_smollm3_dir"])
def hf_dir(request: pytest.FixtureRequest) -> Path:
    """Return an untied model with QK norm and wide heads, a tied one, and a tied one with a layer without RoPE."""
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def architecture(hf_dir: Path) -> Architecture:
    return Architecture.from_hf(hf_dir)


@pytest.fixture(scope="module")
def expected(hf_dir: Path, architecture: Architecture) -> Reference:
    return reference(hf_dir, random_groups(architecture.vocab_size, SHAPES, seed=1))


@pytest.fixture
def model(hf_dir: Path, architecture: Architecture) -> GPTModel:
    config = transformer_config(architecture, ModelConfig(hf_model=str(hf_dir), bf16=False), ParallelConfig())
    model = build_model(architecture, config)
    load_hf_weights(model, architecture, HFTensorSource(hf_dir))
    # Padding rows of the vocabulary must have no effect, whatever their values after training.
    head = model.embedding.word_embeddings.weight if architecture.tied_embeddings else model.output_layer.weight
    head.data[architecture.vocab_size :] = 7.0
    assert head.size(0) > architecture.vocab_size
    return model


def rows(architecture: Architecture, micro_batch_tokens: int) -> list[MicroBatch]:
    groups = random_groups(architecture.vocab_size, SHAPES, seed=1)
    weights = LossWeighting.of(groups, "sequence_mean", 100)
    return pack_groups(groups, micro_batch_tokens=micro_batch_tokens, loss_weights=weights, pad_to_multiple=8)


def gradients(model: GPTModel, architecture: Architecture) -> list[tuple[str, torch.Tensor]]:
    """Return gradients by Hugging Face name, through the mapping of the weights."""
    for weight in model.parameters():
        weight.data = weight.grad
    return list(stream_hf_weights([model], architecture))


@pytest.mark.parametrize("micro_batch_tokens", [40, 1000])
def test_packed_equals_transformers_one_by_one(
    model: GPTModel, architecture: Architecture, expected: Reference, micro_batch_tokens: int
) -> None:
    batches = rows(architecture, micro_batch_tokens)
    assert len(batches) == (2 if micro_batch_tokens == 40 else 1)
    for batch in batches:
        output_R2 = packed_forward(model, batch)
        assert output_R2.dtype == torch.float32
        assert_log_probs_equal(output_R2, batch, expected, tolerance=2e-5)
        objective(output_R2[:, 0], batch, RESPONSES).backward()
    assert_gradients_equal(gradients(model, architecture), expected, tolerance=1e-5)


@pytest.mark.parametrize("granularity", ["full", "selective"])
def test_recomputed_activations_change_nothing(
    model: GPTModel, architecture: Architecture, expected: Reference, granularity: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also, no layer reads the row's runs again, which would synchronize with a GPU."""
    read = []
    plain = torch.unique_consecutive
    monkeypatch.setattr(torch, "unique_consecutive", lambda *a, **k: read.append(1) or plain(*a, **k))
    model.config.recompute_granularity = granularity
    model.config.recompute_method, model.config.recompute_num_layers = "uniform", 1
    recomputed = []
    for layer in model.decoder.layers:
        layer.self_attention.checkpoint_core_attention = granularity == "selective"
        layer.self_attention.core_attention.register_forward_hook(lambda *_: recomputed.append(1))
    (batch,) = rows(architecture, 1000)
    objective(packed_forward(model, batch)[:, 0], batch, RESPONSES).backward()
    assert len(recomputed) == 2 * len(model.decoder.layers)
    assert len(read) == 1
    assert_gradients_equal(gradients(model, architecture), expected, tolerance=1e-5)


def test_a_schedule_is_kept_as_long_as_its_row(model: GPTModel, architecture: Architecture) -> None:
    def kept() -> int:
        return sum(not storage.expired() for storage, _ in attention._schedule_of)

    first, second = rows(architecture, 40)
    before = kept()
    for batch in (first, second, first):
        packed_forward(model, batch)
    assert kept() == before + 2
    del first, second, batch
    packed_forward(model, rows(architecture, 1000)[0])
    assert len(attention._schedule_of) <= before + 1


def test_plain_calls_still_give_logits(model: GPTModel, architecture: Architecture, hf_dir: Path) -> None:
    packed_forward(model, rows(architecture, 1000)[0])
    tokens = torch.arange(20).view(2, 10)
    logits = model(tokens, torch.arange(10).expand(2, 10), None)[..., : architecture.vocab_size]
    hf = AutoModelForCausalLM.from_pretrained(hf_dir, dtype=torch.float32)
    torch.testing.assert_close(logits, hf(tokens).logits, rtol=0.0, atol=1e-4)


def test_an_empty_micro_batch_reaches_every_weight_with_zero(model: GPTModel) -> None:
    batch = empty_micro_batch(pad_to_multiple=4)
    objective(packed_forward(model, batch)[:, 0], batch, 1).backward()
    for name, weight in model.named_parameters():
        assert weight.grad is not None and not weight.grad.any(), name


def test_an_error_in_the_model_leaves_no_targets_behind(model: GPTModel, architecture: Architecture) -> None:
    (batch,) = rows(architecture, 1000)

    def fail(*_: object) -> None:
        raise RuntimeError("broken")

    handle = model.decoder.register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="broken"):
        packed_forward(model, batch)
    handle.remove()
    logits = model(batch.tokens_S[None], batch.positions_S[None], batch.segments_2S[None, None])
    assert logits.shape == (1, batch.tokens_S.numel(), model.vocab_size)


@pytest.mark.parametrize(("setting", "value"), [("attention_dropout", 0.1)])
def test_what_the_attention_cannot_do_is_refused(model: GPTModel, setting: str, value: float) -> None:
    setattr(model.config, setting, value)
    with pytest.raises(BadInput, match=str(value)):
        SharedPromptAttention(model.config, 1, AttnMaskType.causal, "self")
