"""Start the common parts of objectives with rollouts: policies, rollout engines, and their shared memory."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

from transformers import PreTrainedTokenizerBase

from megatron_pz.algorithm.learner import make_learners
from megatron_pz.algorithm.policy_step import PolicyStep
from megatron_pz.algorithm.remote_engine import PolicyEngine, RemoteEngine
from megatron_pz.checkpoint.sharded_state import ModelState
from megatron_pz.config.schema import RunConfig
from megatron_pz.monitoring.compute import FlopCounter
from megatron_pz.rl.experience import Role
from megatron_pz.rollout.engine import VllmEngine
from megatron_pz.rollout.fault_tolerance import RestartingEngine
from megatron_pz.rollout.log_prob_semantics import require_log_prob_semantics
from megatron_pz.rollout.ranks.controller import RolloutController
from megatron_pz.run.evaluation.benchmarks import TrainingBenchmarks
from megatron_pz.run.inputs import tokenizer_dir
from megatron_pz.run.objective import Objective
from megatron_pz.runtime.watchdog import Watchdog
from megatron_pz.trainer.topology import Topology


class RolloutObjective(Objective):
    """Policies that learn from the samples of their own rollout engines."""

    starts = "engines"
    algorithm: PolicyStep[Any]
    """Exists after :meth:`start`, since it needs the rollout engines."""

    def __init__(
        self,
        config: RunConfig,
        topology: Topology,
        watchdog: Watchdog,
        tokenizer: PreTrainedTokenizerBase,
        roles: tuple[Role, ...],
    ) -> None:
        """Build the policies of the roles with their initial weights, after all checks that may refuse the run."""
        self.config, self.topology, self.watchdog, self.tokenizer = config, topology, watchdog, tokenizer
        self.roles = roles
        self.benchmarks = TrainingBenchmarks(config, topology) if config.training.benchmark_interval else None
        self.learners = make_learners(config, topology, roles)
        self.flop_counter = FlopCounter(self.learners[0].policy.architecture)
        self.engines: Mapping[Role, PolicyEngine] = {}
        self.controller: RolloutController | None = None
        """The rollout ranks, if this is rank 0 and there are any."""

    @property
    def models(self) -> dict[str, ModelState]:
        """Return the policy, or the policy of each role."""
        return {each.name: ModelState(each.policy.chunks, each.policy.optimizer) for each in self.learners}

    def start_remote_engines(self) -> dict[Role, RemoteEngine]:
        """Wait for the rollout ranks, send them the weights, and return each role's engines on these ranks."""
        topology, rollout = self.topology, self.config.rollout

        def limited(phase: str, setting: str, factor: int) -> AbstractContextManager[None]:
            minutes = getattr(rollout, setting)
            limit = f"{f'{factor} times ' if factor > 1 else ''}--{setting.replace('_', '-')} {minutes:g}"
            return self.watchdog.phase(phase, 60 * minutes * factor, limit)

        if topology.rank == 0:
            ranks, first = topology.rollout_ranks, topology.world_size
            restarts, policies = rollout.max_engine_restarts, len(self.learners)
            self.controller = RolloutController(topology.store, ranks, first, restarts, limited, policies)
        engines: dict[Role, RemoteEngine] = {}
        for learner in self.learners:
            engines |= dict.fromkeys(learner.roles, RemoteEngine(self.controller, learner, topology, self.config))
        return engines

    def start_engines(self) -> dict[Role, RestartingEngine]:
        """Start an engine for each policy and return each role's; roles that share a policy share the engine."""
        # vLLM takes its share of the free memory.
        if self.config.optimizer.rl_offload_optimizer_during_inference:
            for learner in self.learners:
                learner.policy.offload()
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
                return_experts=model.moe_enable_routing_replay,
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

    def benchmark_metrics(self, iteration: int) -> dict[str, float]:
        """Run the benchmarks on the last role's policy every ``benchmark_interval`` steps.

        Collective. The engines must be awake and hold the step's weights.
        """
        if self.benchmarks is None or iteration % self.config.training.benchmark_interval:
            return {}
        start = time.perf_counter()
        metrics = self.benchmarks.evaluate(iteration, self.engines[self.roles[-1]])
        return metrics | {"time/benchmarks": time.perf_counter() - start}

    def optimizer_on_device(self) -> AbstractContextManager[None]:
        """Return a context manager in which no optimizer is offloaded."""
        return self.algorithm.colocation.optimizer_needed()

    def close(self) -> None:
        """End the engines."""
        for engine in self.engines.values():
            engine.close()
        if self.controller is not None:
            self.controller.close()
