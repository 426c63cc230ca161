"""Run ranks of which the first one works for all."""

from __future__ import annotations

import torch.distributed as dist

from megatron_pz.runtime.errors import BadInput
from megatron_pz.runtime.first_rank import on_first_rank


def work_on_first_rank() -> None:
    """Check that every rank gets rank 0's result, and then its failure."""
    dist.init_process_group("gloo")
    assert on_first_rank(lambda: f"from rank {dist.get_rank()}") == "from rank 0"

    def fail() -> None:
        raise BadInput(f"rank {dist.get_rank()} cannot")

    try:
        on_first_rank(fail)
    except BadInput as error:
        assert str(error) == "rank 0 cannot"
    else:
        raise AssertionError("a failure of rank 0 was not told")
    dist.destroy_process_group()
