"""``megatron_pz.train`` with failures: failing_run.py DEED:RANK:CALL[,…] [flags of megatron_pz.train]

In their CALL-th call with prompts of a step, the engines of RANK die (``die``) or never answer (``stall``).
"""

from __future__ import annotations

import os
import runpy
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

from megatron_pz.rollout.engine import VllmEngine
from tests.support.rollout_reference import die_in_step


def plan_failures(deeds: dict[int, str]) -> None:
    """Make this rank's engines fail in the planned calls, counted over all engines."""
    plain, calls = VllmEngine.run, iter(range(1, 1_000_000))

    def run(
        engine: VllmEngine, prompts: Sequence[Sequence[int]], sampling: Sequence[Any], *then: Callable[..., Any]
    ) -> list[Any]:
        # The check of an engine's log-probabilities at its start does not count as a call.
        deed = deeds.get(next(calls)) if prompts and then else None
        if deed == "die":
            die_in_step(engine, 3)
        if deed == "stall":
            engine.reset_prefix_cache = threading.Event().wait  # type: ignore[assignment, method-assign]
        return plain(engine, prompts, sampling, *then)

    VllmEngine.run = run  # type: ignore[method-assign]


if __name__ == "__main__":
    planned: dict[int, str] = {}
    for part in sys.argv.pop(1).split(","):
        deed, rank, call = part.split(":")
        if rank == os.environ["RANK"]:
            planned[int(call)] = deed
    plan_failures(planned)
    runpy.run_module("megatron_pz.train", run_name="__main__")
