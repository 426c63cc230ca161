"""One rank decides the precision of a run for all ranks."""

from __future__ import annotations

import pytest

from tests.distributed.workers.precision_ranks import settle_on_ranks
from tests.support.forked_ranks import ForkedRanks


@pytest.mark.parametrize("first_is_fast_in_bf16", [True, False])
def test_all_ranks_take_the_precision_of_rank_0(first_is_fast_in_bf16: bool) -> None:
    with ForkedRanks(2, settle_on_ranks, first_is_fast_in_bf16) as ranks:
        assert ranks.codes() == [0, 0]
