"""Two trainer ranks with an engine each, or with one shared engine, in new processes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.torchrun import run_workers

WORKER = Path(__file__).parent / "workers" / "rollout_ranks.py"


@pytest.mark.parametrize("tensor_parallel_size", [1, 2])
def test_two_ranks_sample_alike_from_equal_seeds_and_keep_their_group(
    tensor_parallel_size: int, tiny_llama_dir: Path
) -> None:
    """Samples are equal in both processes bit for bit, the trainer's group outlives the engines, and both exit with 0.

    The worker compares log-probabilities with transformers', before and after new weights.
    """
    output = run_workers(WORKER, 2, tiny_llama_dir, tensor_parallel_size, timeout=240)
    reports = re.findall(r"rank \d digest (\w+) sum 3\.0", output)
    assert len(reports) == 2
    assert reports[0] == reports[1]
