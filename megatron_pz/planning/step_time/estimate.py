"""Estimate the step time of a configuration from flags, and from the lengths and times of a run."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from pathlib import Path

from megatron_pz.config.schema import RunConfig
from megatron_pz.hf.architecture import Architecture
from megatron_pz.planning.layouts import Layout
from megatron_pz.planning.memory import MemoryPlan
from megatron_pz.planning.step_time.devices import Device
from megatron_pz.planning.step_time.from_run import calibrate, read_run
from megatron_pz.planning.step_time.lengths import DEFAULT_SIGMA
from megatron_pz.planning.step_time.rates import default_rates
from megatron_pz.planning.step_time.rollout import SCHEDULES, Schedule
from megatron_pz.planning.step_time.step import Cluster, StepTime, simulate_step
from megatron_pz.planning.step_time.workload import Workload, workload_of
from megatron_pz.runtime.errors import BadInput

DEFAULT_MEAN = 1000
"""Assumed tokens of a response of unknown length, or a quarter of its limit if that is less."""


@dataclass(frozen=True)
class KnownWork:
    """The caller's knowledge of a step's work; None selects the assumption of this module."""

    mean_response: float | None = None
    """Tokens, of both roles."""
    mean_proposal: float | None = None
    """Tokens, of the generator alone."""
    mean_prompt: float | None = None
    sigma: float | None = None
    learned_share: float | None = None
    """Share of both roles' groups in the update."""
    lengths: Path | None = None
    """Run from which lengths and shares are taken; the other values override it."""
    calibrate: Path | None = None
    """Run whose times correct the rates, and whose lengths are taken if ``lengths`` names no run."""

    @classmethod
    def of_flags(cls, flags: argparse.Namespace) -> KnownWork:
        """Read the values of :func:`add_work_flags`. Raise BadInput for an impossible value."""
        for name in ("mean_response", "mean_proposal", "mean_prompt"):
            if (value := getattr(flags, name)) is not None and not 0 < value < math.inf:
                raise BadInput(f"--{name.replace('_', '-')} {value:g}: must be above 0")
        if flags.sigma is not None and not 0 <= flags.sigma < math.inf:
            raise BadInput(f"--sigma {flags.sigma:g}: must not be negative or infinite")
        return cls(**{field.name: getattr(flags, field.name) for field in fields(cls)})


def add_work_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of :class:`KnownWork`."""
    work = parser.add_argument_group("work of a step (only with --gpu)")
    work.add_argument("--mean-response", type=float, help="mean tokens of a response (default: 1000, or limit / 4)")
    work.add_argument(
        "--mean-proposal", type=float, help="mean tokens of the generator's responses (default: --mean-response)"
    )
    work.add_argument("--mean-prompt", type=float, help="mean tokens of a prompt (default: half of its limit)")
    work.add_argument("--sigma", type=float, help="standard deviation of the lengths' logarithm (default: 0.9)")
    work.add_argument(
        "--learned-share", type=float, help="share of groups with unequal rewards, which are learned from (default: 1)"
    )
    work.add_argument("--lengths", type=Path, metavar="RUN", help="take lengths and shares from a --save directory")
    work.add_argument(
        "--calibrate",
        type=Path,
        metavar="RUN",
        help="fit rates to the times of a --save directory, and take its lengths",
    )


@dataclass(frozen=True)
class Estimate:
    """All inputs from which the step time of a configuration is computed."""

    arch: Architecture
    config: RunConfig
    cluster: Cluster
    work: Workload
    origin: str
    """Description of the source of the lengths."""
    fitted: tuple[str, ...]
    """Description of the calibration's changes; empty without one."""

    def time(self, parallel_of: RunConfig, plan: MemoryPlan, schedule: Schedule) -> StepTime:
        """Return the time of a step in the layout of ``parallel_of``."""
        ranks = parallel_of.rollout.rollout_ranks
        return simulate_step(self.arch, parallel_of, plan, self.cluster, self.work, schedule, rollout_gpus=ranks)

    def of_layouts(self, layouts: Iterable[Layout], schedule: Schedule) -> dict[str, StepTime]:
        """Return the step times of the layouts that fit, by name, without those that cannot have rollout ranks."""
        times = {}
        for layout in layouts:
            if layout.plan is None or layout.refusal:
                continue
            try:
                times[layout.name] = self.time(replace(self.config, parallel=layout.parallel), layout.plan, schedule)
            except BadInput:
                if schedule != "rollout-ranks":
                    raise
        return times

    def of_schedules(self, config: RunConfig, plan: MemoryPlan) -> list[StepTime]:
        """Return the times of every schedule that this number of devices permits, fastest first.

        With rollout ranks there is only one, because the memory plan is made for them.
        """
        times = []
        for schedule in SCHEDULES:
            if config.rollout.rollout_ranks and schedule != "rollout-ranks":
                continue
            if schedule == "generator-ahead" and self.work.proposals is None:
                continue
            try:
                times.append(self.time(config, plan, schedule))
            except BadInput:
                if schedule != "rollout-ranks":
                    raise
        return sorted(times, key=lambda time: time.seconds)


def estimate(
    arch: Architecture, config: RunConfig, device: Device, gpus: int, gpus_per_node: int, known: KnownWork
) -> Estimate:
    """Gather work and rates.

    Raises:
        BadInput: a mean is above its limit, or a run cannot be read or used another kind of device.
    """
    rates, measured = default_rates(device.name, is_mixture=arch.experts is not None), None
    fitted: tuple[str, ...] = ()
    source = known.lengths or known.calibrate
    if source:
        measured = read_run(source)
    if known.calibrate:
        run = read_run(known.calibrate)
        if run.device.name != device.name:
            raise BadInput(
                f"--calibrate {known.calibrate}: that run's devices are {run.device.name}, not {device.name}"
            )
        calibration = calibrate(run)
        rates, fitted = calibration.rates, calibration.lines
    work, origin = _work(config, known, measured.work() if measured else None)
    return Estimate(arch, config, Cluster(device, rates, gpus, gpus_per_node), work, origin, fitted)


def _work(config: RunConfig, known: KnownWork, measured: Workload | None) -> tuple[Workload, str]:
    rollout = config.rollout
    limits = [rollout.longest_response("generator"), rollout.longest_response("predictor")]
    assumed = [min(DEFAULT_MEAN, max(1, limit // 4)) for limit in limits]
    proposal = known.mean_proposal or known.mean_response
    sigma = DEFAULT_SIGMA if known.sigma is None else known.sigma
    prompt = known.mean_prompt or rollout.max_prompt_length / 2
    work = workload_of(config, proposal or assumed[0], known.mean_response or assumed[1], sigma, prompt)
    origin = "assumed; --lengths RUN takes them from a run"
    if measured:
        given, work, origin = work, work.as_measured(measured), f"of {known.lengths or known.calibrate}"
        if proposal and work.proposals and given.proposals:
            work = replace(work, proposals=replace(work.proposals, mean=given.proposals.mean))
        if known.mean_response:
            work = replace(work, predictions=replace(work.predictions, mean=known.mean_response))
        if known.sigma is not None:
            spread = replace(work.proposals, sigma=sigma) if work.proposals else None
            work = replace(work, proposals=spread, predictions=replace(work.predictions, sigma=sigma))
        if known.mean_prompt:
            work = replace(work, generator_prompt=prompt, predictor_prompt=prompt)
    elif known.mean_response:
        origin = "as given"
    if known.learned_share is not None:
        if not 0 <= known.learned_share <= 1:
            raise BadInput(f"--learned-share {known.learned_share:g}: must be between 0 and 1")
        work = replace(work, generator_learned=known.learned_share, predictor_learned=known.learned_share)
    return work, origin
