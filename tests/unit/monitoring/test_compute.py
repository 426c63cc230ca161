"""The count of compute: small cases by hand, and torch's own count of the operations of a Hugging Face model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM

from megatron_pz.hf.architecture import Architecture, Experts
from megatron_pz.monitoring.compute import ComputeUsed, FlopCounter
from megatron_pz.rl.experience import Response, ScoredGroup
from tests.conftest import TINY_VOCAB_SIZE


def response(*tokens: int) -> Response:
    return Response(tokens, (0.0,) * len(tokens), "", False)


def group(prompt: int, *responses: Response) -> ScoredGroup:
    nothing = (0.0,) * len(responses)
    return ScoredGroup("predictor", tuple(range(prompt)), responses, nothing, nothing)


def test_tokens_by_hand(tiny_llama_dir: Path) -> None:
    costs = FlopCounter(Architecture.from_hf(tiny_llama_dir))
    two = [group(10, response(1, 2), response(3), response(1, 2)), group(4, response(5, 6, 7))]
    # Equal responses occur once in a packed row, but are sampled separately.
    assert costs.training(two, passes=2).trained_tokens == 2 * (10 + 2 + 1 + 4 + 3)
    assert costs.scoring(two).scored_tokens == 10 + 2 + 1 + 4 + 3
    sampled = costs.sampling(10, two[0].responses)
    assert (sampled.prefilled_tokens, sampled.sampled_tokens) == (10, 2 + 1 + 2)
    assert costs.training(two).flops == 3 * costs.scoring(two).flops
    both = costs.training(two) + sampled
    assert both.metrics()["compute/sampled_tokens"] == 5.0
    assert both.flops == costs.training(two).flops + sampled.flops
    assert costs.training([]) + costs.scoring(two, passes=0) == ComputeUsed()


@pytest.mark.parametrize("fixture", ["tiny_llama_dir", "tiny_qwen3_dir"])
def test_operations_are_those_that_torch_counts(fixture: str, request: pytest.FixtureRequest) -> None:
    """All logits of the sequence are computed, and torch counts attention over all pairs, masked or not."""
    folder = request.getfixturevalue(fixture)
    arch, length = Architecture.from_hf(folder), 24
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.arange(length)[None])
    per_pair = 4 * arch.num_layers * arch.num_attention_heads * arch.kv_channels
    masked = length * (length - 1) / 2
    # With a prompt of one token and the rest as a response, every token except the last one predicts.
    ours = FlopCounter(arch).scoring([group(1, response(*range(1, length)))]).flops
    last = 2 * arch.hidden_size * TINY_VOCAB_SIZE
    assert ours + per_pair * masked + last == counter.get_total_flops()


def test_a_mixture_counts_its_router_and_the_chosen_experts(tiny_llama_dir: Path) -> None:
    from dataclasses import replace

    dense = Architecture.from_hf(tiny_llama_dir)
    experts = Experts(
        number=8, per_token=2, ffn_hidden_size=dense.ffn_hidden_size, normalized=True, in_layer=(True, False)
    )
    mixture = replace(dense, experts=experts)
    one = [group(1, response(1))]
    more = FlopCounter(mixture).scoring(one).flops - FlopCounter(dense).scoring(one).flops
    # For two tokens, in one of two layers: one more expert of three matrices, and the router.
    assert more == 2 * 2 * (3 * dense.hidden_size * dense.ffn_hidden_size + 8 * dense.hidden_size)
