"""Train by PretrainZero: rollout engines, held-out evaluation and samples around the algorithm's step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from megatron_pz.algorithm.overlapped import OverlappedPretrainZero
from megatron_pz.algorithm.pretrain_zero import PretrainZero
from megatron_pz.algorithm.remote_engine import RemoteEngine
from megatron_pz.algorithm.rollouts import RolloutWorker
from megatron_pz.algorithm.step_metrics import step_compute, step_metrics
from megatron_pz.algorithm.step_samples import response_differences, step_samples
from megatron_pz.algorithm.work_shares import MeanLengths
from megatron_pz.config.schema import RunConfig
from megatron_pz.corpus.sampler import PassageSampler
from megatron_pz.rl.statistics import GAME_ROLES
from megatron_pz.run.evaluation.held_out_passages import HeldOut
from megatron_pz.run.inputs import open_passages, open_tokenizer, require_prompt_budget
from megatron_pz.run.objective import StepResult
from megatron_pz.run.rollout_objective import RolloutObjective
from megatron_pz.runtime.watchdog import Watchdog
from megatron_pz.trainer.topology import Topology


class PretrainZeroObjective(RolloutObjective):
    """The min-max game of mask generator and mask predictor on this run's passages."""

    algorithm: PretrainZero
    worker: RolloutWorker
    """Both exist after :meth:`start`, since they need the rollout engines."""

    def __init__(self, config: RunConfig, topology: Topology, watchdog: Watchdog) -> None:
        tokenizer = open_tokenizer(config.model)
        self.passages = open_passages(config.data, config.model, config.game.passages_per_step)
        require_prompt_budget(self.passages, tokenizer, config.game, config.rollout.max_prompt_length)
        super().__init__(config, topology, watchdog, tokenizer, GAME_ROLES)
        self.sampler = PassageSampler(self.passages.sizes, config.training.seed, self.passages.weights)
        self.consumed_passages = 0
        self.saved_rollouts: dict[str, Any] | None = None
        self.first_iteration = 1
        self.held_out: HeldOut | None = None

    def state_dict(self) -> dict[str, Any]:
        """Return the position in the corpus and, once the engines have started, the state of the rollouts."""
        state = {"sampler": self.sampler.state_dict(), "consumed_passages": self.consumed_passages}
        return state | ({"rollouts": self.algorithm.state_dict()} if self.engines else {})

    def binary_state(self) -> Mapping[str, bytes]:
        """Return the expert ids of rollouts from which no step has learned yet."""
        return self.algorithm.expert_ids() if self.engines else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the saved position in the corpus."""
        self.sampler.load_state_dict(state["sampler"])
        self.consumed_passages = state["consumed_passages"]
        self.saved_rollouts = state.get("rollouts")  # checkpoints of earlier versions have none

    def start(self, first_iteration: int) -> None:
        """Open the held-out passages and start the engines with the policies' weights."""
        config, self.first_iteration = self.config, first_iteration
        if config.training.eval_interval:
            self.held_out = HeldOut(config, self.tokenizer, self.topology)
        apart = self.topology.rollout_ranks > 0
        own, remote = ({}, self.start_remote_engines()) if apart else (self.start_engines(), {})
        self.engines = remote or own
        self.worker = RolloutWorker(
            config.game, config.rollout, config.training.seed, self.tokenizer, own, self.topology, MeanLengths()
        )
        if apart:
            self.algorithm = OverlappedPretrainZero(
                config, self.worker, self.learners, self.passages, self.sampler, remote, self.controller
            )
        else:
            self.algorithm = PretrainZero(config, self.worker, self.learners, self.passages, self.sampler)
        if self.saved_rollouts is not None:
            self.algorithm.load_state_dict(self.saved_rollouts, self.read_binary)

    def step(self, iteration: int) -> StepResult:
        """Roll out, learn, and every ``eval_interval`` steps evaluate the new weights on the held-out passages."""
        if iteration == self.first_iteration:
            self.announce_warmup()
        report = self.algorithm.step(iteration)
        metrics = step_metrics(report, self.worker)
        compute = step_compute(report, self.worker, self.flop_counter)
        if remote := [engine for engine in self.engines.values() if isinstance(engine, RemoteEngine)]:
            metrics["ahead/sync_difference"] = max(engine.difference.mean for engine in remote)
        differences = response_differences(report, self.worker)
        kept = self.config.training.sampled_passages
        samples = step_samples(report.rollouts, self.worker, kept, differences) if kept else None
        self.consumed_passages += len(report.rollouts) * self.config.game.passages_per_step
        metrics["train/consumed_passages"] = float(self.consumed_passages)
        if self.held_out is not None and iteration % self.config.training.eval_interval == 0:
            with report.seconds("evaluation"):
                metrics |= self.held_out.evaluate(f"iteration {iteration}", self.engines)
            metrics["time/evaluation"] = report.seconds["evaluation"]
        metrics |= self.benchmark_metrics(iteration)
        return StepResult(metrics, compute, samples)

    def announce_warmup(self) -> None:
        """Print which steps are passive, if this run has any."""
        warmup = self.config.game.passive_warmup_iters
        if self.first_iteration <= warmup and self.topology.rank == 0:
            print(f"steps {self.first_iteration} to {warmup}: masks by {self.config.game.warmup_mask_strategy}")
