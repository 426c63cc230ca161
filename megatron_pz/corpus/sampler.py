"""Draw the passages of a step in a shuffled order that a resumed run continues exactly."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np

from megatron_pz.runtime.errors import BadInput

Item = TypeVar("Item")
ReadItem = TypeVar("ReadItem", covariant=True)


class Indexed(Protocol[ReadItem]):
    """Passages by number."""

    def __getitem__(self, index: int, /) -> ReadItem: ...


class PassageSampler:
    """Draws passages without replacement; every epoch has its own order.

    Without weights all passages form one pool. With weights every corpus is a pool of its own, and the number drawn
    from each is at any time as close to its share as integers allow (the rule of Megatron's blended dataset). Draws
    depend only on the seed and on the number of passages drawn before. All processes make the same draws, whatever
    their number.

    Args:
        sizes: Passages of every corpus of the blend, in its order, or their total number.
        seed: Seed of the orders.
        weights: Share of every corpus in the draws, in any scale.
    """

    def __init__(self, sizes: int | Sequence[int], seed: int, weights: Sequence[float] | None = None) -> None:
        self._sizes = [sizes] if isinstance(sizes, int) else list(sizes)
        if weights is None:
            self._pools = [sum(self._sizes)]
            self._weights = np.ones(1)
        else:
            self._pools = self._sizes
            self._weights = np.asarray(weights, dtype=np.float64) / np.sum(weights)
        if len(self._weights) != len(self._pools) or min(self._pools) < 1:
            raise BadInput(f"cannot sample from corpora of {self._sizes} passages with weights {weights}")
        self._starts = np.concatenate([[0], np.cumsum(self._pools)[:-1]])
        self._seed = seed
        self._drawn = np.zeros(len(self._pools), dtype=np.int64)
        self._orders: list[tuple[int, np.ndarray] | None] = [None] * len(self._pools)

    @property
    def epoch(self) -> float:
        """Return the number of passes over the pool that has been read most often."""
        return max(int(drawn) / size for drawn, size in zip(self._drawn, self._pools, strict=True))

    def draw(self, count: int) -> list[int]:
        """Draw the next ``count`` passages; return their indices in the blend."""
        return [self._draw_one() for _ in range(count)]

    def draw_fitting(self, count: int, passages: Indexed[Item], fits: Callable[[Item], bool]) -> list[Item]:
        """Draw the next ``count`` passages that fit, and skip the others.

        Raises:
            BadInput: no passage of a whole epoch fits.
        """
        found: list[Item] = []
        misses = 0
        while len(found) < count:
            passage = passages[self._draw_one()]
            if fits(passage):
                found.append(passage)
                misses = 0
                continue
            misses += 1
            if misses > sum(self._sizes):
                raise BadInput(
                    f"none of the {sum(self._sizes)} passages can be used: give text in which words can be masked"
                )
        return found

    def state_dict(self) -> dict[str, Any]:
        """Return the state for :meth:`load_state_dict`, as numbers and lists."""
        return {
            "seed": self._seed,
            "pools": list(self._pools),
            "weights": self._weights.tolist(),
            "drawn": self._drawn.tolist(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from the state of another sampler.

        Raises:
            BadInput: that sampler read other corpora, or had other weights or another seed.
        """
        mine = self.state_dict()
        for key, what in (("pools", "numbers of passages"), ("weights", "blend weights"), ("seed", "seed")):
            if state[key] != mine[key]:
                raise BadInput(
                    f"the checkpoint's corpora have other {what} ({state[key]}, now {mine[key]}); give the same"
                )
        self._drawn = np.asarray(state["drawn"], dtype=np.int64)

    def _draw_one(self) -> int:
        shortfall = self._weights * (self._drawn.sum() + 1) - self._drawn
        pool = int(np.argmax(shortfall))
        epoch, position = divmod(int(self._drawn[pool]), self._pools[pool])
        self._drawn[pool] += 1
        return int(self._starts[pool] + self._order(pool, epoch)[position])

    def _order(self, pool: int, epoch: int) -> np.ndarray:
        known = self._orders[pool]
        if known is None or known[0] != epoch:
            generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence([self._seed, pool, epoch])))
            known = (epoch, generator.permutation(self._pools[pool]).astype(np.int32))
            self._orders[pool] = known
        return known[1]
