"""Run work once on rank 0, and share the result or the failure with all ranks."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch.distributed as dist

from megatron_pz.runtime.errors import BadInput

Result = TypeVar("Result")


def on_first_rank(work: Callable[[], Result]) -> Result:
    """Return the result of ``work`` on rank 0. Collective if there is a process group.

    Raises:
        BadInput: on all ranks, if ``work`` raises it.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return work()
    outcome: list[tuple[Result | None, str | None]] = [(None, None)]
    if dist.get_rank() == 0:
        try:
            outcome = [(work(), None)]
        except BadInput as error:
            outcome = [(None, str(error))]
    dist.broadcast_object_list(outcome, src=0)
    result, failure = outcome[0]
    if failure is not None:
        raise BadInput(failure)
    return result  # type: ignore[return-value]  # what rank 0 returned
