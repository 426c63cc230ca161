"""The process group of a run without a launcher, and impossible layouts."""

from __future__ import annotations

import os
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import numpy as np
import pytest
import torch
import torch.distributed as dist

from megatron_pz.config.schema import ParallelConfig
from megatron_pz.runtime.errors import BadInput
from megatron_pz.trainer import topology
from megatron_pz.trainer.topology import Topology


def test_without_a_launcher_a_run_has_one_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    topology = Topology.start(ParallelConfig(), seed=5)
    try:
        assert (topology.rank, topology.world_size, topology.data_parallel_size) == (0, 1, 1)
        assert topology.is_last_stage
        assert topology.all_gather_object({"a": 1}) == [{"a": 1}]
        assert topology.all_to_all_object(["c"]) == ["c"]
        assert topology.broadcast_object("b") == "b"
        assert [topology.any_rank(flag) for flag in (True, False)] == [True, False]
    finally:
        topology.close()
    assert not dist.is_initialized()
    assert not {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} & set(os.environ), "nothing is left for a child"


def test_ranks_wait_for_the_first_outside_of_a_collective(monkeypatch: pytest.MonkeyPatch) -> None:
    """This includes waits that have timed out."""
    monkeypatch.setattr(topology, "_STORE_WAIT", timedelta(milliseconds=50))
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    together, done = threading.Barrier(2), threading.Event()
    seen: list[bool] = []

    def broadcast(self: Topology, value: str | None) -> str:
        seen.append(done.is_set())
        together.wait(10)
        return value or "of the first"

    def work() -> str:
        time.sleep(0.3)
        done.set()
        return "of the first"

    monkeypatch.setattr(Topology, "broadcast_object", broadcast)
    device = torch.device("cpu")
    ranks = [
        Topology(rank, 2, 0, 1, 0, 1, rank, 2, 0, 1, device, job_store=own)
        for rank, own in enumerate((store, store.clone()))
    ]
    for name in ("one", "two"):
        done.clear()
        with ThreadPoolExecutor(2) as pool:
            got = list(pool.map(Topology.broadcast_when_done, ranks, [work] * 2, [name] * 2))
        assert got == ["of the first"] * 2
    assert seen == [True] * 4


def test_the_seed_settles_every_generator() -> None:
    def draws(seed: int) -> tuple:
        topology = Topology.start(ParallelConfig(), seed)
        drawn = random.random(), float(np.random.rand()), float(torch.rand(()))
        topology.close()
        return drawn

    assert draws(1) == draws(1)
    assert all(one != other for one, other in zip(draws(1), draws(2), strict=True))


@pytest.mark.parametrize(("world_size", "tensor", "pipeline"), [(3, 2, 1), (4, 1, 3), (4, 4, 2), (1, 2, 1)])
def test_ranks_that_do_not_fill_the_layout_are_refused(
    world_size: int, tensor: int, pipeline: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", str(world_size))
    with pytest.raises(BadInput, match=f"^{world_size} processes .* multiple of {tensor * pipeline} processes$"):
        Topology.start(ParallelConfig(tensor, pipeline), seed=1)
    assert not dist.is_initialized()


@pytest.mark.parametrize(
    ("layout", "words"),
    [
        ({"context_parallel_size": 3}, "--context-parallel-size 3 .* multiple of 3 processes"),
        ({"expert_model_parallel_size": 3}, "--expert-model-parallel-size 3 .* for the experts: .* multiple of 3"),
        (
            {"tensor_model_parallel_size": 4, "expert_tensor_parallel_size": 1, "expert_model_parallel_size": 8},
            "for the experts: start a multiple of 8 processes",
        ),
    ],
)
def test_context_and_expert_ranks_count_too(layout: dict, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(BadInput, match=f"^4 processes cannot be laid out as .*{words}"):
        Topology.start(ParallelConfig(**layout), seed=1)


@pytest.mark.parametrize("ranks", [2, 3])
def test_rollout_ranks_leave_a_rank_for_the_trainer(ranks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(
        BadInput, match=rf"--rollout-ranks {ranks}: 2 processes leave none .* start at least {ranks + 1}"
    ):
        Topology.start(ParallelConfig(), 1, ranks)
    assert not dist.is_initialized()


def test_the_layout_counts_the_trainers_ranks_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "5")
    with pytest.raises(BadInput, match=r"^3 processes cannot be laid out as --tensor-model-parallel-size 2 "):
        Topology.start(ParallelConfig(2), 1, rollout_ranks=2)
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(BadInput, match="RANK is not set: start the processes by "):
        Topology.start(ParallelConfig(3), 1, rollout_ranks=2)
