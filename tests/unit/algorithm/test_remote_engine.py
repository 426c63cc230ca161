"""The trainer's ranks wait for rollout ranks outside of collectives, which would time out during a restart."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from megatron_pz.algorithm.remote_engine import PROBES, RemoteEngine
from megatron_pz.config.schema import RunConfig
from megatron_pz.rl.experience import Response
from megatron_pz.rollout.ranks.controller import RolloutController


class Controller:
    """Two rollout ranks."""

    ranks = 2

    def load(self, policy: str, stream: Iterator[Any], prompts: list[list[int]]) -> list[list[Response]]:
        assert len(list(stream)) == 3
        return [[Response((1,), (-0.5,), "", False)] * len(prompts)] * self.ranks

    def ask(self, commands: list[tuple[Any, ...]]) -> list[Any]:
        return [[[Response(tuple(prompt), (), "", False)] for prompt in command[2]] for command in commands]


class Waiting:
    """One of two ranks, whose object collectives exclude a broadcast that waits for rank 0's work."""

    def __init__(self, rank: int) -> None:
        self.rank, self.names, self.done = rank, [], {}

    def broadcast_when_done(self, work: Callable[[], Any], name: str) -> Any:
        assert name not in self.names
        self.names.append(name)
        if self.rank == 0:
            self.done[name] = work()
        return self.done[name]

    def all_gather_object(self, value: Any) -> list[Any]:
        return [value, value]


def learner() -> Any:
    policy = SimpleNamespace(
        architecture=SimpleNamespace(vocab_size=9),
        weights=lambda: iter([("w", torch.zeros(1))] * 3),
        micro_batches=lambda *_: [],
        log_probs=lambda _: [],
    )
    return SimpleNamespace(name="predictor", roles=("predictor",), policy=policy)


@pytest.mark.parametrize("rank", [0, 1])
def test_ranks_wait_at_the_store_for_weights_and_samples(rank: int) -> None:
    topology: Any = Waiting(rank)
    if rank:
        done = [[[Response((1,), (-0.5,), "", False)] * PROBES] * 2] * 2
        answers = [*done, [[Response((prompt,), (), "", False)] for prompt in (1, 2, 3, 1, 2, 3)]]
        topology.done = {f"call {number} of the policy predictor": each for number, each in enumerate(answers)}
    controller: RolloutController | None = None if rank else Controller()  # type: ignore[assignment]
    engine = RemoteEngine(controller, learner(), topology, RunConfig())
    engine.sync()
    sampled = engine.generate([[1], [2], [3]], 1, seeds=[0, 0, 0], max_tokens=4, stop=())
    assert [response.token_ids for (response,) in sampled] == [(1,), (2,), (3,)]
    assert len(topology.names) == 3
