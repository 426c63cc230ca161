"""Distribute a call's prompts over the engines by their expected number of tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from megatron_pz.rl.experience import Role
from megatron_pz.rl.packing import balance_groups

NEWEST_SHARE = 0.25
"""Weight of a step's mean in the running mean: lengths drift over tens of steps, and a step's mean varies little."""


@dataclass
class MeanLengths:
    """Running mean of each role's response lengths, in tokens, equal on all ranks."""

    means: dict[Role, float] = field(default_factory=dict)
    """Empty before the first responses. A role that has not sampled yet is assumed to have the mean of the other."""

    def update(self, role: Role, tokens: int, responses: int) -> None:
        """Update the means with the responses of all ranks in one call."""
        if responses:
            newest = tokens / responses
            before = self.means.get(role, newest)
            self.means[role] = before + NEWEST_SHARE * (newest - before)

    def of(self, role: Role) -> float:
        """Return the expected number of tokens of a response of the role."""
        return self.means.get(role) or max(self.means.values(), default=1.0)

    def state_dict(self) -> dict[str, Any]:
        """Return the means as numbers by name, for :meth:`load_state_dict`."""
        return {str(role): mean for role, mean in self.means.items()}

    def load_state_dict(self, state: Mapping[Role, float]) -> None:
        """Restore saved means."""
        self.means = dict(state)


@dataclass(frozen=True)
class Work:
    """The samples of one prompt that one engine draws."""

    role: Role
    item: Any
    """The item from which the prompt is made."""
    samples: range


@dataclass(frozen=True)
class Prompts:
    """Prompts of one role, each of which needs as many samples."""

    role: Role
    items: Sequence[Any]
    samples: int
    tokens_per_sample: float
    """Expected length."""


def share_out(prompts: Sequence[Prompts], engines: int) -> list[list[Work]]:
    """Assign the samples of all prompts to engines by their expected number of tokens.

    The samples of a prompt stay together because they share its prefill. Prompts are assigned greedily, most expensive
    first, each to the engine with the fewest tokens so far. If there are more engines than prompts, prompts are split
    so that each engine gets an equal part of the tokens.

    Returns:
        Each engine's work. Longer responses come first, because they end last; ties keep the order of the prompts.

    >>> works = share_out([Prompts("generator", ["a", "b"], 3, 10.0)], 3)
    >>> [[(work.item, list(work.samples)) for work in share] for share in works]
    [[('a', [0, 1])], [('a', [2]), ('b', [0])], [('b', [1, 2])]]
    """
    longest_first = sorted(prompts, key=lambda each: -each.tokens_per_sample)
    whole = [Work(each.role, item, range(each.samples)) for each in longest_first for item in each.items]
    costs = [each.samples * each.tokens_per_sample for each in longest_first for _ in each.items]
    if engines <= len(whole):
        return [[whole[index] for index in share] for share in balance_groups(costs, engines)]
    shares: list[list[Work]] = [[] for _ in range(engines)]
    total, before = sum(costs), 0.0
    for work, cost in zip(whole, costs, strict=True):
        per_sample = cost / len(work.samples)
        middles = (before + (sample + 0.5) * per_sample for sample in work.samples)
        owners = [min(int(engines * middle / total), engines - 1) for middle in middles]
        for engine, samples in groupby(work.samples, key=owners.__getitem__):
            first, *others = samples
            shares[engine].append(Work(work.role, work.item, range(first, first + 1 + len(others))))
        before += cost
    return shares
