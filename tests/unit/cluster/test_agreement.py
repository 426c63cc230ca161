"""The launchers' agreement on the first failure."""

from __future__ import annotations

from torch.distributed import DistNetworkError, HashStore

from megatron_pz.cluster.launcher import FAILED, Agreement, Place

PLACE = Place(nodes=2, rank=1, processes=1, address="head", port=1)


class LostStore:
    """The store of a first node whose launcher has ended."""

    def compare_set(self, *_: str) -> bytes:
        raise DistNetworkError("failed to recv, got 0 bytes")


def test_the_first_failure_counts() -> None:
    store, other = HashStore(), Place(nodes=2, rank=0, processes=1, address="head", port=1)
    assert Agreement(store, PLACE).failed_first(2) == (2, True)
    assert Agreement(store, other).failed_first(FAILED) == (2, False)


def test_a_failure_after_the_first_nodes_launcher_is_this_nodes() -> None:
    assert Agreement(LostStore(), PLACE).failed_first(2) == (2, True)
