"""Read the work of a step from a run, and calibrate the simulation's rates by the run's measured times."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, stdev

from megatron_pz.config.parse import load_yaml
from megatron_pz.config.schema import RunConfig
from megatron_pz.hf.architecture import Architecture
from megatron_pz.monitoring.launches import read_launches
from megatron_pz.monitoring.metrics import StepMetrics, read_metrics
from megatron_pz.monitoring.samples import SAMPLES_FILE
from megatron_pz.planning.memory import GIB, MemoryPlan, plan_memory
from megatron_pz.planning.parameters import model_size
from megatron_pz.planning.step_time.devices import Device, find_device
from megatron_pz.planning.step_time.lengths import DEFAULT_SIGMA, Lengths
from megatron_pz.planning.step_time.rates import Rates, default_rates
from megatron_pz.planning.step_time.rollout import Schedule, schedule_of
from megatron_pz.planning.step_time.step import Cluster, StepTime, simulate_step
from megatron_pz.planning.step_time.workload import Workload
from megatron_pz.runtime.errors import BadInput

PARTS = ("rollout", "update", "sync")
_NOT_OF_A_STEP = ("checkpoint", "evaluation")
_FEW_SAMPLES = 20
"""Minimum number of texts to estimate the spread of their lengths."""


@dataclass(frozen=True)
class MeasuredRun:
    """A run's settings and its counted steps."""

    folder: Path
    config: RunConfig
    arch: Architecture
    device: Device
    processes: int
    processes_per_node: int
    steps: tuple[tuple[StepMetrics, StepMetrics], ...]
    """The counted steps, each with the previous one."""

    def work(self) -> Workload:
        """Return the work of a mean step from the metrics, with the spread of lengths from the samples' texts.

        Raises:
            BadInput: the metrics lack what is needed.
        """
        game, rollout, mean = self.config.game, self.config.rollout, self._mean
        active = mean("train/active_masks") > 0.5
        masks = game.passages_per_step * game.masks_per_passage
        if active and game.share_equal_masks:
            predicted = mean("generator/distinct_masks") / game.masks_per_passage
        else:
            predicted = mean("generator/valid_masks") if active else 1.0
        sigmas = _spread(self.folder / SAMPLES_FILE)
        # an engine reads the prompt of every passage, if masks are active, and of every predicted mask
        prompt = self._growth("prefilled_tokens") / (predicted * masks + active * game.passages_per_step)
        proposals = None
        if active:
            length, cap = mean("generator/response_length"), rollout.longest_response("generator")
            proposals = Lengths(length, sigmas[0], cap)
        predictions = Lengths(mean("predictor/response_length"), sigmas[1], rollout.longest_response("predictor"))
        of_generator = mean("generator/groups_learned_from") if active else 0.0
        of_predictor = mean("predictor/groups_learned_from")
        responses = of_generator * game.masks_per_passage * (proposals.mean if proposals else 0.0)
        responses += of_predictor * game.grpo_group_size * predictions.mean
        trained = self._growth("trained_tokens") / self.config.grpo.grpo_iterations
        distinct = (trained - prompt * (of_generator + of_predictor)) / responses if responses else 1.0
        return Workload(
            game.passages_per_step,
            game.masks_per_passage,
            game.grpo_group_size,
            proposals,
            predictions,
            prompt,
            prompt,
            min(1.0, predicted),
            min(1.0, of_generator / game.passages_per_step),
            min(1.0, of_predictor / (predicted * masks)) if predicted else 0.0,
            min(1.0, max(0.05, distinct)),
        )

    def seconds(self) -> dict[str, float]:
        """Return the mean seconds of a step and of its parts, without checkpoints and evaluations."""
        found = {part: self._mean(f"time/{part}") for part in PARTS}
        left_out = [sum(step.values.get(f"time/{part}", 0.0) for part in _NOT_OF_A_STEP) for _, step in self.steps]
        found["step"] = self._mean("time/iteration") - fmean(left_out)
        found["rest"] = max(0.0, found["step"] - sum(found[part] for part in PARTS))
        return found

    def sampled_per_second(self) -> float:
        """Return the tokens that the engines sampled, per second of the counted steps."""
        return self._growth("sampled_tokens") / self.seconds()["step"]

    def cluster(self, rates: Rates) -> Cluster:
        """Return the devices of the run."""
        return Cluster(self.device, rates, self.processes, self.processes_per_node)

    def part(self, first: int, last: int) -> MeasuredRun:
        """Return the run with only the steps from iteration ``first`` to ``last``."""
        return replace(self, steps=tuple(pair for pair in self.steps if first <= pair[1].iteration <= last))

    def simulate(self, rates: Rates, draws: int = 8) -> StepTime:
        """Return the simulated time of a mean step of the run."""
        plan = plan_for(self.arch, self.config, self.device, self.processes)
        ranks = self.config.rollout.rollout_ranks
        return simulate_step(
            self.arch, self.config, plan, self.cluster(rates), self.work(), self.schedule, draws, ranks
        )

    @property
    def schedule(self) -> Schedule:
        """Return the schedule of the run; runs of version 0.1 had no queue and did not time engines."""
        timed = any("time/engine_tail" in step.values for _, step in self.steps)
        return schedule_of(self.config) if timed else "barrier"

    def _mean(self, name: str) -> float:
        values = [step.values[name] for _, step in self.steps if math.isfinite(step.values.get(name, math.nan))]
        if not values:
            raise BadInput(
                f"{self.folder}: its metrics have no {name}; give the --save directory of a run with rollouts"
            )
        return fmean(values)

    def _growth(self, name: str) -> float:
        """Return the mean growth per step of a cumulative metric over the run."""
        key = f"compute/{name}"
        return fmean(step.values.get(key, 0.0) - before.values.get(key, 0.0) for before, step in self.steps)


def read_run(folder: Path, steps: int = 0, warm_up: int = 1) -> MeasuredRun:
    """Read the counted steps of a run: ``steps`` of them, or all, after ``warm_up`` steps at each start.

    Raises:
        BadInput: the run does not exist, has no times, is too short, or used several layouts or unknown devices.
    """
    launches, metrics = read_launches(folder), read_metrics(folder)
    config = load_yaml(folder / "config.yaml")
    sizes = {(launch.processes, max(launch.hosts.values()), launch.device) for launch in launches}
    if len(sizes) != 1:
        raise BadInput(f"{folder}: its steps were done by different processes; give a run that kept to one layout")
    ((processes, per_node, device),) = sizes
    cold = {launch.iteration + number for launch in launches for number in range(1, warm_up + 1)}
    pairs = zip([StepMetrics(0, {}), *metrics], metrics, strict=False)
    counted = [pair for pair in pairs if pair[1].iteration not in cold]
    if not counted:
        raise BadInput(f"{folder}: has {len(metrics)} steps, of which none counts after {warm_up} to warm up; run more")
    if not all("time/rollout" in step.values and "time/update" in step.values for _, step in counted):
        raise BadInput(f"{folder}: its metrics have no time/rollout and time/update; give a run of megatron_pz.train")
    arch = Architecture.from_hf(config.model.hf_model)
    chosen = tuple(counted[:steps] if steps else counted)
    return MeasuredRun(folder, config, arch, _device_of(device), processes, per_node, chosen)


def _device_of(name: str) -> Device:
    """Find the device by the name that CUDA reports, such as ``NVIDIA H100 80GB HBM3``."""
    words = name.replace("-", " ").split()
    if "A100" in name and "40GB" in name:
        return find_device("A100-40GB")
    return find_device(next((word for word in words if word in ("H100", "H200", "B200", "A100", "L40S", "CPU")), name))


def plan_for(arch: Architecture, config: RunConfig, device: Device, gpus: int) -> MemoryPlan:
    """Return the memory plan. On a CPU, host memory is not planned, and the cache size comes from the settings.

    Raises:
        BadInput: the layout or the engines' share of the memory is impossible.
    """
    if device.name != "CPU":
        return plan_memory(arch, config, gpus, device.memory_gib)
    rollout = replace(config.rollout, gpu_memory_utilization=1.0, sleep_during_update=False)
    optimizer = replace(config.optimizer, rl_offload_optimizer_during_inference=False)
    weights = 4 * model_size(arch) / rollout.rollout_tensor_parallel_size / GIB
    plan = plan_memory(
        arch, replace(config, rollout=rollout, optimizer=optimizer), gpus, 2 * weights + rollout.rollout_memory_gib
    )
    of_token = plan.engine.cache / max(1, plan.engine.cache_tokens)
    cache = config.rollout.rollout_memory_gib * GIB
    engine = replace(plan.engine, cache=cache, cache_tokens=int(cache / of_token))
    return replace(plan, engine=engine, gpu_memory=math.inf)


def _spread(path: Path) -> tuple[float, float]:
    """Return the standard deviations of the logarithms of both roles' lengths, from the stored samples of a run.

    Lengths are counted in characters, whose ratio to tokens cancels.
    """
    texts: tuple[list[int], list[int]] = ([], [])
    if path.is_file():
        with path.open(encoding="utf-8", newline="\n") as file:
            for line in file:
                try:
                    record = json.loads(line)
                    texts[0].append(len(record["response"]))
                    texts[1].extend(len(each["response"]) for each in record["predictions"])
                except (ValueError, KeyError, TypeError, RecursionError):
                    raise BadInput(f"{path} holds a line that this program did not write") from None
    generator, predictor = (
        stdev(math.log(max(1, length)) for length in lengths) if len(lengths) >= _FEW_SAMPLES else DEFAULT_SIGMA
        for lengths in texts
    )
    return generator, predictor


@dataclass(frozen=True)
class Calibration:
    """Rates with which the simulation reproduces the times of a run."""

    rates: Rates
    lines: tuple[str, ...]
    """Description of the fit, one line for each rate."""


def calibrate(run: MeasuredRun, rates: Rates | None = None) -> Calibration:
    """Fit the engines' speed, the update's, the sync's and the rest to the run's mean step.

    Three factors and one sum are fitted. The engines' factor applies to all of an engine's work, because a single mean
    cannot separate bandwidth from overhead.

    Raises:
        BadInput: the run had rollout ranks. Their work overlaps with the update, so that its times do not separate the
            two.
    """
    if run.config.rollout.rollout_ranks:
        raise BadInput(f"--calibrate {run.folder}: that run had rollout ranks; give one without")
    old = rates or default_rates(run.device.name, is_mixture=run.arch.experts is not None)
    measured = run.seconds()
    fitted, new = [], old
    for part, slower in _SLOWER.items():
        now = before = getattr(run.simulate(new), part)
        for _ in range(4):  # the factor does not apply to communication and latencies
            if min(now, measured[part]) <= 0 or abs(measured[part] / now - 1) < 1e-3:
                break
            new = slower(new, measured[part] / now)
            now = getattr(run.simulate(new), part)
        fitted.append((part, before, measured[part]))
    new = replace(new, rest_seconds=measured["rest"])
    lines = [
        f"fitted to {len(run.steps)} steps of {run.folder} ({run.processes} x {run.device.name}, {run.arch.model_type} "
        f"of {model_size(run.arch) / 1e9:.2f} billion weights):",
        *(f"  {part}: measured {value:.2f} s, {before:.2f} s before the fit" for part, before, value in fitted),
        *_changes(old, new),
    ]
    return Calibration(new, tuple(lines))


def _slower_engine(rates: Rates, factor: float) -> Rates:
    return replace(
        rates,
        bandwidth_share=rates.bandwidth_share / factor,
        engine_flops_share=rates.engine_flops_share / factor,
        token_step_seconds=rates.token_step_seconds * factor,
        all_reduce_seconds=rates.all_reduce_seconds * factor,
    )


_SLOWER: dict[str, Callable[[Rates, float], Rates]] = {
    "rollout": _slower_engine,
    "update": lambda rates, factor: replace(rates, update_flops_share=rates.update_flops_share / factor),
    "sync": lambda rates, factor: replace(rates, sync_bytes_per_second=rates.sync_bytes_per_second / factor),
}


def _changes(old: Rates, new: Rates) -> Sequence[str]:
    named = (
        ("engine: share of the memory's bandwidth", "bandwidth_share", 100, "%"),
        ("engine: share of the peak FLOP/s", "engine_flops_share", 100, "%"),
        ("engine: token step without weights", "token_step_seconds", 1e3, "ms"),
        ("update: share of the peak FLOP/s", "update_flops_share", 100, "%"),
        ("sync: weights", "sync_bytes_per_second", 1e-9, "GB/s"),
        ("rest of a step", "rest_seconds", 1, "s"),
    )
    return [
        f"  {words}: {getattr(old, name) * unit:.3g} -> {getattr(new, name) * unit:.3g} {suffix}"
        for words, name, unit, suffix in named
    ]
