"""Draft counts reach a step's metrics, but only those of the step itself."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from megatron_pz.algorithm import policy_step
from megatron_pz.algorithm.learning_metrics import learning_metrics
from megatron_pz.algorithm.policy_step import PolicyStep
from megatron_pz.config.schema import RunConfig
from megatron_pz.rollout.speculation import DraftCounts


class Engine:
    """Has answered an evaluation, with drafts, and answers a rollout."""

    def __init__(self) -> None:
        self.counts = DraftCounts(1000, 1000, 1000)

    def take_draft_counts(self) -> DraftCounts:
        taken, self.counts = self.counts, DraftCounts()
        return taken


class Step(PolicyStep[Any]):
    """A step whose rollout drafts 40 tokens in 10 responses' passes, of which a quarter is accepted."""

    def gather_experience(self, iteration: int) -> tuple[list[Any], list[Any]]:
        for engine in set(self._engines.values()):
            engine.counts += DraftCounts(40, 10, 20)
        return [], []


@pytest.mark.parametrize(("drafts", "engines"), [(4, 1), (4, 2), (0, 1)])
def test_acceptance_and_tokens_a_pass(drafts: int, engines: int, monkeypatch: pytest.MonkeyPatch) -> None:
    idle = SimpleNamespace(trainer_works=nullcontext, weights_travel=nullcontext)
    monkeypatch.setattr(policy_step, "Colocation", lambda *_, **__: idle)
    monkeypatch.setattr(policy_step, "require_in_sync", lambda *_: None)
    learned = SimpleNamespace(updates=[], learning_rate=1e-6, seconds_computing=0.0)
    learner = SimpleNamespace(policy=None, roles=("predictor",), learn=lambda *_: learned)
    config = RunConfig()
    config = replace(config, rollout=replace(config.rollout, rollout_speculative_tokens=drafts))
    made = [Engine() for _ in range(engines)]
    by_role: Any = {"generator": made[0], "predictor": made[-1]}
    step = Step(config, None, SimpleNamespace(seconds_generating=0.0), by_role, [learner])  # type: ignore[arg-type,list-item]
    metrics = learning_metrics(step.step(1), ("generator", "predictor"))
    assert metrics.get("drafts/acceptance") == (0.25 if drafts else None)
    assert metrics.get("drafts/tokens_per_pass") == (1.5 if drafts else None)
