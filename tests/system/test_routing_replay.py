"""Routing replay on the real vLLM: its expert ids, and the log-probabilities under replay."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM, Qwen3MoeForCausalLM

from megatron_pz.config.schema import ModelConfig, ParallelConfig
from megatron_pz.rl.experience import Response, ScoredGroup
from megatron_pz.rl.packing import LossWeighting
from megatron_pz.rollout.engine import VllmEngine
from megatron_pz.rollout.lifecycle import EngineBroken
from megatron_pz.rollout.logprob_mismatch import LogProbDifference
from megatron_pz.rollout.requests import responses_of
from megatron_pz.rollout.vllm_patches import experts_on_all_ranks
from megatron_pz.rollout.weight_sync import load_weights
from megatron_pz.trainer.policy import PolicyModel
from megatron_pz.trainer.topology import Topology
from tests.conftest import MIXTURE_LAYERS, TINY_VOCAB_SIZE
from tests.support.rollout_reference import SETTINGS, largest_difference, perturb, random_prompts, weight_stream
from tests.support.routed_experts import ForcedRouters, checkpoint_tensors, ids_of

PROMPTS = random_prompts(12, vocabulary=TINY_VOCAB_SIZE, shortest=20, longest=90)
PROMPTS.append([*PROMPTS[0][:70], 9, 8, 7])
"""The last one begins as the first one, by more than two blocks of the KV cache."""


@pytest.fixture(scope="module")
def topology() -> Iterator[Topology]:
    alone = Topology.start(ParallelConfig(), seed=1)
    yield alone
    alone.close()


def groups_of(prompts: Sequence[Sequence[int]], sampled: Sequence[Sequence[Response]]) -> list[ScoredGroup]:
    zeros = (0.0,) * len(sampled[0])
    return [
        ScoredGroup("predictor", tuple(prompt), tuple(responses), zeros, zeros)
        for prompt, responses in zip(prompts, sampled, strict=True)
    ]


@torch.no_grad()
def assert_chosen_by(model: Qwen3MoeForCausalLM, groups: Sequence[ScoredGroup]) -> None:
    """Require the ids that transformers' routers choose for the same tokens, except the last one of a response."""
    routers = ForcedRouters(model)
    for group in groups:
        for response in group.responses:
            assert response.prompt_experts == group.responses[0].prompt_experts
            ids = torch.from_numpy(ids_of(group, response, MIXTURE_LAYERS).astype("int64")).sort(-1).values
            model(torch.tensor([[*group.prompt_ids, *response.token_ids]]))
            assert set(routers.preferred) == {0, 2, 3} and not ids[:, 1].any()
            for layer, preferred in routers.preferred.items():
                assert torch.equal(ids[:, layer], preferred[:-1]), (len(group.prompt_ids), layer)


def test_the_engine_returns_the_experts_that_transformers_chooses(tiny_mixture_dir: Path, topology: Topology) -> None:
    """Ids agree with common prefixes, stop strings, one request per sample, before and after a sync of all weights, and
    with a KV cache of 30 blocks, so small that requests are preempted and recomputed."""
    model = Qwen3MoeForCausalLM.from_pretrained(tiny_mixture_dir, dtype=torch.float32)
    small = replace(SETTINGS, rollout_memory_gib=30 * 32 * 4 * 2 * 2 * 32 * 4 / 2**30)
    with VllmEngine(tiny_mixture_dir, small, seed=0, colocated=True, return_experts=True) as engine:
        preempted = preemptions(engine)
        sampled = engine.generate(PROMPTS, 3, seeds=range(13), max_tokens=24, stop=["a", "the"])
        assert_chosen_by(model, groups_of(PROMPTS, sampled))
        assert len({len(response.token_ids) for responses in sampled for response in responses}) > 3
        perturb(model, seed=1)
        load_weights(engine, checkpoint_tensors(weight_stream(model)))
        again = engine.generate(PROMPTS, 3, seeds=range(13), max_tokens=24, stop=[])
        assert_chosen_by(model, groups_of(PROMPTS, again))
        assert largest_difference(model, PROMPTS, again) < 1e-4
        assert preempted
        assert [r.experts for rs in again for r in rs] != [r.experts for rs in sampled for r in rs]


def preemptions(engine: VllmEngine) -> list[str]:
    """Return a list that records the requests that vLLM's scheduler preempts from now on."""
    scheduler = engine.llm.llm_engine.engine_core.engine_core.scheduler
    put_off: list[str] = []
    plain = scheduler._preempt_request

    def preempt(request: object, *rest: object, **more: object) -> None:
        put_off.append(str(request))
        plain(request, *rest, **more)

    scheduler._preempt_request = preempt
    return put_off


@pytest.fixture(scope="module")
def dense_dir(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer_dir: Path) -> Path:
    """Return a dense model with as many weights for each token as the tiny mixture."""
    folder = tmp_path_factory.mktemp("dense")
    with torch.random.fork_rng():
        torch.manual_seed(3)
        config = Qwen3Config(
            vocab_size=TINY_VOCAB_SIZE,
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=MIXTURE_LAYERS,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=32,
            max_position_embeddings=2048,
            tie_word_embeddings=False,
            initializer_range=0.1,
            eos_token_id=0,
        )
        Qwen3ForCausalLM(config).float().save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_tokenizer_dir).save_pretrained(folder)
    return folder


def differences(model_dir: Path, topology: Topology, *, mixture: bool) -> list[LogProbDifference]:
    """Compare a bfloat16 engine with a bfloat16 trainer of the same weights, with and without expert ids."""
    bf16 = replace(SETTINGS, rollout_dtype="bfloat16")
    with VllmEngine(model_dir, bf16, seed=0, colocated=True, return_experts=mixture) as engine:
        groups = groups_of(PROMPTS, engine.generate(PROMPTS, 8, seeds=range(13), max_tokens=32, stop=[]))
    policy = PolicyModel(ModelConfig(hf_model=str(model_dir)), ParallelConfig(), topology)
    found = []
    for ids in (True, False):
        own = (
            groups if ids else [replace(group, responses=tuple(map(without_ids, group.responses))) for group in groups]
        )
        batches = policy.micro_batches(own, LossWeighting.of(own, "sequence_mean", 32), 2048)
        rollout = [batch.rollout_log_probs_R for batch in batches]
        found.append(LogProbDifference.between(policy.log_probs(batches), rollout))
    return found


def without_ids(response: Response) -> Response:
    return replace(response, prompt_experts=b"", experts=b"")


def test_with_replay_a_mixture_is_as_close_to_its_engine_as_a_dense_model(
    tiny_mixture_dir: Path, dense_dir: Path, topology: Topology
) -> None:
    replayed, alone = differences(tiny_mixture_dir, topology, mixture=True)
    dense, same = differences(dense_dir, topology, mixture=False)
    for name, each in {"mixture": alone, "mixture, replayed": replayed, "dense": dense}.items():
        print(f"{name:18} {each.tokens} tokens, mean {each.mean:.4f}, max {each.max:.3f}, k3 {each.k3:.2e}")
    assert dense == same and dense.tokens > 2000
    assert replayed.mean < 0.9 * alone.mean and replayed.max < 0.5 * alone.max
    # The two models round differently. The largest of 3,000 differences varies more than the mean.
    assert replayed.mean <= min(1.2 * dense.mean, 0.025) and replayed.max <= min(2 * dense.max, 0.14)


def test_every_rank_of_an_engine_collects_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    """This runs vLLM's part for GPUs on a rank that is not the first of its engine, without code that needs a GPU."""
    from vllm.distributed.aux_output_connector import worker

    monkeypatch.setattr(worker, "get_tp_group", lambda: SimpleNamespace(is_first_rank=False))
    capturer = SimpleNamespace(shape_per_token=(4, 2), output_dtype_name="uint8")
    monkeypatch.setattr(worker, "RoutedExpertsCapturer", lambda **_: capturer)
    monkeypatch.setattr(worker, "bind_routed_experts_capturer", lambda *_: None)
    monkeypatch.setattr(worker, "resolve_kv_cache_block_sizes", lambda *_: (16, 16))
    config = SimpleNamespace(
        scheduler_config=SimpleNamespace(max_num_batched_tokens=64, max_num_seqs=4),
        aux_output_config=SimpleNamespace(max_bytes=None),
        max_concurrent_batches=1,
    )

    def collects() -> bool:
        cache = SimpleNamespace(num_blocks=8)
        connector = worker.AuxOutputWorkerConnector(vllm_config=config, model=None, kv_cache_config=cache)
        buffer = connector._buffer
        connector.close()
        return buffer is not None

    assert not collects()
    with experts_on_all_ranks():
        assert collects()
    assert not collects()


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (None, "expert ids of the shape None for the 4 tokens"),
        (np.zeros((5, 2, 2), np.uint8), r"of the shape \(5, 2, 2\) for the 4 tokens"),
        (np.zeros((4, 2, 2), np.int32), "of the type int32"),
    ],
)
def test_ids_that_do_not_fit_the_tokens_are_refused(ids: np.ndarray | None, message: str) -> None:
    completion = SimpleNamespace(
        token_ids=[1, 2],
        logprobs=SimpleNamespace(logprobs=[0.0, 0.0]),
        text="",
        finish_reason="stop",
        routed_experts=ids,
    )
    output: Any = SimpleNamespace(prompt_token_ids=[1, 2, 3], outputs=[completion])
    assert responses_of(output)[0].experts == b""
    with pytest.raises(EngineBroken, match=message):
        responses_of(output, with_experts=True)
