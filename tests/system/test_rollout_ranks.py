"""An engine in each of two trainer ranks, in fresh processes."""

from __future__ import annotations

import re
from pathlib import Path

from tests.torchrun import run_workers

WORKER = Path(__file__).parent / "workers" / "rollout_ranks.py"


def test_two_ranks_sample_alike_from_equal_seeds_and_keep_their_group(tiny_llama_dir: Path) -> None:
    """Equal in both processes bit for bit; the trainer's group outlives the engines; both ranks end with code 0."""
    output = run_workers(WORKER, 2, tiny_llama_dir, timeout=240)
    reports = re.findall(r"rank \d digest (\w+) sum 3\.0", output)
    assert len(reports) == 2
    assert reports[0] == reports[1]
