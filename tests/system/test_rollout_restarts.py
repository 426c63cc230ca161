"""If the real vLLM dies during its work, a new engine gives the results of the old one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from megatron_pz.rl.experience import SampleRequest
from megatron_pz.rollout.cpu import platform as cpu_platform
from megatron_pz.rollout.engine import VllmEngine
from megatron_pz.rollout.fault_tolerance import RestartingEngine, TooManyEngineFailures
from megatron_pz.rollout.log_prob_semantics import require_log_prob_semantics
from tests.conftest import TINY_VOCAB_SIZE
from tests.support.rollout_reference import (
    SETTINGS,
    die_in_step,
    perturb,
    random_prompts,
    reference_model,
    weight_stream,
)

PROMPTS = random_prompts(5, vocabulary=TINY_VOCAB_SIZE, shortest=4, longest=90)


@pytest.fixture
def restarting(tiny_llama_dir: Path, one_rank_process_group: None) -> Iterator[RestartingEngine]:
    trainer = reference_model(tiny_llama_dir)
    perturb(trainer, 11)
    with RestartingEngine(
        lambda: VllmEngine(tiny_llama_dir, SETTINGS, seed=0, colocated=True, read_weights=False),
        lambda: weight_stream(trainer),
        exchange=lambda own: [own],
        max_restarts=2,
        check=require_log_prob_semantics,
    ) as engine:
        yield engine


def test_the_step_is_the_same_after_an_engine_has_died(
    restarting: RestartingEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sample() -> list:
        return restarting.generate(PROMPTS, 3, seeds=range(5), max_tokens=12, stop=[])

    expected = sample()
    first = restarting.engine
    assert first.llm.llm_engine.vllm_config.load_config.load_format == "dummy", "the directory is not read"
    die_in_step(first, 4)
    assert sample() == expected, "bit for bit, log-probabilities included, with the trainer's weights"
    assert restarting.engine is not first
    assert restarting.engine.llm.llm_engine.vllm_config.load_config.load_format == "dummy"
    assert not first.healthy()

    plain, calls = cpu_platform.renew_tied_head, []

    def fail_once(model: object) -> None:
        calls.append(model)
        if len(calls) == 1:
            raise MemoryError("no room for the head")
        plain(model)

    monkeypatch.setattr(cpu_platform, "renew_tied_head", fail_once)
    restarting.sync()
    assert len(calls) == restarting.restarts == 2
    assert sample() == expected

    def in_one_queue() -> dict:
        """Run one queue in which each sample requests a second one of the next prompt."""
        requests = [SampleRequest((k, "first"), tuple(PROMPTS[0]), 5, range(k, k + 1), 12) for k in range(3)]

        def follow(key: tuple[int, str], answers: object) -> list[SampleRequest]:
            k, place = key
            return [SampleRequest((k, "then"), tuple(PROMPTS[1]), 6, range(k, k + 1), 12)] if place == "first" else []

        return restarting.answer(requests, stop=[], then=follow)

    expected_of_queue = in_one_queue()
    assert len(expected_of_queue) == 6
    die_in_step(restarting.engine, 14)
    restarting.max_restarts = 3
    assert in_one_queue() == expected_of_queue, "an engine that dies among the follow-ups is asked for everything again"
    restarting.max_restarts = 2

    die_in_step(restarting.engine, 1)
    with pytest.raises(TooManyEngineFailures, match=r"failed \(EngineDeadError: .* after 3 restarts"):
        sample()
