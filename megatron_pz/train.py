"""The entry point: read the configuration, put the parts together, run the loop.

    python -m megatron_pz.train --config FILE [--flags]                              one process
    torchrun --nproc-per-node N -m megatron_pz.train --config FILE [--flags]         N processes

One process a device. Each holds its shard of the Megatron policy and its own vLLM engine, or one with its neighbours
(``rollout_tensor_parallel_size``). The run's folder (``--save``)
gets the resolved configuration, checkpoints, metrics and samples; ``--load`` with the same folder goes on with it.
"""

from __future__ import annotations

import dataclasses
import os
import sys
import time
from contextlib import nullcontext
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from megatron_pz.algorithm.learner import make_learners
from megatron_pz.algorithm.pretrain_zero import PretrainZero
from megatron_pz.algorithm.rollouts import RolloutWorker
from megatron_pz.algorithm.step_metrics import step_compute, step_metrics, step_samples
from megatron_pz.checkpoint import checkpoint
from megatron_pz.config.parse import parse_run_config
from megatron_pz.config.schema import RunConfig
from megatron_pz.corpus.passages import open_blend
from megatron_pz.corpus.sampler import PassageSampler
from megatron_pz.evaluation.held_out_masks import evaluate
from megatron_pz.evaluation.passages import candidates, choose, share_of_rank
from megatron_pz.evaluation.results import EvaluationSettings, merge
from megatron_pz.evaluation.summary import summarize
from megatron_pz.monitoring.compute import ComputeUsed, FlopCounter
from megatron_pz.monitoring.run_logger import RunLogger
from megatron_pz.rl.experience import Role
from megatron_pz.rollout.engine import VllmEngine
from megatron_pz.rollout.fault_tolerance import RestartingEngine
from megatron_pz.rollout.log_prob_semantics import require_log_prob_semantics
from megatron_pz.run.inputs import open_passages, open_tokenizer, require_prompt_budget, tokenizer_dir
from megatron_pz.run.precision import settle_precision
from megatron_pz.run.run_directory import describe_run
from megatron_pz.run.signals import StopRequest, claim_run_folder
from megatron_pz.runtime.errors import exits_with_one_line
from megatron_pz.runtime.watchdog import Watchdog
from megatron_pz.trainer.topology import Topology

SAMPLED_PASSAGES = 2
"""Passages of a step whose rollouts are kept to read."""


class Run:
    """A training run: everything that has state, built in the one order that works (see ``rollout.engine``)."""

    def __init__(self, config: RunConfig, watchdog: Watchdog) -> None:
        self.topology = Topology.start(config.parallel, config.training.seed)
        self.config, self.watchdog = settle_precision(config), watchdog
        config = self.config
        watchdog.watch(self.topology.rank, self.topology.world_size, self.topology.store)
        self.folder = claim_run_folder(config.training.save, config.training.load)
        self.tokenizer = open_tokenizer(config)
        self.passages = open_passages(config)
        require_prompt_budget(self.passages, self.tokenizer, config)
        self.sampler = PassageSampler(self.passages.sizes, config.training.seed, self.passages.weights)
        self.learners = make_learners(config, self.topology)
        self.parts = {
            each.name: checkpoint.ModelState(each.policy.chunks, each.policy.optimizer) for each in self.learners
        }
        self.checkpoints = checkpoint.CheckpointWriter.of_run(config, self.parts, watchdog)
        self.consumed_passages, self.work = 0, ComputeUsed()
        self.first_iteration = self.resume() if config.training.load else 1
        self.held_out = HeldOut(config, self.tokenizer, self.topology) if config.training.eval_interval else None
        if config.optimizer.rl_offload_optimizer_during_inference:  # vLLM takes of what is free when it starts
            for learner in self.learners:
                learner.policy.offload()
        self.engines = self.start_engines()
        self.worker = RolloutWorker(
            config.game, config.rollout, config.training.seed, self.tokenizer, self.engines, self.topology
        )
        self.algorithm = PretrainZero(config, self.worker, self.learners, self.passages, self.sampler)
        self.logger = RunLogger(
            Path(config.training.save),
            config.training.train_iters,
            rank=self.topology.rank,
            wandb_project=config.training.wandb_project,
            resume_iteration=self.first_iteration - 1,
        )
        describe_run(config, self.topology, self.first_iteration - 1)

    def start_engines(self) -> dict[Role, RestartingEngine]:
        """Each role's engine, with its policy's weights; one engine where one policy plays both."""
        share = self.config.rollout.gpu_memory_utilization / len(self.learners)
        rollout = dataclasses.replace(self.config.rollout, gpu_memory_utilization=share)
        model, seed = self.config.model.hf_model, self.config.training.seed

        def start() -> VllmEngine:
            engine = VllmEngine(model, rollout, seed=seed, colocated=True, watchdog=self.watchdog)
            require_log_prob_semantics(engine)
            return engine

        engines: dict[Role, RestartingEngine] = {}
        for learner in self.learners:
            engine = RestartingEngine(
                start,
                learner.policy.weights,
                exchange=self.topology.all_gather_object,
                max_restarts=rollout.max_engine_restarts,
            )
            engines |= dict.fromkeys(learner.roles, engine)
        return engines

    def resume(self) -> int:
        """Load the newest checkpoint of ``--load``; the iteration to go on with."""
        state = checkpoint.load_checkpoint(self.config.training.load, self.parts)
        state.require("sampler", "consumed_passages", "work")
        self.sampler.load_state_dict(state.common["sampler"])
        self.consumed_passages = state.common["consumed_passages"]
        self.work = ComputeUsed(**state.common["work"])
        if state.per_rank is not None:
            checkpoint.restore_rng_state(state.per_rank)
        return state.iteration + 1

    def train(self) -> bool:
        """All steps up to ``train_iters``; False when a signal stopped the run before, after a checkpoint."""
        last, interval = self.config.training.train_iters, self.config.training.save_interval
        if self.first_iteration > last and self.topology.rank == 0:
            done = self.first_iteration - 1
            print(f"nothing to do: {self.config.training.load} has done {done} steps, and --train-iters is {last}")
        costs = FlopCounter(self.learners[0].policy.architecture)
        warmup = self.config.game.passive_warmup_iters
        if self.first_iteration <= warmup and self.topology.rank == 0:
            print(f"steps {self.first_iteration} to {warmup}: masks by {self.config.game.warmup_mask_strategy}")
        # Without checkpoints there is nothing to end in order.
        with StopRequest() if interval else nullcontext() as stop:
            for iteration in range(self.first_iteration, last + 1):
                started, cpu = time.perf_counter(), time.process_time()
                self.watchdog.step(f"iteration {iteration}")
                report = self.algorithm.step(iteration)
                metrics = step_metrics(report, self.worker)
                self.work += step_compute(report, self.worker, costs)
                samples = step_samples(report.rollouts, self.worker, SAMPLED_PASSAGES)
                self.consumed_passages += len(report.rollouts) * self.config.game.passages_per_step
                if self.held_out is not None and iteration % self.config.training.eval_interval == 0:
                    with report.seconds("evaluation"):
                        metrics |= self.held_out.evaluate(f"iteration {iteration}", self.engines)
                    metrics["time/evaluation"] = report.seconds["evaluation"]
                self.checkpoints.poll()
                stopping = stop is not None and stop.requested(self.topology)
                if interval and (stopping or iteration == last or iteration % interval == 0):
                    with report.seconds("checkpoint"), self.algorithm.colocation.optimizer_needed():
                        self.save(iteration)
                    metrics["time/checkpoint"] = report.seconds["checkpoint"]
                metrics |= self.work.metrics()
                metrics["time/cpu_seconds"] = sum(self.topology.all_gather_object(time.process_time() - cpu))
                metrics["train/consumed_passages"] = float(self.consumed_passages)
                metrics["time/iteration"] = time.perf_counter() - started
                self.logger.log(iteration, metrics, show=iteration % self.config.training.log_interval == 0)
                self.logger.samples(iteration, samples)
                if stopping and iteration < last:
                    return False
        return True

    def save(self, iteration: int) -> None:
        """A checkpoint from which the run goes on bit for bit."""
        self.checkpoints.save(
            iteration,
            common={
                "sampler": self.sampler.state_dict(),
                "consumed_passages": self.consumed_passages,
                "work": dataclasses.asdict(self.work),
                "config": dataclasses.asdict(self.config),
            },
            per_rank=checkpoint.collect_rng_state(),
        )

    def close(self) -> None:
        """End the engines before the process groups that they joined, and not before the last checkpoint is whole."""
        self.checkpoints.wait()
        self.logger.close()
        for engine in self.engines.values():
            engine.close()
        self.folder.release()
        self.watchdog.stop()
        self.topology.close()


class HeldOut:
    """Held-out passages, evaluated between steps; every rank asks its share of them."""

    def __init__(self, config: RunConfig, tokenizer: PreTrainedTokenizerBase, topology: Topology) -> None:
        self.config, self.tokenizer, self.topology = config, tokenizer, topology
        limit = config.rollout.max_prompt_length
        corpus = open_blend(config.data.valid_data_path, tokenizer_dir(config))
        count = config.training.eval_passages
        chosen = choose(candidates(corpus), count, tokenizer, config.game, config.data, limit)
        self.passages = [passage.text for passage in share_of_rank(chosen, topology.rank, topology.world_size)]
        self.settings = EvaluationSettings(
            max_prompt_length=limit,
            max_response_length=config.rollout.max_response_length,
            generator_max_response_length=config.rollout.generator_max_response_length,
            predictions_per_mask=config.game.grpo_group_size,
        )

    def evaluate(self, name: str, engines: dict[Role, RestartingEngine]) -> dict[str, float]:
        """Means over all held-out passages by name, ``held_out/…``. Collective."""
        predictor, generator, rules = engines["predictor"], engines["generator"], self.config.game
        part = evaluate(name, predictor, self.tokenizer, self.passages, rules, self.settings, generator=generator)
        whole = merge(self.topology.all_gather_object(part))
        return {f"held_out/{measure}": estimate.mean for measure, estimate in summarize(whole).items()}


@exits_with_one_line
def main() -> None:
    """Train; exit code 0 when all steps are done, 3 when a signal stopped the run after a checkpoint."""
    config = parse_run_config(sys.argv[1:], "megatron_pz.train")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    with Watchdog(60 * config.parallel.heartbeat_timeout_minutes) as watchdog:
        run = Run(config, watchdog)
        finished = run.train()
        run.close()
    if not finished:
        raise SystemExit(3)


if __name__ == "__main__":
    main()
