"""Simulate the rollouts of a step on all engines, by schedule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from megatron_pz.config.schema import RunConfig
from megatron_pz.planning.step_time.engine import EngineCost, serve
from megatron_pz.planning.step_time.workload import DrawnStep, Response

Schedule = Literal["barrier", "one-queue", "generator-ahead", "rollout-ranks"]
SCHEDULES: dict[Schedule, str] = {
    "barrier": "all proposals, then all predictions",
    "one-queue": "a proposal's predictions follow it in its engine",
    "generator-ahead": "this step's predictions beside the next step's proposals",
    "rollout-ranks": "some devices only sample, one step ahead of the others, which only learn; one queue",
}


TAIL_SHARE = 0.9
"""The tail of a rollout begins when this share of its responses has ended."""


def schedule_of(config: RunConfig) -> Schedule:
    """Return the schedule that ``megatron_pz.train`` follows with these settings."""
    if config.rollout.rollout_ranks:
        return "rollout-ranks"
    if config.rollout.generator_ahead:
        return "generator-ahead"
    return "one-queue" if config.game.policy_sharing == "shared" else "barrier"


@dataclass(frozen=True)
class RolloutTime:
    """Seconds of a step's rollouts."""

    seconds: float
    busy: float
    """Mean seconds in which an engine has work."""
    tail: float
    """Seconds from the end of 90 % of the responses to the end of the last one."""


def simulate_rollout(step: DrawnStep, schedule: Schedule, engines: int, cost: EngineCost) -> RolloutTime:
    """Simulate the sampling of a drawn step on a number of engines.

    Prompt ``i`` goes to engine ``i`` modulo the number of engines, whereas a run distributes prompts by their expected
    tokens (:mod:`megatron_pz.algorithm.work_shares`). With ``barrier``, a prompt's samples stay together; the other
    schedules split those of a passage if there are more engines than passages, as a run does. With
    ``generator-ahead``, the next step's proposals have the lengths of the same draw.
    """
    if schedule == "barrier":
        phases = [step.proposals, step.predictions]
        calls = [_shares(_without_followers(groups), engines) for groups in phases if groups]
    elif schedule == "generator-ahead":
        proposals = _shares(_parted(_without_followers(step.proposals), engines), engines)
        predictions = _shares(step.predictions, engines)
        calls = [[ours + theirs for ours, theirs in zip(predictions, proposals, strict=True)]]
    else:
        calls = [_shares(_parted(step.proposals, engines) if step.proposals else step.predictions, engines)]
    start, busy, ends = 0.0, 0.0, []
    for call in calls:
        of_engines = [serve(share, cost) for share in call]
        busy += sum(float(of_engine[-1]) for of_engine in of_engines if len(of_engine)) / engines
        together: NDArray[np.float64] = np.concatenate(of_engines)
        ends.append(start + together)
        start += float(together.max(initial=0.0))
    sorted_ends = np.sort(np.concatenate(ends)) if ends else np.zeros(0)
    if not len(sorted_ends):
        return RolloutTime(0.0, 0.0, 0.0)
    # each call has its own tail
    tail = sum(float(of_call.max() - np.quantile(of_call, TAIL_SHARE)) for of_call in ends if len(of_call))
    return RolloutTime(start, busy, tail)


def _without_followers(groups: Sequence[Sequence[Response]]) -> list[list[Response]]:
    return [[Response(each.group, each.prompt, each.length) for each in group] for group in groups]


def _parted(groups: Sequence[Sequence[Response]], engines: int) -> list[list[Response]]:
    """Return the groups, split into single responses if there are more engines than groups."""
    if engines <= len(groups):
        return [list(group) for group in groups]
    return [[response] for group in groups for response in group]


def _shares(groups: Sequence[Sequence[Response]], engines: int) -> list[list[Response]]:
    """Return the responses of each engine; group ``i`` goes to engine ``i`` modulo the number of engines."""
    return [[each for group in groups[engine::engines] for each in group] for engine in range(engines)]
