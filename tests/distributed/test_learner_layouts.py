"""A step of two learners, with epochs, minibatches, a reference and response-level ratios, on two ranks."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from megatron_pz.config.schema import ParallelConfig
from megatron_pz.trainer.topology import Topology
from tests.distributed.workers.learner_layouts import outcome, run_layouts
from tests.support.forked_ranks import ForkedRanks

LAYOUTS = {
    "data": ParallelConfig(use_distributed_optimizer=True),
    "pipeline": ParallelConfig(pipeline_model_parallel_size=2),
}


def test_two_ranks_do_what_one_process_does(tiny_qwen3_dir: Path, tmp_path: Path) -> None:
    with ForkedRanks(2, run_layouts, LAYOUTS, str(tiny_qwen3_dir), str(tmp_path)) as ranks:
        assert ranks.codes(timeout=150) == [0, 0], ranks.output()
    topology = Topology.start(ParallelConfig(), seed=1)
    try:
        expected = outcome(str(tiny_qwen3_dir), ParallelConfig(), topology)
    finally:
        topology.close()
    assert len(expected["figures"]) == 2 * 4  # policies, and of each two shares twice
    for name in LAYOUTS:
        results = [torch.load(tmp_path / f"{name}.{rank}.pt", weights_only=False) for rank in range(2)]
        for policy, whole in enumerate(expected["differences"]):
            parts = [result["differences"][policy] for result in results]
            assert sum(map(len, parts)) == len(whole) > 0, "each group is measured on one rank"
            for group, there in (parts[0] | parts[1]).items():
                assert there == pytest.approx(whole[group], rel=1e-3, abs=1e-5), name
        for found in results:
            for here, there in zip(found["figures"], expected["figures"], strict=True):
                assert dataclasses.asdict(here) == pytest.approx(dataclasses.asdict(there), rel=1e-3, abs=2e-5), name
            for here, there in zip(found["weights"], expected["weights"], strict=True):
                assert here.keys() == there.keys()
                for tensor in there:
                    assert (here[tensor] - there[tensor]).norm() <= 1e-4 * there[tensor].norm(), (name, tensor)
            for here, there in zip(found["entropies"], expected["entropies"], strict=True):
                assert here == pytest.approx(there, abs=1e-4), name
