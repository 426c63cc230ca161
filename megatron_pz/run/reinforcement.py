"""Train by PretrainZero: rollout engines, held-out evaluation and samples around the algorithm's step."""

from __future__ import annotations

import dataclasses
from contextlib import AbstractContextManager
from typing import Any

from megatron_pz.algorithm.learner import make_learners
from megatron_pz.algorithm.pretrain_zero import PretrainZero
from megatron_pz.algorithm.rollouts import RolloutWorker
from megatron_pz.algorithm.step_metrics import step_compute, step_metrics, step_samples
from megatron_pz.checkpoint.checkpoint import ModelState
from megatron_pz.config.schema import RunConfig
from megatron_pz.corpus.sampler import PassageSampler
from megatron_pz.monitoring.compute import FlopCounter
from megatron_pz.rl.experience import Role
from megatron_pz.rollout.engine import VllmEngine
from megatron_pz.rollout.fault_tolerance import RestartingEngine
from megatron_pz.rollout.log_prob_semantics import require_log_prob_semantics
from megatron_pz.run.held_out import HeldOut
from megatron_pz.run.inputs import open_passages, open_tokenizer, require_prompt_budget, tokenizer_dir
from megatron_pz.run.objective import Objective, StepResult
from megatron_pz.runtime.watchdog import Watchdog
from megatron_pz.trainer.topology import Topology

SAMPLED_PASSAGES = 2
"""Passages of a step whose rollouts are kept to read."""


class ReinforcementObjective(Objective):
    """The min-max game of mask generator and mask predictor on this run's passages."""

    starts = "engines"
    algorithm: PretrainZero
    worker: RolloutWorker
    """Both exist after :meth:`start`, since they need the rollout engines."""

    def __init__(self, config: RunConfig, topology: Topology, watchdog: Watchdog) -> None:
        self.config, self.topology, self.watchdog = config, topology, watchdog
        self.tokenizer = open_tokenizer(config.model)
        self.passages = open_passages(config.data, config.model, config.game.passages_per_step)
        require_prompt_budget(self.passages, self.tokenizer, config.game, config.rollout.max_prompt_length)
        self.sampler = PassageSampler(self.passages.sizes, config.training.seed, self.passages.weights)
        self.learners = make_learners(config, topology)
        self.flop_counter = FlopCounter(self.learners[0].policy.architecture)
        self.consumed_passages = 0
        self.first_iteration = 1
        self.held_out: HeldOut | None = None
        self.engines: dict[Role, RestartingEngine] = {}

    @property
    def models(self) -> dict[str, ModelState]:
        """The policy, or the policy of each role."""
        return {each.name: ModelState(each.policy.chunks, each.policy.optimizer) for each in self.learners}

    def state_dict(self) -> dict[str, Any]:
        """Return the position in the corpus."""
        return {"sampler": self.sampler.state_dict(), "consumed_passages": self.consumed_passages}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on at the saved position in the corpus."""
        self.sampler.load_state_dict(state["sampler"])
        self.consumed_passages = state["consumed_passages"]

    def start(self, first_iteration: int) -> None:
        """Open the held-out passages and start the engines with the policies' weights."""
        config, self.first_iteration = self.config, first_iteration
        if config.training.eval_interval:
            self.held_out = HeldOut(config, self.tokenizer, self.topology)
        if config.optimizer.rl_offload_optimizer_during_inference:  # vLLM takes its share of the memory that is free
            for learner in self.learners:
                learner.policy.offload()
        self.engines = self.start_engines()
        self.worker = RolloutWorker(
            config.game, config.rollout, config.training.seed, self.tokenizer, self.engines, self.topology
        )
        self.algorithm = PretrainZero(config, self.worker, self.learners, self.passages, self.sampler)

    def start_engines(self) -> dict[Role, RestartingEngine]:
        """Start an engine for each policy and return each role's; both roles' is the same where they share a policy."""
        share = self.config.rollout.gpu_memory_utilization / len(self.learners)
        rollout = dataclasses.replace(self.config.rollout, gpu_memory_utilization=share)
        model, seed = self.config.model, self.config.training.seed

        def start() -> VllmEngine:
            return VllmEngine(
                model.hf_model,
                rollout,
                seed=seed,
                colocated=True,
                watchdog=self.watchdog,
                tokenizer_dir=tokenizer_dir(model),
                read_weights=False,
            )

        engines: dict[Role, RestartingEngine] = {}
        for learner in self.learners:
            engine = RestartingEngine(
                start,
                learner.policy.weights,
                exchange=self.topology.all_gather_object,
                max_restarts=rollout.max_engine_restarts,
                check=require_log_prob_semantics,
            )
            engines |= dict.fromkeys(learner.roles, engine)
        return engines

    def step(self, iteration: int) -> StepResult:
        """Play, learn, and every ``eval_interval`` steps evaluate the new weights on the held-out passages."""
        if iteration == self.first_iteration:
            self.announce_warmup()
        report = self.algorithm.step(iteration)
        metrics = step_metrics(report, self.worker)
        compute = step_compute(report, self.worker, self.flop_counter)
        samples = step_samples(report.rollouts, self.worker, SAMPLED_PASSAGES)
        self.consumed_passages += len(report.rollouts) * self.config.game.passages_per_step
        metrics["train/consumed_passages"] = float(self.consumed_passages)
        if self.held_out is not None and iteration % self.config.training.eval_interval == 0:
            with report.seconds("evaluation"):
                metrics |= self.held_out.evaluate(f"iteration {iteration}", self.engines)
            metrics["time/evaluation"] = report.seconds["evaluation"]
        return StepResult(metrics, compute, samples)

    def announce_warmup(self) -> None:
        """Print which steps are passive, where this run has any."""
        warmup = self.config.game.passive_warmup_iters
        if self.first_iteration <= warmup and self.topology.rank == 0:
            print(f"steps {self.first_iteration} to {warmup}: masks by {self.config.game.warmup_mask_strategy}")

    def optimizer_on_device(self) -> AbstractContextManager[None]:
        """Return a block in which no optimizer is offloaded."""
        return self.algorithm.colocation.optimizer_needed()

    def close(self) -> None:
        """End the engines."""
        for engine in self.engines.values():
            engine.close()
