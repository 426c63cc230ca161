"""Drafts do not change samples and log-probabilities, tested with a Markov chain as model and an imitated vLLM."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from megatron_pz.config.schema import RolloutConfig
from megatron_pz.rollout import speculation
from megatron_pz.rollout.cpu.cpu_sampling import inverse_transform
from megatron_pz.rollout.platform import GpuPlatform
from megatron_pz.rollout.speculation import (
    NO_TOKEN,
    DraftCounts,
    SampledVerification,
    require_speculation,
    sample_and_match,
    speculation_arguments,
)
from megatron_pz.rollout.vllm_settings import engine_arguments, set_environment
from megatron_pz.runtime.errors import BadInput

VOCABULARY, LENGTH = 5, 20
CHAIN_VV = (2 * torch.randn(VOCABULARY, VOCABULARY, generator=torch.Generator().manual_seed(0))).contiguous()
"""Logits of the next token by the last one."""


class LogProbs(NamedTuple):
    logprob_token_ids: Tensor
    logprobs: Tensor
    selected_token_ranks: Tensor
    cu_num_generated_tokens: list[int] | None = None


@dataclass
class Sampled:
    sampled_token_ids: Tensor
    logprobs_tensors: LogProbs | None


class Processors(NamedTuple):
    argmax_invariant: tuple = ()
    non_argmax_invariant: tuple = ()


NO_PROCESSORS = Processors()


@dataclass
class Sampling:
    """The relevant fields of vLLM's SamplingMetadata."""

    generators: dict[int, torch.Generator]
    temperature: Tensor
    top_p: Tensor | None = None
    top_k: Tensor | None = None
    no_penalties: bool = True
    allowed_token_ids_mask: Tensor | None = None
    bad_words_token_ids: dict | None = None
    logprob_token_ids: dict | None = None
    logitsprocs: Any = NO_PROCESSORS


def sampler(logits: Tensor, sampling_metadata: Sampling) -> Sampled:
    """Draw one token of each request, as vLLM's sampler does on a CPU."""
    log_probs_BV = (logits / sampling_metadata.temperature[:, None]).log_softmax(-1)
    uniform_B = torch.rand(len(logits), dtype=torch.float64)
    for row, generator in sampling_metadata.generators.items():
        uniform_B[row] = torch.rand((), generator=generator, dtype=torch.float64)
    tokens_B1 = inverse_transform(log_probs_BV.exp(), uniform_B)[:, None]
    ranks_B = (log_probs_BV > log_probs_BV.gather(1, tokens_B1)).sum(1)
    return Sampled(tokens_B1.int(), LogProbs(tokens_B1.int(), log_probs_BV.gather(1, tokens_B1), ranks_B))


Drafter = Callable[[int, list[int]], list[int]]


def run(requests: int, drafter: Drafter, temperatures: Sequence[float]) -> tuple[list[list[tuple]], int]:
    """Decode all requests to LENGTH tokens as vLLM's model runner does; return (token, log-probability and rank)."""
    generators = [torch.Generator().manual_seed(50 + request) for request in range(requests)]
    done: list[list[tuple]] = [[] for _ in range(requests)]
    accepted = 0
    while batch := [request for request in range(requests) if len(done[request]) < LENGTH]:
        texts = [[0, *(token for token, _, _ in done[request])] for request in batch]
        drafts = [drafter(request, text) for request, text in zip(batch, texts, strict=True)]
        logits = torch.cat([CHAIN_VV[[text[-1], *draft]] for text, draft in zip(texts, drafts, strict=True)])
        sampling = Sampling(
            {place: generators[request] for place, request in enumerate(batch)},
            torch.tensor([temperatures[request] for request in batch]),
        )
        output, matched = sample_and_match(sampler, drafts, logits, sampling)
        accepted += matched
        tokens_BP = output.sampled_token_ids
        places = tokens_BP.size(1)
        for row, request in enumerate(batch):
            for place, token in enumerate(tokens_BP[row].tolist()):
                if token != NO_TOKEN:
                    log_probs = output.logprobs_tensors
                    at = row * places + place
                    assert int(log_probs.logprob_token_ids[at, 0]) == token
                    done[request].append(
                        (token, float(log_probs.logprobs[at, 0]), int(log_probs.selected_token_ranks[at]))
                    )
    return [each[:LENGTH] for each in done], accepted


def likeliest(request: int, text: list[int]) -> list[int]:
    draft = [text[-1]]
    for _ in range(4):
        draft.append(int(CHAIN_VV[draft[-1]].argmax()))
    return draft[1:]


def at_random(request: int, text: list[int]) -> list[int]:
    draw = torch.Generator().manual_seed(1000 * request + len(text))
    return torch.randint(VOCABULARY, (int(torch.randint(4, (), generator=draw)),), generator=draw).tolist()


@pytest.mark.parametrize("drafter", [likeliest, at_random, lambda _, __: [NO_TOKEN] * 3])
def test_tokens_and_log_probs_are_those_without_drafts(drafter: Drafter) -> None:
    temperatures = [1.0, 0.5, 1.0, 1.5, 1.0, 1.0]
    expected, none = run(6, lambda _, __: [], temperatures)
    found, accepted = run(6, drafter, temperatures)
    assert found == expected
    assert none == 0
    assert (accepted > 0) == (drafter in (likeliest, at_random))
    assert run(3, drafter, temperatures)[0] == expected[:3], "nor do they depend on the rest of the batch"


def test_ten_thousand_draws_follow_the_exact_probabilities() -> None:
    """This covers a drafted token, and the one after a right draft."""
    draws, draft = 10_000, int(CHAIN_VV[0].argsort(descending=True)[1])
    generators = {number: torch.Generator().manual_seed(number) for number in range(draws)}
    output, accepted = sample_and_match(
        sampler,
        [[draft]] * draws,
        CHAIN_VV[[0, draft]].repeat(draws, 1),
        Sampling(generators, torch.ones(draws)),
    )
    first, second = output.sampled_token_ids.unbind(1)
    right = first == draft
    assert accepted == int(right.sum()) > draws / 20
    assert torch.equal(second != NO_TOKEN, right)
    for tokens, last in ((first, 0), (second[right], draft)):
        expected_V = len(tokens) * CHAIN_VV[last].double().softmax(-1)
        counts_V = torch.bincount(tokens, minlength=VOCABULARY)
        chi_square = float(((counts_V - expected_V) ** 2 / expected_V).sum())
        assert chi_square < 18.5, "the 0.1 % quantile of four degrees of freedom"


@pytest.mark.parametrize(
    "parameter",
    [
        {"no_penalties": False},
        {"bad_words_token_ids": {0: [[1]]}},
        {"allowed_token_ids_mask": torch.zeros(1, VOCABULARY)},
        {"logitsprocs": Processors((), (SimpleNamespace(min_toks={0: 2}),))},
    ],
)
def test_parameters_that_look_back_are_refused(parameter: dict[str, Any]) -> None:
    with pytest.raises(NotImplementedError, match="temperature, top-p and top-k alone"):
        sample_and_match(sampler, [[1]], CHAIN_VV[[0, 1]], Sampling({}, torch.ones(1), **parameter))


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """Imitate the part of vLLM that the checks use."""
    fake = SimpleNamespace(
        OutputProcessor=type("OutputProcessor", (), {"_trim_surplus_tokens": None}),
        RejectionSampler=type("RejectionSampler", (), {}),
    )
    for name in ("vllm", "vllm.v1", "vllm.v1.engine", "vllm.v1.sample"):
        monkeypatch.setitem(sys.modules, name, SimpleNamespace(__path__=[]))
    for name in ("vllm.v1.engine.output_processor", "vllm.v1.sample.rejection_sampler"):
        monkeypatch.setitem(sys.modules, name, fake)
    return fake


def test_releases_that_would_give_other_samples_are_refused(
    vllm: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_speculation()
    with monkeypatch.context() as without:
        without.setattr(vllm, "OutputProcessor", object)
        with pytest.raises(BadInput, match="leaves tokens after a stop string"):
            require_speculation()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BadInput, match="numba, which is not installed"):
        require_speculation()


def test_the_second_model_runner_is_refused(vllm: SimpleNamespace) -> None:
    with pytest.raises(BadInput, match=r"first model runner.*VLLM_USE_V2_MODEL_RUNNER=0"):
        SampledVerification().install(SimpleNamespace(model_runner=SimpleNamespace(sampler=None)))


def test_an_engine_is_verified_and_counted(vllm: SimpleNamespace) -> None:
    rejection = vllm.RejectionSampler()
    verification = SampledVerification()
    verification.install(SimpleNamespace(model_runner=SimpleNamespace(sampler=sampler, rejection_sampler=rejection)))
    tokens = torch.tensor([1, 2, NO_TOKEN, NO_TOKEN])  # vLLM pads a short prompt's row with the last two
    metadata = SimpleNamespace(draft_token_ids=tokens, num_draft_tokens=[2, 0, 2])
    logits = CHAIN_VV[[0, 1, 2, 4, 0, 0, 0]]
    output = rejection.forward(metadata, None, logits, Sampling({}, torch.ones(3)))
    sampled = int((output.sampled_token_ids != NO_TOKEN).sum())
    assert verification.take_counts() == DraftCounts(drafted=2, accepted=sampled - 3, passes=3)
    assert verification.take_counts() == DraftCounts()
    assert speculation.drafts_of(metadata) == [[1, 2], [], [NO_TOKEN, NO_TOKEN]]


def test_drafts_are_off_by_default_and_asked_of_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "speculative_config" not in engine_arguments(RolloutConfig(), GpuPlatform(), colocated=True)
    asked = engine_arguments(RolloutConfig(rollout_speculative_tokens=6), GpuPlatform(), colocated=True)
    assert asked["speculative_config"]["method"] == "ngram"
    assert asked["speculative_config"]["num_speculative_tokens"] == 6
    assert "num_speculative_tokens_per_batch_size" not in asked["speculative_config"]
    tail = RolloutConfig(rollout_speculative_tokens=6, rollout_speculative_max_seqs=8, rollout_max_num_seqs=32)
    schedule = speculation_arguments(tail)["speculative_config"]["num_speculative_tokens_per_batch_size"]
    assert schedule == [(1, 8, 6), (9, 9, 0)]
    for before, after in (({}, "0"), ({"VLLM_USE_V2_MODEL_RUNNER": "1"}, "1")):
        environment = dict(before)
        monkeypatch.setattr("os.environ", environment)
        set_environment(colocated=False, speculative=False)
        assert environment.get("VLLM_USE_V2_MODEL_RUNNER") == before.get("VLLM_USE_V2_MODEL_RUNNER")
        set_environment(colocated=False, speculative=True)
        assert environment["VLLM_USE_V2_MODEL_RUNNER"] == after


def test_an_engine_may_look_through_llvmlite() -> None:
    ffi = pytest.importorskip("llvmlite.binding.ffi")
    speculation.answer_module_scan()
    assert vars(ffi.lib).get("kernel") is None
