"""The real vLLM in this process: sampling, log-probabilities, weight sync. The reference is transformers in float32."""

from __future__ import annotations

import gc
import random
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MethodType
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch._dynamo import convert_frame

from megatron_pz.rl.experience import Decoding, Response, SampleRequest
from megatron_pz.rollout.cpu import platform as cpu_platform
from megatron_pz.rollout.engine import VllmEngine
from megatron_pz.rollout.lifecycle import EngineBroken
from megatron_pz.rollout.log_prob_semantics import LogProbSemanticsError, require_log_prob_semantics
from megatron_pz.rollout.vllm_settings import QUANTIZATION
from megatron_pz.rollout.weight_sync import load_weights
from megatron_pz.runtime.errors import BadInput
from tests.conftest import TINY_VOCAB_SIZE
from tests.support.rollout_reference import (
    SETTINGS,
    largest_difference,
    perturb,
    random_prompts,
    reference_model,
    weight_stream,
)

PROMPTS = random_prompts(6, vocabulary=TINY_VOCAB_SIZE, shortest=1, longest=96)
SEEDS = range(100, 106)
END_TOKEN = 0


@pytest.fixture(scope="module", params=["tied", "untied"])
def model_dir(request: pytest.FixtureRequest, tiny_llama_dir: Path, tiny_qwen3_dir: Path) -> Path:
    return tiny_llama_dir if request.param == "tied" else tiny_qwen3_dir


@pytest.fixture(scope="module")
def engine(model_dir: Path, one_rank_process_group: None) -> Iterator[VllmEngine]:
    with VllmEngine(model_dir, SETTINGS, seed=0, colocated=True) as engine:
        yield engine


@pytest.fixture
def synced(engine: VllmEngine, model_dir: Path) -> Iterator[VllmEngine]:
    """Yield the engine, which gets the checkpoint's weights back after the test."""
    yield engine
    load_weights(engine, weight_stream(reference_model(model_dir)))


def test_greedy_decoding_is_that_of_transformers_and_fills_the_context(engine: VllmEngine, model_dir: Path) -> None:
    """The longest prompt has 96 tokens, as many as training allows; one of 120 leaves 8 of the context of 128."""
    prompts = [PROMPTS[0], random_prompts(1, vocabulary=TINY_VOCAB_SIZE, shortest=120, longest=120)[0]]
    model = reference_model(model_dir)
    found = engine.generate(prompts, 1, seeds=[1, 2], max_tokens=100, stop=[], decoding=Decoding())
    room = [min(100, 128 - len(prompt)) for prompt in prompts]
    for prompt, (response,), most in zip(prompts, found, room, strict=True):
        ids = torch.tensor([prompt])
        expected = model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=most, eos_token_id=END_TOKEN
        )
        assert list(response.token_ids) == expected[0, len(prompt) :].tolist()
        assert response.truncated == (len(response.token_ids) == most and response.token_ids[-1] != END_TOKEN)
    with pytest.raises(BadInput, match="prompt 0 has 128 tokens, and the engine's context 128"):
        engine.generate([[5] * 128], 1, seeds=[1], max_tokens=1, stop=[], decoding=Decoding())
    with pytest.raises(BadInput, match="2 samples of a prompt at temperature 0"):
        engine.generate(prompts, 2, seeds=[1, 2], max_tokens=1, stop=[], decoding=Decoding())


def test_top_p_leaves_only_the_likeliest_tokens(engine: VllmEngine, model_dir: Path) -> None:
    prompt = PROMPTS[1]
    found = engine.generate([prompt], 200, seeds=[7], max_tokens=1, stop=[], decoding=Decoding(1.0, 0.3))[0]
    probs = reference_model(model_dir)(torch.tensor([prompt])).logits[0, -1].softmax(-1).sort(descending=True)
    kept = int((probs.values.cumsum(0) < 0.3).sum()) + 1
    allowed = set(probs.indices[:kept].tolist())
    drawn = {response.token_ids[0] for response in found}
    assert drawn <= allowed and len(drawn) > 1
    everything = engine.generate([prompt], 200, seeds=[7], max_tokens=1, stop=[])[0]
    assert not {response.token_ids[0] for response in everything} <= allowed, "training samples from all tokens"


def test_an_evaluations_text_ends_before_the_stop_string(engine: VllmEngine) -> None:
    sampled = [engine.generate([prompt], 1, seeds=[3], max_tokens=16, stop=[])[0][0].text for prompt in PROMPTS]
    prompt, text = max(zip(PROMPTS, sampled, strict=True), key=lambda pair: len(pair[1]))
    stop = text[len(text) // 2]
    trained, asked = (
        engine.generate([prompt], 1, seeds=[3], max_tokens=16, stop=[stop], decoding=decoding)[0][0].text
        for decoding in (None, Decoding(1.0))
    )
    assert trained == asked + stop and stop not in asked


def test_log_probs_are_those_of_transformers(engine: VllmEngine, model_dir: Path) -> None:
    groups = engine.generate(PROMPTS, 4, seeds=SEEDS, max_tokens=16, stop=[])
    assert [len(group) for group in groups] == [4] * len(PROMPTS)
    assert largest_difference(reference_model(model_dir), PROMPTS, groups) < 1e-4


def test_start_up_check_passes_and_sees_tempered_or_truncated_sampling(
    engine: VllmEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_log_prob_semantics(engine)
    # The engine refuses these settings at its start, so they are set directly.
    for setting, message in (({"temperature": 0.8}, "another temperature"), ({"top_k": 5}, "truncates")):
        monkeypatch.setattr(engine, "rollout", replace(SETTINGS, **setting))
        with pytest.raises(LogProbSemanticsError, match=message):
            require_log_prob_semantics(engine)


def test_equal_seeds_give_equal_samples_whatever_ran_before(engine: VllmEngine) -> None:
    def sample() -> list:
        return engine.generate(PROMPTS, 4, seeds=SEEDS, max_tokens=12, stop=[])

    first = sample()
    engine.generate(PROMPTS[2:5], 3, seeds=[1, 2, 3], max_tokens=5, stop=["e"])
    torch.rand(17)
    assert sample() == first
    assert all(len({response.token_ids for response in group}) == 4 for group in first)


def test_one_batch_with_follow_ups_gives_the_samples_of_separate_calls(engine: VllmEngine) -> None:
    """Three groups of four are requested by sample or as a whole; each sample requests a group that begins with it."""

    def request(key: object, prompt: Sequence[int], seed: int, samples: range, max_tokens: int) -> SampleRequest:
        return SampleRequest(key, tuple(prompt), seed, samples, max_tokens)

    first = engine.generate(PROMPTS[:3], 4, seeds=SEEDS[:3], max_tokens=24, stop=["e"])
    prompts = {
        (prompt, k): response.token_ids for prompt, group in enumerate(first) for k, response in enumerate(group)
    }
    seeds = {key: 500 + number for number, key in enumerate(prompts)}
    second = engine.generate(list(prompts.values()), 2, seeds=list(seeds.values()), max_tokens=12, stop=["e"])
    expected = {key: [group[key[1]]] for key, group in ((key, first[key[0]]) for key in prompts)}
    expected |= {(*key, "next"): group for key, group in zip(prompts, second, strict=True)}
    ended: list[object] = []

    def follow(key: Any, answers: Mapping[Any, Sequence[Response]]) -> list[SampleRequest]:
        assert list(answers)[-1] == key
        ended.append(key)
        if len(key) == 3:
            return []
        (response,) = answers[key]
        return [request((*key, "next"), response.token_ids, seeds[key], range(2), 12)]

    requests = [request(key, PROMPTS[key[0]], SEEDS[key[0]], range(key[1], key[1] + 1), 24) for key in prompts]
    answers = engine.answer(requests, stop=["e"], then=follow)
    assert answers.keys() == expected.keys()
    for key, group in answers.items():
        assert [r.token_ids for r in group] == [r.token_ids for r in expected[key]]
        assert [r.text for r in group] == [r.text for r in expected[key]]
        for response, other in zip(group, expected[key], strict=True):
            assert response.log_probs == pytest.approx(other.log_probs, abs=1e-4)
    assert any(len(key) == 3 for key in ended[: len(prompts)]), "some predictions end before the last proposal does"
    assert engine.answer(requests, stop=["e"], then=follow) == answers, "bit for bit"
    halves = [request(part.start, PROMPTS[0], SEEDS[0], part, 24) for part in (range(2), range(2, 4))]
    parts = engine.answer(halves, stop=["e"])
    assert [r.token_ids for half in (parts[0], parts[2]) for r in half] == [r.token_ids for r in first[0]]
    assert engine.answer([], stop=[]) == {}


def test_a_group_of_equal_prompts_shares_nothing_but_its_prompt(engine: VllmEngine) -> None:
    groups = engine.generate([PROMPTS[0]] * 3, 2, seeds=[7, 7, 8], max_tokens=12, stop=[])
    ids = [[response.token_ids for response in group] for group in groups]
    assert ids[0] == ids[1]
    assert not set(ids[0]) & set(ids[2])


def test_samples_follow_the_probabilities_that_are_reported(engine: VllmEngine, model_dir: Path) -> None:
    """Pearson's chi-square over the first token of 1,200 samples shows that neighbouring seeds act as independent."""
    prompt, n = PROMPTS[1], 1200
    with torch.no_grad():
        expected_V = n * reference_model(model_dir)(torch.tensor([prompt])).logits[0, -1].softmax(-1)
    group = engine.generate([prompt], n, seeds=[5], max_tokens=1, stop=[])[0]
    counts_V = torch.bincount(torch.tensor([r.token_ids[0] for r in group]), minlength=TINY_VOCAB_SIZE)
    # Rare tokens are merged into one cell, so that each cell expects at least 5.
    frequent_V = expected_V >= 5
    expected = torch.cat([expected_V[frequent_V], expected_V[~frequent_V].sum()[None]])
    counts = torch.cat([counts_V[frequent_V], counts_V[~frequent_V].sum()[None]])
    freedom = len(expected) - 1
    assert freedom > 20
    chi_square = float(((counts - expected) ** 2 / expected).sum())
    assert abs(chi_square - freedom) < 4 * (2 * freedom) ** 0.5


def test_responses_end_by_stop_string_end_token_or_length(engine: VllmEngine) -> None:
    groups = engine.generate(PROMPTS, 24, seeds=SEEDS, max_tokens=32, stop=["e"])
    responses = [response for group in groups for response in group]
    by_stop = [r for r in responses if "e" in r.text]
    by_end_token = [r for r in responses if r.token_ids[-1] == END_TOKEN and "e" not in r.text]
    by_length = [r for r in responses if r.truncated]
    assert by_stop and by_end_token and by_length
    assert len(by_stop) + len(by_end_token) + len(by_length) == len(responses)
    assert all(r.text.index("e") == len(r.text) - 1 for r in by_stop)
    assert all(len(r.token_ids) == 32 for r in by_length)
    assert all(len(r.log_probs) == len(r.token_ids) for r in responses)


def test_two_engines_of_one_process_hold_weights_of_their_own(engine: VllmEngine, model_dir: Path) -> None:
    """The end of one engine leaves the shared process groups to the other."""
    trainer, other = reference_model(model_dir), reference_model(model_dir)
    perturb(other, 4)

    def difference(asked: VllmEngine, model: torch.nn.Module) -> float:
        return largest_difference(model, PROMPTS, asked.generate(PROMPTS, 2, seeds=SEEDS, max_tokens=8, stop=[]))

    with VllmEngine(model_dir, SETTINGS, seed=0, colocated=True) as second:
        load_weights(second, weight_stream(other))
        assert difference(second, other) < 1e-4
        assert difference(engine, trainer) < 1e-4
    assert difference(engine, trainer) < 1e-4


def test_budgets_are_enforced_and_an_empty_call_is_fine(engine: VllmEngine) -> None:
    with pytest.raises(BadInput, match=r"prompt 1 has 97 tokens, max_prompt_length allows 1 to 96"):
        engine.generate([[5], [5] * 97], 1, seeds=[0, 1], max_tokens=4, stop=[])
    with pytest.raises(BadInput, match=r"prompt 0 has 0 tokens"):
        engine.generate([[]], 1, seeds=[0], max_tokens=4, stop=[])
    with pytest.raises(BadInput, match=r"max_tokens is 33, max_response_length allows 1 to 32"):
        engine.generate([[5]], 1, seeds=[0], max_tokens=33, stop=[])
    assert engine.generate([], 4, seeds=[], max_tokens=4, stop=[]) == []
    full = engine.generate([[5] * 96], 1, seeds=[0], max_tokens=32, stop=[])[0][0]
    assert full.truncated == (len(full.token_ids) == 32 and full.token_ids[-1] != END_TOKEN)


def test_the_trainers_generators_and_group_are_left_alone(engine: VllmEngine) -> None:
    torch.manual_seed(1)
    random.seed(1)
    before = torch.get_rng_state(), random.getstate()
    engine.generate(PROMPTS, 2, seeds=SEEDS, max_tokens=4, stop=[])
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    ones = torch.ones(3)
    dist.all_reduce(ones)
    assert dist.get_world_size() == 1


def test_synced_weights_are_those_that_generate(synced: VllmEngine, model_dir: Path) -> None:
    trainer = reference_model(model_dir)
    for seed in (1, 2):
        perturb(trainer, seed)
        stale = synced.generate(PROMPTS, 2, seeds=SEEDS, max_tokens=12, stop=[])
        assert largest_difference(trainer, PROMPTS, stale) > 1e-2
        load_weights(synced, weight_stream(trainer))
        fresh = synced.generate(PROMPTS, 2, seeds=SEEDS, max_tokens=12, stop=[])
        assert largest_difference(trainer, PROMPTS, fresh) < 1e-4


def test_the_comparison_would_see_a_stale_tied_head(
    synced: VllmEngine, model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = reference_model(model_dir)
    perturb(trainer, 3)
    monkeypatch.setattr(cpu_platform, "renew_tied_head", lambda model: None)
    load_weights(synced, weight_stream(trainer))
    difference = largest_difference(trainer, PROMPTS, synced.generate(PROMPTS, 2, seeds=SEEDS, max_tokens=12, stop=[]))
    # An untied head receives its own tensor and needs no repair.
    assert difference > 1e-2 if synced.tied_head else difference < 1e-4


def test_prefixes_of_old_weights_are_forgotten(
    synced: VllmEngine, model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = reference_model(model_dir)
    perturb(trainer, 4)
    long_prompts = [prompt for prompt in PROMPTS if len(prompt) > 64]  # more than two blocks of the prefix cache
    seeds = range(len(long_prompts))
    synced.generate(long_prompts, 1, seeds=seeds, max_tokens=1, stop=[])
    load_weights(synced, weight_stream(trainer))
    with monkeypatch.context() as without_reset:
        without_reset.setattr(synced, "reset_prefix_cache", lambda: None)
        stale = synced.generate(long_prompts, 1, seeds=seeds, max_tokens=4, stop=[])
    assert largest_difference(trainer, long_prompts, stale) > 1e-2
    fresh = synced.generate(long_prompts, 1, seeds=seeds, max_tokens=4, stop=[])
    assert largest_difference(trainer, long_prompts, fresh) < 1e-4


def test_the_trainers_memory_is_not_shared(synced: VllmEngine, model_dir: Path) -> None:
    trainer = reference_model(model_dir)
    load_weights(synced, ((name, weight.detach()) for name, weight in trainer.named_parameters()))
    before = synced.generate(PROMPTS, 1, seeds=SEEDS, max_tokens=4, stop=[])
    perturb(trainer, 5)
    assert synced.generate(PROMPTS, 1, seeds=SEEDS, max_tokens=4, stop=[]) == before


def test_vllm_quantises_weights_itself_under_the_name_that_it_is_given() -> None:
    from vllm.config.quantization import resolve_quantization_config

    asked = resolve_quantization_config(QUANTIZATION["fp8"], None)
    assert asked is not None and asked.linear.weight.dtype == asked.moe.weight.dtype == torch.float8_e4m3fn
    assert resolve_quantization_config("fp8", None) is None  # checkpoints have their own


def test_a_broken_stream_ends_the_engine_but_not_the_process(
    tiny_llama_dir: Path, one_rank_process_group: None
) -> None:
    def broken() -> Iterator[tuple[str, torch.Tensor]]:
        yield next(weight_stream(reference_model(tiny_llama_dir)))
        raise ConnectionError("rank 3 is gone")

    with VllmEngine(tiny_llama_dir, SETTINGS, seed=0, colocated=True) as engine:
        load_weights(engine, weight_stream(reference_model(tiny_llama_dir)))
        assert engine.healthy()
        (modules,) = engine.llm.apply_model(_hooked_into_the_compiler)
        with pytest.raises(EngineBroken, match=r"ConnectionError: rank 3 is gone.*start a new one"):
            load_weights(engine, broken())
        assert not engine.healthy()
        for use in (
            lambda: engine.generate(PROMPTS, 1, seeds=SEEDS, max_tokens=1, stop=[]),
            lambda: load_weights(engine, weight_stream(reference_model(tiny_llama_dir))),
        ):
            with pytest.raises(EngineBroken, match="rank 3 is gone"):
                use()
    gc.collect()
    assert [name for name, module in modules.items() if module() is not None] == []  # the engines' memory is free
    engine.close()  # a second time
    with pytest.raises(EngineBroken):
        engine.generate(PROMPTS, 1, seeds=SEEDS, max_tokens=1, stop=[])
    assert dist.get_world_size() == 1


def _hooked_into_the_compiler(model: torch.nn.Module) -> dict[str, weakref.ref[torch.nn.Module]]:
    """Return a vLLM model's modules after hooking its layers as vLLM does when it compiles them on a GPU."""
    layers = model.model
    layers.hook = MethodType(lambda self, old, new: None, layers)
    convert_frame.register_bytecode_hook(layers.hook)
    return {name: weakref.ref(module) for name, module in model.named_modules()}
