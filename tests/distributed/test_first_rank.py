"""All ranks get the result of work that rank 0 does for all."""

from __future__ import annotations

from tests.distributed.workers.first_rank_ranks import work_on_first_rank
from tests.support.forked_ranks import ForkedRanks


def test_result_and_failure_reach_every_rank() -> None:
    with ForkedRanks(2, work_on_first_rank) as ranks:
        assert ranks.codes() == [0, 0], ranks.output()
