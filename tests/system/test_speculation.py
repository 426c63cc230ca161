"""vLLM's n-gram drafts in this process: the same samples in fewer passes. The truth is an engine without drafts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from megatron_pz.rl.experience import Decoding, Response
from megatron_pz.rollout.engine import VllmEngine
from megatron_pz.rollout.weight_sync import load_weights
from tests.conftest import TINY_VOCAB_SIZE
from tests.support.rollout_reference import (
    SETTINGS,
    largest_difference,
    random_prompts,
    reference_model,
    weight_stream,
)

SPECULATIVE = replace(SETTINGS, rollout_speculative_tokens=4, rollout_max_num_seqs=256)
SEEDS = range(100, 106)


def quoting(count: int, period: int) -> list[list[int]]:
    """Prompts that repeat a few random tokens again and again."""
    words = random_prompts(count, vocabulary=TINY_VOCAB_SIZE, shortest=period, longest=period, seed=3)
    return [(each * 90)[: 60 + number] for number, each in enumerate(words)]


PROMPTS = quoting(3, 5) + quoting(3, 2)


def confident(model_dir: Path) -> torch.nn.Module:
    """A model with few likely tokens, so that some drafts are right and some are wrong."""
    model = reference_model(model_dir)
    with torch.no_grad():
        model.lm_head.weight.mul_(3.0)
    return model


@pytest.fixture(scope="module")
def model(tiny_qwen3_dir: Path) -> torch.nn.Module:
    return confident(tiny_qwen3_dir)


@pytest.fixture(scope="module")
def plain(tiny_qwen3_dir: Path, model: torch.nn.Module, one_rank_process_group: None) -> Iterator[VllmEngine]:
    with VllmEngine(tiny_qwen3_dir, SETTINGS, seed=0, colocated=True, read_weights=False) as engine:
        load_weights(engine, weight_stream(model))
        yield engine


@pytest.fixture(scope="module")
def drafting(tiny_qwen3_dir: Path, model: torch.nn.Module, one_rank_process_group: None) -> Iterator[VllmEngine]:
    with VllmEngine(tiny_qwen3_dir, SPECULATIVE, seed=0, colocated=True, read_weights=False) as engine:
        load_weights(engine, weight_stream(model))
        yield engine


def parts(groups: list[list[Response]]) -> list[list[tuple]]:
    return [[(r.token_ids, r.text, r.truncated) for r in group] for group in groups]


@pytest.mark.parametrize(
    ("stop", "decoding"), [([], None), (["e", "t"], None), ([], Decoding()), (["e"], Decoding(0.7, 0.8))]
)
def test_drafts_change_no_sample(
    plain: VllmEngine, drafting: VllmEngine, model: torch.nn.Module, stop: list[str], decoding: Decoding | None
) -> None:
    n = 1 if decoding and not decoding.temperature else 8
    expected = plain.generate(PROMPTS, n, seeds=SEEDS, max_tokens=32, stop=stop, decoding=decoding)
    drafting.take_draft_counts()
    found = drafting.generate(PROMPTS, n, seeds=SEEDS, max_tokens=32, stop=stop, decoding=decoding)
    counts = drafting.take_draft_counts()
    assert parts(found) == parts(expected)
    assert 0 < counts.accepted < counts.drafted
    assert counts.passes < sum(len(r.token_ids) for group in found for r in group) or stop
    for group, others in zip(found, expected, strict=True):
        for response, other in zip(group, others, strict=True):
            assert response.log_probs == pytest.approx(other.log_probs, abs=1e-4)
    if decoding is None:
        assert largest_difference(model, PROMPTS, found) < 1e-4
    again = drafting.generate(PROMPTS, n, seeds=SEEDS, max_tokens=32, stop=stop, decoding=decoding)
    assert again == found, "bit for bit"


def test_drafts_that_the_scheduler_cuts_change_no_sample(drafting: VllmEngine) -> None:
    expected = drafting.generate(PROMPTS, 8, seeds=SEEDS, max_tokens=32, stop=[])
    whole = drafting.take_draft_counts()
    scheduler = drafting.llm.llm_engine.engine_core.engine_core.scheduler
    before = scheduler.max_num_scheduled_tokens
    scheduler.max_num_scheduled_tokens = 70  # 48 responses, each of which asks for up to five
    try:
        found = drafting.generate(PROMPTS, 8, seeds=SEEDS, max_tokens=32, stop=[])
    finally:
        scheduler.max_num_scheduled_tokens = before
    assert parts(found) == parts(expected)
    assert 0 < drafting.take_draft_counts().drafted < whole.drafted
