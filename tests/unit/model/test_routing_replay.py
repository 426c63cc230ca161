"""Replay in packed sequences, compared with transformers with the same forced experts, response by response."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

from megatron_pz.config.schema import ModelConfig, OptimizerConfig, ParallelConfig
from megatron_pz.model import routing_replay
from megatron_pz.model.hf_stream import stream_hf_weights
from megatron_pz.rl.experience import MicroBatch, OldAndReferenceLogProbs, ScoredGroup
from megatron_pz.rl.packing import LossWeighting
from megatron_pz.rl.statistics import LossStatistics
from megatron_pz.trainer.policy import Policy, UpdateResult
from megatron_pz.trainer.topology import Topology
from tests.support.packed_reference import random_groups
from tests.support.routed_experts import ForcedRouters, checkpoint_tensors, ids_of, with_random_experts

LAYERS, EXPERTS, CHOSEN = 3, 8, 2
SHAPES = [(17, [5, 1, 9]), (3, [3, 4]), (23, [2, 2, 3, 8])]
RESPONSES = sum(len(lengths) for _, lengths in SHAPES)
Tokens = tuple[int, ...]


@pytest.fixture(scope="module", params=[True, False], ids=["normalized", "not normalized"])
def mixture(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a mixture of three layers, the second without experts."""
    folder = tmp_path_factory.mktemp("mixture")
    with torch.random.fork_rng():
        torch.manual_seed(5)
        config = Qwen3MoeConfig(
            vocab_size=331,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=LAYERS,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=8,
            num_experts=EXPERTS,
            num_experts_per_tok=CHOSEN,
            moe_intermediate_size=24,
            norm_topk_prob=request.param,
            mlp_only_layers=[1],
            initializer_range=0.1,
            tie_word_embeddings=False,
        )
        Qwen3MoeForCausalLM(config).float().save_pretrained(folder)
    return folder


@pytest.fixture
def make_policy(mixture: Path, topology: Topology) -> Callable[..., Policy]:
    def make(**layout: object) -> Policy:
        parallel = replace(ParallelConfig(), **layout)  # type: ignore[arg-type]
        model = ModelConfig(hf_model=str(mixture), bf16=False, moe_enable_routing_replay=True)
        return Policy(model, parallel, OptimizerConfig(clip_grad=1e9), topology)

    return make


def groups(experts: bool = True) -> list[ScoredGroup]:
    plain = random_groups(331, SHAPES, seed=1)
    if not experts:
        return plain
    return with_random_experts(plain, layers=LAYERS, experts=EXPERTS, per_token=CHOSEN, seed=2)


def pack(policy: Policy, of: list[ScoredGroup], tokens: int) -> list[MicroBatch]:
    return policy.micro_batches(of, LossWeighting.of(of, "sequence_mean", 100), tokens)


def loss(
    log_probs_R: torch.Tensor, entropy_R: torch.Tensor, batch: MicroBatch, frozen: OldAndReferenceLogProbs
) -> tuple[torch.Tensor, LossStatistics]:
    """Return minus the sum over responses of advantage * mean log-probability."""
    value = -(log_probs_R * batch.advantages_R * batch.loss_weights_R).sum() * RESPONSES
    return value, LossStatistics.zero(log_probs_R.device)


def updated(policy: Policy, batches: list[MicroBatch]) -> tuple[UpdateResult, dict[str, torch.Tensor]]:
    """Update; return the result and the gradients by Hugging Face name. The policy cannot be used afterwards."""
    result = policy.update(batches, loss, 0.0)
    for weight in policy.chunks[0].parameters():
        weight.data = weight.main_grad.clone()
    return result, {name: t.clone() for name, t in stream_hf_weights(policy.chunks, policy.architecture)}


@pytest.fixture(scope="module")
def expected(mixture: Path) -> tuple[dict[Tokens, torch.Tensor], dict[str, torch.Tensor], int]:
    """Return transformers' log-probabilities by response, gradients, and (token, layer) pairs routed differently by its
    own routers; every prompt and distinct response counts once, as in packing."""
    model = Qwen3MoeForCausalLM.from_pretrained(mixture, dtype=torch.float32)
    routers, log_probs, differing, objective = ForcedRouters(model), {}, 0, torch.zeros(())
    for group in groups():
        counted: set[Tokens] = set()
        for response, advantage in zip(group.responses, group.advantages, strict=True):
            ids = ids_of(group, response, LAYERS)
            with routers.choose(ids):
                logits = model(torch.tensor([group.prompt_ids + response.token_ids])).logits[0]
            first = len(group.prompt_ids)
            of_tokens = (
                logits[first - 1 : -1].log_softmax(-1).gather(1, torch.tensor(response.token_ids)[:, None])[:, 0]
            )
            objective = objective - advantage * of_tokens.mean()
            log_probs[response.token_ids] = of_tokens.detach()
            for layer, preferred in routers.preferred.items():
                given = torch.from_numpy(ids[:, layer].astype("int64")).sort(-1).values
                differs = (preferred[: len(ids)] != given).any(-1)
                differing += int(differs[:first].sum()) * (not counted)
                differing += int(differs[first:].sum()) * (response.token_ids not in counted)
            counted.add(response.token_ids)
    objective.backward()
    gradients = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    return log_probs, dict(checkpoint_tensors(gradients.items())), differing


RECOMPUTED = {"recompute_granularity": "full"}


@pytest.mark.parametrize("tokens", [48, 1000])
@pytest.mark.parametrize(
    "layout",
    [{}, RECOMPUTED, {**RECOMPUTED, "recompute_method": "block", "recompute_num_layers": 1}],
    ids=["stored", "recomputed", "first layer recomputed"],
)
def test_replay_is_transformers_with_the_same_experts(
    layout: dict[str, object], tokens: int, make_policy: Callable[..., Policy], expected: tuple
) -> None:
    log_probs, gradients, differing = expected
    policy = make_policy(**layout)
    batches = pack(policy, groups(), tokens)
    assert len(batches) == (2 if tokens == 48 else 1)
    for batch, found_R in zip(batches, policy.log_probs(batches), strict=True):
        for number in batch.response_index_R.unique():
            here = batch.response_index_R == number
            torch.testing.assert_close(
                found_R[here], log_probs[tuple(batch.labels_R[here].tolist())], rtol=0, atol=2e-5
            )
    result, found = updated(policy, batches)
    assert found.keys() == gradients.keys()
    for name, gradient in gradients.items():
        assert (found[name] - gradient).norm() <= 1e-5 * gradient.norm(), name
    assert sum(gradient.abs().sum() for name, gradient in gradients.items() if name.endswith("mlp.gate.weight")) > 0
    computed = sum(len(group.prompt_ids) for group in groups()) + sum(
        len(tokens) - 1 for group in groups() for tokens in {response.token_ids for response in group.responses}
    )
    assert result.replayed_choices == computed * (LAYERS - 1)
    assert result.differing_choices == differing


def test_tokens_without_ids_go_where_the_router_sends_them(make_policy: Callable[..., Policy]) -> None:
    """A step may have both kinds, because pending proposals of an old checkpoint have no ids."""
    policy = make_policy()
    mixed = [groups()[0], *groups(experts=False)[1:]]
    replayed, plain, both = (
        {number: of_group(batches, found, number) for number in range(len(SHAPES))}
        for of in (groups(), groups(experts=False), mixed)
        for batches in [pack(policy, of, 1000)]
        for found in [policy.log_probs(batches)]
    )
    torch.testing.assert_close(both[0], replayed[0], rtol=0, atol=1e-5)
    for number in (1, 2):
        torch.testing.assert_close(both[number], plain[number], rtol=0, atol=1e-5)
    assert (replayed[0] - plain[0]).abs().max() > 0.01
    assert policy.update(pack(policy, groups(experts=False), 1000), loss, 0.0).replayed_choices == 0


def of_group(batches: list[MicroBatch], found: list[torch.Tensor], number: int) -> torch.Tensor:
    parts = zip(batches, found, strict=True)
    return torch.cat([found_R[batch.group_index_R == number] for batch, found_R in parts])


def test_a_pass_that_failed_leaves_nothing_for_the_next_one(make_policy: Callable[..., Policy]) -> None:
    policy = make_policy(**RECOMPUTED)
    batches = pack(policy, groups(), 1000)

    def failing(*_: object) -> tuple[torch.Tensor, LossStatistics]:
        raise RuntimeError("before the backward pass")

    with pytest.raises(RuntimeError, match="before the backward pass"):
        policy.update(batches, failing, 0.0)
    fresh = make_policy(**RECOMPUTED)
    assert torch.equal(
        torch.cat([t.flatten() for t in updated(policy, pack(policy, groups(), 48))[1].values()]),
        torch.cat([t.flatten() for t in updated(fresh, pack(fresh, groups(), 48))[1].values()]),
    )


def test_ids_of_more_than_256_experts_take_two_bytes() -> None:
    ids = torch.tensor([[[300, 7], [1, 2]], [[65535, 0], [5, 260]]])
    rows = ids.to(torch.uint16).flatten(1).view(torch.uint8)
    tokens = routing_replay.ReplayedTokens(rows, torch.ones(2, dtype=torch.bool))
    assert torch.equal(tokens.of_layer(1, 2, 2), ids[:, 1])
    with pytest.raises(RuntimeError, match="8 bytes of expert ids a token are not those of 3 layers with 2 experts"):
        tokens.of_layer(1, 3, 2)
