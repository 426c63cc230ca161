"""Train one objective from the configuration to the last checkpoint: the only training loop."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from megatron_pz.checkpoint import loader
from megatron_pz.checkpoint.rng_state import collect_rng_state, restore_rng_state
from megatron_pz.checkpoint.writer import CheckpointWriter
from megatron_pz.config.schema import RunConfig
from megatron_pz.monitoring.collapse import COUNT, CollapseSign, CollapseWatch
from megatron_pz.monitoring.compute import ComputeUsed
from megatron_pz.monitoring.metrics import StepMetrics
from megatron_pz.monitoring.run_logger import RunLogger
from megatron_pz.rollout.ranks.rendezvous import publish_config
from megatron_pz.run.directory_lock import claim_run_directory
from megatron_pz.run.in_job_restart import resumed_after_restart
from megatron_pz.run.objective import MakeObjective, Schedule, StepNotDone
from megatron_pz.run.precision import require_machine, settle_precision
from megatron_pz.run.run_directory import describe_run
from megatron_pz.run.signals import StopRequest
from megatron_pz.run.start_log import StartLog
from megatron_pz.runtime.cpu_backend import release_freed_memory
from megatron_pz.runtime.errors import ExpectedFailure
from megatron_pz.runtime.rank_monitor import detect
from megatron_pz.runtime.watchdog import Watchdog
from megatron_pz.trainer.topology import Topology

STOPPED = 3
"""Exit code of a run that a signal stopped after a checkpoint."""
RELEASE_INTERVAL = 8
"""Steps between two releases of freed memory on a CPU; the next step then takes about a CPU-second more at 135M."""


class Collapsed(ExpectedFailure):
    """The run stopped because its training had collapsed."""

    exit_code = 4

    def __init__(self, iteration: int, signs: Sequence[CollapseSign]) -> None:
        super().__init__(f"stopped after step {iteration}, since training has collapsed: {'; '.join(map(str, signs))}")


class Run:
    """The stateful parts of a run, built in the required order.

    Process groups come first, then the claim on the run's directory, the models, the weights of a checkpoint, and last
    the rollout engines, which join the process groups and take a share of the remaining memory.
    """

    def __init__(
        self,
        config: RunConfig,
        schedule: Schedule,
        objective: MakeObjective,
        watchdog: Watchdog,
        rollout_ranks: int = 0,
    ) -> None:
        """Start the run; the last ``rollout_ranks`` processes of the job do not call this."""
        self.schedule, self.watchdog = schedule, watchdog
        started = StartLog()
        self.topology = Topology.start(config.parallel, schedule.seed, rollout_ranks)
        rank, ranks = self.topology.rank, self.topology.world_size
        started.done(rank, f"{ranks} rank{'s' * (ranks > 1)} up")
        self.config = settle_precision(config)
        require_machine(self.config)
        if rollout_ranks and rank == 0:
            publish_config(self.topology.store, self.config)
        watchdog.watch(rank, self.topology.job_size, self.topology.store)
        training = self.config.training
        self.folder = claim_run_directory(training.save, training.load)
        self.objective = objective(self.config, self.topology, watchdog)
        self.checkpoints = CheckpointWriter.of_run(training, self.config.parallel, self.objective.models, watchdog)
        self.compute = ComputeUsed()
        self.first_iteration = self.resume() if training.load else 1
        started.done(rank, "weights loaded")
        self.objective.start(self.first_iteration)
        started.done(rank, f"{self.objective.starts} ready")
        self.logger = RunLogger(
            Path(training.save),
            schedule.iterations,
            rank=rank,
            wandb_project=training.wandb_project,
            resume_iteration=self.first_iteration - 1,
            samples_budget_mib=training.samples_budget_mib,
        )
        self.collapse_watch = CollapseWatch.resumed(self.config.collapse, training.load, self.first_iteration - 1)
        self.ended_by: ExpectedFailure | None = None
        """Set if the run has stopped itself, because training collapsed or a step could not be done."""
        describe_run(self.config, self.topology, self.first_iteration - 1)

    def resume(self) -> int:
        """Load the newest checkpoint of ``--load`` and return the iteration to continue with."""
        state = loader.load_checkpoint(self.config.training.load, self.objective.models)
        state.require(*self.objective.state_dict(), "work")
        self.objective.read_binary = state.binary
        self.objective.load_state_dict(state.common)
        self.compute = ComputeUsed(**state.common["work"])
        if state.per_rank is not None:
            restore_rng_state(state.per_rank)
        return state.iteration + 1

    def train(self) -> bool:
        """Train all steps; return False if the run stopped before the last one, after a checkpoint.

        The cause is a signal, unless :attr:`ended_by` has another reason.
        """
        interval, done = self.schedule.save_interval, self.first_iteration - 1
        if over := done > 0 and self.schedule.is_over(done, self.compute):
            self.announce_nothing_to_do(done)
        # A run without checkpoints has nothing to save, so a signal ends it immediately.
        with StopRequest() if interval else nullcontext() as stop:
            self.objective.is_stopping = lambda: stop is not None and stop.signal is not None
            for iteration in () if over else range(self.first_iteration, self.schedule.iterations + 1):
                started, cpu = time.perf_counter(), time.process_time()
                self.watchdog.step(f"iteration {iteration}")
                try:
                    result = self.objective.step(iteration)
                except StepNotDone as failure:
                    self.end_before(iteration, failure, stop)
                    break
                self.compute += result.compute
                metrics = result.metrics | self.compute.metrics()
                over = self.schedule.is_over(iteration, self.compute)
                signs = self.examine(StepMetrics(iteration, metrics))
                metrics[COUNT] = float(len(signs))
                self.checkpoints.poll()
                stopping = stop is not None and stop.requested(self.topology)
                if signs and self.config.collapse.stop_on_collapse and not over:
                    self.ended_by, stopping = Collapsed(iteration, signs), True
                if interval and (stopping or over or iteration % interval == 0):
                    metrics["time/checkpoint"] = self.save(iteration)
                if iteration % RELEASE_INTERVAL == 0:
                    release_freed_memory()
                metrics["time/cpu_seconds"] = sum(self.topology.all_gather_object(time.process_time() - cpu))
                metrics["time/iteration"] = time.perf_counter() - started
                self.logger.log(iteration, metrics, show=iteration % self.config.training.log_interval == 0)
                if result.samples is not None:
                    self.logger.samples(iteration, result.samples)
                if over or stopping:
                    break
        return over

    def end_before(self, iteration: int, failure: StepNotDone, stop: StopRequest | None) -> None:
        """End the run with a checkpoint of the previous step, which is exact because the failed step changed nothing.

        The run ends as stopped if a signal had requested that, otherwise by the failure. Collective.
        """
        if stop is None or not stop.requested(self.topology):
            self.ended_by = failure
        if stop is not None and iteration > self.first_iteration and (iteration - 1) % self.schedule.save_interval:
            self.save(iteration - 1)

    def announce_nothing_to_do(self, done: int) -> None:
        """Print which bound of the schedule the resumed run has already reached."""
        schedule, folder = self.schedule, self.config.training.load
        if self.topology.rank != 0:
            return
        if done >= schedule.iterations:
            print(f"nothing to do: {folder} has done {done} steps, and --train-iters is {schedule.iterations}")
        else:
            used = f"{self.compute.flops:.4g} operations in {done} steps"
            print(f"nothing to do: {folder} has done {used}, and --train-flops is {schedule.flops:g}")

    def examine(self, step: StepMetrics) -> list[CollapseSign]:
        """Return the signs of collapse that the step shows, and warn of the new ones.

        Rank 0 judges for all ranks. Collective.
        """
        signs: list[CollapseSign] = []
        if self.topology.rank == 0:
            signs, new = self.collapse_watch.examine(step)
            for sign in new:
                print(f"warning: training may have collapsed: {sign}", file=sys.stderr, flush=True)
        return self.topology.broadcast_object(signs)

    def save(self, iteration: int) -> float:
        """Save a checkpoint from which the run resumes bit for bit; return the seconds that the run waited for it."""
        start = time.perf_counter()
        with self.objective.optimizer_on_device():
            self.checkpoints.save(
                iteration,
                common=self.objective.state_dict()
                | {"work": dataclasses.asdict(self.compute), "config": dataclasses.asdict(self.config)},
                per_rank=collect_rng_state(),
                binary=self.objective.binary_state(),
            )
        return time.perf_counter() - start

    def close(self) -> None:
        """Wait for the last checkpoint, end the engines, and last the process groups that they joined."""
        self.checkpoints.wait()
        self.logger.close()
        self.objective.close()
        self.folder.release()
        self.watchdog.stop()
        self.topology.close()


def run(config: RunConfig, schedule: Schedule, objective: MakeObjective, rollout_ranks: int = 0) -> None:
    """Train an objective to its end. Collective over all ranks of the launcher except the last ``rollout_ranks``.

    Raises:
        SystemExit: with code 3, if a signal stopped the run after a checkpoint.
        Collapsed: after a checkpoint, if training collapsed and the run is configured to stop then.
        StepNotDone: after a checkpoint, if a step failed before it changed any state.
    """
    config = resumed_after_restart(config)
    with Watchdog(60 * config.parallel.heartbeat_timeout_minutes, monitor=detect()) as watchdog:
        started = Run(config, schedule, objective, watchdog, rollout_ranks)
        finished = started.train()
        if finished:
            started.objective.finish()
        started.close()
    if started.ended_by is not None:
        raise started.ended_by
    if not finished:
        raise SystemExit(STOPPED)
