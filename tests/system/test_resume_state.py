"""Every part of the run's state is needed for an exact resume, and the comparison shows the loss of any part."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from megatron_pz.checkpoint import loader
from megatron_pz.checkpoint.optimizer_state import restart
from megatron_pz.checkpoint.sharded_state import ModelState
from megatron_pz.config.schema import RunConfig
from megatron_pz.corpus.sampler import PassageSampler
from tests.support.scripted_run import ScriptedEngine, run_config, run_to_the_end, weights_of, with_fields

Outcome = tuple[list[dict[str, Any]], dict[str, torch.Tensor]]
load = loader.load_checkpoint


@pytest.fixture
def config(tiny_corpus: str, tiny_llama_dir: Path, tmp_path: Path, scripted_engines: type[ScriptedEngine]) -> RunConfig:
    return run_config(tiny_llama_dir, tiny_corpus, tmp_path / "run")


def outcome(config: RunConfig, **training: object) -> Outcome:
    """Return the metrics of all steps of a run's folder, and the weights at the end."""
    run, steps = run_to_the_end(with_fields(config, training=training))
    return steps, dict(weights_of(run)[""])


def in_parts(config: RunConfig) -> Outcome:
    """Run two steps, and two more in a resumed run."""
    outcome(config, train_iters=2)
    return outcome(config, load=config.training.save)


def same(one: Outcome, other: Outcome) -> bool:
    return one[0] == other[0] and all(torch.equal(other[1][name], weight) for name, weight in one[1].items())


def without_the_moments(directory: str, parts: dict[str, ModelState], *rest: Any) -> loader.LoadedState:
    state = load(directory, parts, *rest)
    for part in parts.values():
        restart(part.optimizer)
    return state


def one_step_behind(*arguments: Any) -> loader.LoadedState:
    """Load a state with the iteration one step behind, on which schedule and seeds depend."""
    state = load(*arguments)
    return dataclasses.replace(state, iteration=state.iteration - 1)


def without_the_count(*arguments: Any) -> loader.LoadedState:
    state = load(*arguments)
    return dataclasses.replace(state, common={**state.common, "consumed_passages": 0})


def test_an_asynchronous_run_resumes_exactly(config: RunConfig, tmp_path: Path) -> None:
    whole = outcome(config, save=str(tmp_path / "whole"))
    beside = with_fields(config, training={"async_save": True, "save_interval": 1, "save": str(tmp_path / "parts")})
    assert same(whole, in_parts(beside))
    kept = sorted(path.name for path in (tmp_path / "parts").glob("iter_*"))
    assert kept == ["iter_0000002", "iter_0000003", "iter_0000004"]


@pytest.mark.parametrize("loses", [without_the_moments, one_step_behind, without_the_count, "the sampler's cursor"])
def test_what_is_lost_is_seen(
    loses: Callable[..., loader.LoadedState] | str,
    config: RunConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = outcome(config, save=str(tmp_path / "whole"))
    if callable(loses):
        monkeypatch.setattr(loader, "load_checkpoint", loses)
    else:
        monkeypatch.setattr(PassageSampler, "load_state_dict", lambda sampler, state: None)
    assert not same(whole, in_parts(config))
