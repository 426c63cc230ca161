"""Share a step's prompts among the ranks, seed every sample, and gather the results."""

from __future__ import annotations

import hashlib
import random
from typing import TypeVar

from megatron_pz.trainer.topology import Topology

Item = TypeVar("Item")


class RankShares:
    """Every rank takes each ``world_size``-th item; draws depend on the run's seed and on the item, not on the rank."""

    def __init__(self, seed: int, topology: Topology) -> None:
        self.seed, self.topology = seed, topology

    def from_all_ranks(self, mine: list[Item]) -> list[Item]:
        """Gather every rank's items, in the order of the ranks. Collective."""
        return [item for part in self.topology.all_gather_object(mine) for item in part]

    def my_share(self, items: int) -> range:
        """Return the indices of this rank's items."""
        return range(self.topology.rank, items, self.topology.world_size)

    def seed_of(self, *identity: object) -> int:
        """Return a 31-bit seed that depends on the run's seed and on ``identity``."""
        text = " ".join(map(str, (self.seed, *identity)))
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4]) >> 1

    def random(self, *identity: object) -> random.Random:
        """Return a random generator with the seed of ``identity``."""
        return random.Random(self.seed_of(*identity))
