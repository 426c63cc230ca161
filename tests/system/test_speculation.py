"""vLLM's n-gram drafts give the same samples in fewer passes. The reference is an engine without drafts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from megatron_pz.rl.experience import Decoding, Response
from megatron_pz.rollout.engine import VllmEngine
from megatron_pz.rollout.speculation import speculation_arguments
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
DRAWS = 10_000


def quoting(count: int, period: int) -> list[list[int]]:
    """Return prompts that repeat a few random tokens."""
    words = random_prompts(count, vocabulary=TINY_VOCAB_SIZE, shortest=period, longest=period, seed=3)
    return [(each * 90)[: 60 + number] for number, each in enumerate(words)]


PROMPTS = quoting(3, 5) + quoting(3, 2)


def confident(model_dir: Path) -> torch.nn.Module:
    """Return a model with few likely tokens, so that some drafts are right and some are wrong."""
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
def threads() -> int:
    return torch.get_num_threads()


@pytest.fixture(scope="module")
def drafting(
    tiny_qwen3_dir: Path, model: torch.nn.Module, one_rank_process_group: None, threads: int
) -> Iterator[VllmEngine]:
    with VllmEngine(tiny_qwen3_dir, SPECULATIVE, seed=0, colocated=True, read_weights=False) as engine:
        load_weights(engine, weight_stream(model))
        yield engine


def test_the_trainer_keeps_its_number_of_threads(drafting: VllmEngine, threads: int) -> None:
    """With more threads, a repeated run may round differently. numba starts with the first drafts."""
    drafting.generate(PROMPTS, 1, seeds=SEEDS, max_tokens=4, stop=[])
    assert torch.get_num_threads() == threads


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


def draft_the_last_token(worker: Any) -> None:
    """Make a vLLM worker draft for every response in every pass; for ``LLM.collective_rpc``."""

    def propose(count: int, sampled: list[list[int]], lengths: Any, tokens: Any, **_: object) -> list[list[int]]:
        return [[int(tokens[row, lengths[row] - 1])] * count if new else [] for row, new in enumerate(sampled)]

    worker.model_runner.drafter.propose = propose


def draft_by_ngrams(worker: Any) -> None:
    """Undo :func:`draft_the_last_token`."""
    del worker.model_runner.drafter.propose


def test_wrong_drafts_in_every_pass_change_no_sample(drafting: VllmEngine) -> None:
    expected = drafting.generate(PROMPTS, 8, seeds=SEEDS, max_tokens=32, stop=[])
    drafting.llm.collective_rpc(draft_the_last_token)
    drafting.take_draft_counts()
    try:
        found = drafting.generate(PROMPTS, 8, seeds=SEEDS, max_tokens=32, stop=[])
    finally:
        drafting.llm.collective_rpc(draft_by_ngrams)
    counts = drafting.take_draft_counts()
    assert parts(found) == parts(expected)
    assert counts.drafted > 2 * counts.passes and counts.accepted < counts.drafted / 2


def test_drafts_of_a_tail_alone_change_no_sample(drafting: VllmEngine) -> None:
    from vllm.v1.spec_decode.dynamic.utils import build_dynamic_sd_schedule_lookup

    expected = drafting.generate(PROMPTS, 8, seeds=SEEDS, max_tokens=32, stop=["e", "t"])
    always = drafting.take_draft_counts()
    tail = speculation_arguments(replace(SPECULATIVE, rollout_speculative_max_seqs=12))["speculative_config"]
    schedule, tokens = tail["num_speculative_tokens_per_batch_size"], tail["num_speculative_tokens"]
    scheduler = drafting.llm.llm_engine.engine_core.engine_core.scheduler
    scheduler.dynamic_sd_lookup = build_dynamic_sd_schedule_lookup(schedule, SPECULATIVE.rollout_max_num_seqs, tokens)
    try:
        found = drafting.generate(PROMPTS, 8, seeds=SEEDS, max_tokens=32, stop=["e", "t"])
    finally:
        scheduler.dynamic_sd_lookup = None
    assert parts(found) == parts(expected)
    assert 0 < drafting.take_draft_counts().drafted < always.drafted


@torch.no_grad()
def distribution(model: torch.nn.Module, tokens: list[int]) -> torch.Tensor:
    return model(torch.tensor([tokens])).logits[0, -1].double().softmax(-1)


def copying_prompt(model: torch.nn.Module) -> tuple[list[int], list[int]]:
    """Return a prompt and a likely continuation that follows the last token elsewhere in it, so that it is drafted."""
    best: tuple[float, list[int], list[int]] = (0.0, [], [])
    for start in random_prompts(60, vocabulary=TINY_VOCAB_SIZE, shortest=3, longest=3, seed=11):
        likely = [int(distribution(model, start * 3).argmax())]
        prompt = [*start, likely[0], *start]
        for _ in range(2):
            likely.append(int(distribution(model, [*prompt, *likely]).argmax()))
        prompt = [*start, *likely, *start]
        chances = [float(distribution(model, [*prompt, *likely[:k]])[token]) for k, token in enumerate(likely)]
        best = max(best, (chances[0] * min(chances[1], 1 - chances[1]), prompt, likely))
    return best[1], best[2]


def chi_square(drawn: list[int], expected_V: torch.Tensor) -> tuple[float, int]:
    """Return Pearson's chi-square with rare tokens in one cell, and its degrees of freedom."""
    expected_V = len(drawn) * expected_V
    counts_V = torch.bincount(torch.tensor(drawn), minlength=len(expected_V)).double()
    frequent_V = expected_V >= 5
    expected = torch.cat([expected_V[frequent_V], expected_V[~frequent_V].sum()[None]])
    counts = torch.cat([counts_V[frequent_V], counts_V[~frequent_V].sum()[None]])
    return float(((counts - expected) ** 2 / expected).sum()), len(expected) - 1


def test_ten_thousand_draws_follow_the_exact_probabilities(drafting: VllmEngine, model: torch.nn.Module) -> None:
    """This covers the first token, the next one if it was drafted, and the one after an accepted draft."""
    prompt, likely = copying_prompt(model)
    drafting.take_draft_counts()
    group = drafting.generate([prompt], DRAWS, seeds=[5], max_tokens=3, stop=[])[0]
    counts = drafting.take_draft_counts()
    assert counts.accepted > DRAWS / 20 and counts.drafted - counts.accepted > DRAWS / 20
    for known in range(3):
        drawn = [
            r.token_ids[known]
            for r in group
            if list(r.token_ids[:known]) == likely[:known] and known < len(r.token_ids)
        ]
        found, freedom = chi_square(drawn, distribution(model, [*prompt, *likely[:known]]))
        assert freedom > 5 and len(drawn) > DRAWS / 50
        assert abs(found - freedom) < 4 * (2 * freedom) ** 0.5, f"token {known}"
