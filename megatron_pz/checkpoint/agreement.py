"""Make local work that fails on one rank fail on all ranks, so that no rank waits in a collective for a failed one."""

from __future__ import annotations

from collections.abc import Callable

import torch.distributed as dist

from megatron_pz.runtime.errors import brief


class AgreedProblem(Exception):
    """Some rank failed. All ranks raise it with the same message, which names the rank and the cause."""


def agree(problem: str | None) -> None:
    """Raise AgreedProblem on every rank if any rank reports a problem. Collective."""
    problems: list[str | None] = [None] * dist.get_world_size()
    dist.all_gather_object(problems, problem)
    for rank, found in enumerate(problems):
        if found is not None:
            raise AgreedProblem(f"rank {rank}: {found}")


def run_on_all_ranks_or_raise(action: Callable[[], object], only_rank: int | None = None) -> None:
    """Do local work on all ranks, or on one, and raise AgreedProblem on all if one failed. Collective."""
    problem = None
    if only_rank in (None, dist.get_rank()):
        try:
            action()
        except Exception as error:
            problem = brief(error) if isinstance(error, OSError) else f"{type(error).__name__}: {brief(error)}"
    agree(problem)
