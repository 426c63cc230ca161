"""Simulate whole steps of a configuration on a number of devices, by schedule."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from statistics import fmean
from typing import Any

from megatron_pz.config.schema import RunConfig
from megatron_pz.hf.architecture import Architecture
from megatron_pz.planning.memory import MemoryPlan
from megatron_pz.planning.parameters import model_size
from megatron_pz.planning.step_time.devices import Device
from megatron_pz.planning.step_time.engine import EngineCost, engine_cost
from megatron_pz.planning.step_time.rates import Rates
from megatron_pz.planning.step_time.rollout import RolloutTime, Schedule, simulate_rollout
from megatron_pz.planning.step_time.update import UpdateCost
from megatron_pz.planning.step_time.workload import DrawnStep, Workload, draw_step
from megatron_pz.runtime.errors import BadInput

_SPLITS = (1 / 8, 1 / 4, 3 / 8, 1 / 2, 5 / 8, 3 / 4)
"""Shares of the devices that are tried as rollout ranks."""
_OWN_MEMORY = 0.85
"""Share of its memory that an engine without a trainer beside it takes."""


@dataclass(frozen=True)
class StepTime:
    """Seconds of one step, and derived figures."""

    schedule: Schedule
    gpus: int
    rollout_gpus: int
    """Devices that sample; all of them but with the schedule ``rollout-ranks``."""
    seconds: float
    rollout: float
    update: float
    sync: float
    """Seconds of the weight sync, and of sleep, offload and their reversal."""
    rest: float
    tail: float
    """Seconds of the rollouts in which the last 10 % of the responses end."""
    idle: float
    """Share of all devices' time in a step in which they wait for others."""
    sampled: float
    """Tokens that the engines sample."""

    @property
    def tokens_per_gpu(self) -> float:
        """Return the sampled tokens per second and device."""
        return self.sampled / self.seconds / self.gpus


@dataclass(frozen=True)
class Cluster:
    """Devices on which a configuration runs."""

    device: Device
    rates: Rates
    gpus: int
    gpus_per_node: int = 8


def simulate_step(
    arch: Architecture,
    config: RunConfig,
    plan: MemoryPlan,
    cluster: Cluster,
    work: Workload,
    schedule: Schedule = "barrier",
    draws: int = 3,
    rollout_gpus: int = 0,
) -> StepTime:
    """Simulate a step, and return the mean over several draws of the lengths.

    Args:
        arch: the model.
        config: its settings; the layout is ``config.parallel``.
        plan: the memory plan, which gives the size of the engines' cache.
        cluster: devices and rates.
        work: the work of a step.
        schedule: the order of the engines' work.
        draws: number of draws; lengths are drawn with the seeds 0, 1, …
        rollout_gpus: number of devices that only sample, with ``rollout-ranks``; 0 selects the fastest number.

    Raises:
        BadInput: the rollouts' tensor parallel size does not divide the devices, or no split has rollout ranks.
    """
    simulation = _Simulation(arch, config, plan, cluster, work)
    if schedule != "rollout-ranks":
        return _mean([simulation.colocated(seed, schedule) for seed in range(draws)])
    splits = [rollout_gpus] if rollout_gpus else simulation.splits()
    if not splits:
        raise BadInput(f"{cluster.gpus} devices: too few to part trainer and rollout ranks in this layout")
    options = [_mean([simulation.parted(seed, sampling) for seed in range(draws)]) for sampling in splits]
    return min(options, key=lambda option: option.seconds)


@dataclass(frozen=True)
class _Simulation:
    arch: Architecture
    config: RunConfig
    plan: MemoryPlan
    cluster: Cluster
    work: Workload

    def colocated(self, seed: int, schedule: Schedule) -> StepTime:
        """Return the time of a step in which every device first samples and then learns."""
        gpus, rates = self.cluster.gpus, self.cluster.rates
        engines, rest = divmod(gpus, self.config.rollout.rollout_tensor_parallel_size)
        if rest:
            raise BadInput(
                f"--rollout-tensor-parallel-size {self.config.rollout.rollout_tensor_parallel_size}: does not divide "
                f"{gpus} devices"
            )
        step = _drawn(self.work, seed)
        rollout = _rollout(self.work, seed, schedule, engines, self._engine(self.plan.engine.cache_tokens))
        update = self._trainer(gpus).update(step.learned)
        sync = self._sync_bytes() / rates.sync_bytes_per_second + self._host_moves()
        seconds = rollout.seconds + update.seconds + sync + rates.rest_seconds
        waiting = rollout.seconds - rollout.busy + update.seconds - update.busy
        return StepTime(
            schedule,
            gpus,
            gpus,
            seconds,
            rollout.seconds,
            update.seconds,
            sync,
            rates.rest_seconds,
            rollout.tail,
            waiting / seconds,
            float(step.sampled_tokens),
        )

    def parted(self, seed: int, sampling: int) -> StepTime:
        """Return the time of a step in which ``sampling`` devices sample while the others learn."""
        gpus, rates, tensor = self.cluster.gpus, self.cluster.rates, self.config.rollout.rollout_tensor_parallel_size
        weights = self.plan.engine.weights
        of_token = self.plan.engine.cache / max(1, self.plan.engine.cache_tokens)
        room = _OWN_MEMORY * self.plan.gpu_memory - weights
        is_planned = 0 < room < math.inf
        cost = self._engine(int(room / of_token) if is_planned else self.plan.engine.cache_tokens)
        step, rollout = _drawn(self.work, seed), _rollout(self.work, seed, "rollout-ranks", sampling // tensor, cost)
        update = self._trainer(gpus - sampling).update(step.learned)
        link = self.cluster.device.peer_link if gpus <= self.cluster.gpus_per_node else self.cluster.device.node_link
        sync = self._sync_bytes() / min(rates.sync_bytes_per_second, link * rates.link_share)
        seconds = max(rollout.seconds, update.seconds) + sync + rates.rest_seconds
        at_work = sampling * rollout.busy + (gpus - sampling) * update.busy
        return StepTime(
            "rollout-ranks",
            gpus,
            sampling,
            seconds,
            rollout.seconds,
            update.seconds,
            sync,
            rates.rest_seconds,
            rollout.tail,
            1 - (at_work / gpus + sync + rates.rest_seconds) / seconds,
            float(step.sampled_tokens),
        )

    def splits(self) -> list[int]:
        """Return the numbers of rollout ranks that leave the trainer whole copies of the model."""
        sizes, gpus = self.config.parallel, self.cluster.gpus
        dense = sizes.tensor_model_parallel_size * sizes.pipeline_model_parallel_size * sizes.context_parallel_size
        unit = max(dense, sizes.expert_model_parallel_size * sizes.pipeline_model_parallel_size)
        unit = max(unit, self.config.rollout.rollout_tensor_parallel_size)
        counts = {unit * max(1, round(share * gpus / unit)) for share in _SPLITS}
        return sorted(count for count in counts if count < gpus and (gpus - count) % unit == 0)

    def _engine(self, cache_tokens: int) -> EngineCost:
        return engine_cost(self.arch, self.config.rollout, self.cluster.device, self.cluster.rates, cache_tokens)

    def _trainer(self, gpus: int) -> UpdateCost:
        cluster = self.cluster
        return UpdateCost(self.arch, self.config, cluster.device, cluster.rates, gpus, cluster.gpus_per_node)

    def _sync_bytes(self) -> float:
        return (2.0 if self.config.model.bf16 else 4.0) * model_size(self.arch)

    def _host_moves(self) -> float:
        """Return the seconds to move the engines' weights and the optimizer state to host memory and back."""
        moved = self.plan.engine.weights if self.plan.sleeps else 0.0
        moved += max(stage.optimizer for stage in self.plan.stages) if self.plan.offloads else 0.0
        return 2 * moved / (self.cluster.device.host_link * self.cluster.rates.link_share)


@lru_cache(maxsize=32)
def _drawn(work: Workload, seed: int) -> DrawnStep:
    return draw_step(work, seed)


@lru_cache(maxsize=256)
def _rollout(work: Workload, seed: int, schedule: Schedule, engines: int, cost: EngineCost) -> RolloutTime:
    """Simulate a draw's rollouts once; they do not depend on the trainer's layout."""
    return simulate_rollout(_drawn(work, seed), schedule, engines, cost)


def _mean(steps: list[StepTime]) -> StepTime:
    names = [field.name for field in fields(StepTime) if field.type == "float"]
    means: dict[str, Any] = {name: fmean(getattr(step, name) for step in steps) for name in names}
    return replace(steps[0], **means)
