"""The loop of training on given targets: what the cold start and the baselines without reinforcement learning share.

Optimizer, packing, log-probabilities, checkpoints, logs and the account of the compute are those of reinforcement
learning. ``<save>/hf`` is the result as a Hugging Face directory.
"""

from __future__ import annotations

import dataclasses
import math
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from megatron_pz.checkpoint import checkpoint
from megatron_pz.config.schema import GrpoConfig, RunConfig
from megatron_pz.corpus.passages import PassageBlend
from megatron_pz.hf.checkpoint import save_hf
from megatron_pz.monitoring.compute import ComputeUsed, FlopCounter
from megatron_pz.monitoring.run_logger import RunLogger
from megatron_pz.rl.data_parallel_packing import match_packed_shape
from megatron_pz.rl.experience import MicroBatch, OldAndReferenceLogProbs, ScoredGroup
from megatron_pz.rl.losses import policy_loss, supervised_loss
from megatron_pz.rl.packing import LossWeighting
from megatron_pz.rl.statistics import LossStatistics
from megatron_pz.roles.prompts import PromptFamily
from megatron_pz.run.inputs import open_passages, open_tokenizer
from megatron_pz.run.precision import settle_precision
from megatron_pz.run.run_directory import describe_run
from megatron_pz.run.signals import StopRequest, claim_run_folder
from megatron_pz.runtime.watchdog import Watchdog
from megatron_pz.trainer.policy import Policy
from megatron_pz.trainer.topology import Topology

Part = list[ScoredGroup]
"""Examples whose mean token loss is one term of a step's loss."""


class Examples(Protocol):
    """Where a supervised run's examples come from; the same ones on every rank."""

    def step(self) -> list[Part]:
        """The examples of the next optimizer step, over all ranks; its parts weigh the same."""

    def state_dict(self) -> dict[str, Any]:
        """What :meth:`load_state_dict` needs to go on there, as JSON keeps it."""

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


Source = Callable[[RunConfig, PreTrainedTokenizerBase, PassageBlend, Policy], Examples]
"""Makes the examples from the run's passages; the policy is the one that learns from them."""


@dataclass(frozen=True)
class Plan:
    """How long a supervised run takes and how fast it learns."""

    iterations: int
    rate: Callable[[int], float]
    """Learning rate of a step, counted from 0."""
    seed: int
    save_interval: int
    """Steps between checkpoints, of which the last is always saved; 0: no checkpoints at all."""


def target_tokens(response: str, family: PromptFamily, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """A stop string ends the engine's responses; where there is none the model must learn to end them itself."""
    end = [] if family.stop else [tokenizer.eos_token_id]
    return [*tokenizer.encode(response, add_special_tokens=False), *end]


def loss(
    log_probs_R: Tensor, entropy_R: Tensor, batch: MicroBatch, frozen: OldAndReferenceLogProbs
) -> tuple[Tensor, LossStatistics]:
    """Negative log-likelihood of the targets; the statistics are those of the policy loss, which has them all."""
    _, statistics = policy_loss(log_probs_R.detach(), entropy_R, batch, frozen, GrpoConfig())
    return supervised_loss(log_probs_R, batch), statistics


def learn(policy: Policy, parts: Sequence[Part], config: RunConfig, rate: float) -> dict[str, float]:
    """One optimizer step on the sum over the parts of their mean token loss; what it measured."""
    rows: list[MicroBatch] = []
    for groups in parts:
        weighting = LossWeighting.of(groups, "token_mean", config.rollout.max_response_length)
        rows += policy.micro_batches(groups, weighting, config.training.micro_batch_tokens)
    result = policy.update(match_packed_shape(rows, policy.packed_shape), loss, rate)
    by_role = {role: -each.log_prob for role, each in result.statistics.by_role().items() if each.tokens}
    metrics = {"train/lr": rate, "train/grad_norm": result.grad_norm, "train/loss": math.fsum(by_role.values())}
    if len(by_role) > 1:
        metrics |= {f"{role}/negative_log_likelihood": value for role, value in by_role.items()}
    return metrics


class SupervisedRun:
    """A run on the examples of one source: everything that has state, built in the one order that works."""

    def __init__(
        self,
        config: RunConfig,
        plan: Plan,
        watchdog: Watchdog,
        source: Source,
    ) -> None:
        self.topology = Topology.start(config.parallel, plan.seed)
        self.config, self.plan, self.watchdog = settle_precision(config), plan, watchdog
        config = self.config
        watchdog.watch(self.topology.rank, self.topology.world_size, self.topology.store)
        training = config.training
        self.folder = claim_run_folder(training.save, training.load if plan.save_interval else "")
        tokenizer, passages = open_tokenizer(config), open_passages(config)
        self.policy = Policy(config, self.topology)
        self.examples = source(config, tokenizer, passages, self.policy)
        self.parts = {"": checkpoint.ModelState(self.policy.chunks, self.policy.optimizer)}
        self.checkpoints = checkpoint.CheckpointWriter.of_run(config, self.parts, watchdog)
        self.work = ComputeUsed()
        self.first_iteration = self.resume() if training.load and plan.save_interval else 1
        self.logger = RunLogger(
            Path(training.save),
            plan.iterations,
            rank=self.topology.rank,
            wandb_project=training.wandb_project,
            resume_iteration=self.first_iteration - 1,
        )
        describe_run(config, self.topology, self.first_iteration - 1)

    def resume(self) -> int:
        """Load the newest checkpoint of ``--load``; the iteration to go on with."""
        state = checkpoint.load_checkpoint(self.config.training.load, self.parts)
        state.require("examples", "work")
        self.examples.load_state_dict(state.common["examples"])
        self.work = ComputeUsed(**state.common["work"])
        if state.per_rank is not None:
            checkpoint.restore_rng_state(state.per_rank)
        return state.iteration + 1

    def train(self) -> bool:
        """All steps; False when a signal stopped the run before, after a checkpoint."""
        costs, interval = FlopCounter(self.policy.architecture), self.plan.save_interval
        # Without checkpoints there is nothing to end in order.
        with StopRequest() if interval else nullcontext() as stop:
            for iteration in range(self.first_iteration, self.plan.iterations + 1):
                started, cpu = time.perf_counter(), time.process_time()
                self.watchdog.step(f"iteration {iteration}")
                parts = self.examples.step()
                metrics = learn(self.policy, parts, self.config, self.plan.rate(iteration - 1))
                groups = [group for part in parts for group in part]
                self.work += costs.training(groups)
                metrics |= self.work.metrics()
                metrics["train/responses"] = float(sum(len(group.responses) for group in groups))
                self.checkpoints.poll()
                stopping = stop is not None and stop.requested(self.topology)
                if interval and (stopping or iteration == self.plan.iterations or iteration % interval == 0):
                    self.save(iteration)
                metrics["time/cpu_seconds"] = sum(self.topology.all_gather_object(time.process_time() - cpu))
                metrics["time/iteration"] = time.perf_counter() - started
                self.logger.log(iteration, metrics, show=iteration % self.config.training.log_interval == 0)
                if stopping and iteration < self.plan.iterations:
                    return False
        return True

    def save(self, iteration: int) -> None:
        """A checkpoint from which the run goes on bit for bit."""
        common = {
            "examples": self.examples.state_dict(),
            "work": dataclasses.asdict(self.work),
            "config": dataclasses.asdict(self.config),
        }
        self.checkpoints.save(iteration, common=common, per_rank=checkpoint.collect_rng_state())

    def export(self) -> None:
        """Write ``<save>/hf``, over that of an earlier attempt. Collective."""
        folder = Path(self.config.training.save) / "hf"
        if self.topology.rank == 0:
            shutil.rmtree(folder, ignore_errors=True)
        save_hf(self.policy.weights(), self.policy.architecture, self.config.model.hf_model, folder)

    def close(self) -> None:
        """Leave when the last checkpoint is whole."""
        self.checkpoints.wait()
        self.logger.close()
        self.folder.release()
        self.watchdog.stop()
        self.topology.close()


def run_supervised(
    config: RunConfig,
    plan: Plan,
    source: Source,
) -> None:
    """Train and write ``<save>/hf``. Collective over all ranks of the launcher.

    Raises SystemExit with 3 when a signal stopped the run.
    """
    with Watchdog(60 * config.parallel.heartbeat_timeout_minutes) as watchdog:
        run = SupervisedRun(config, plan, watchdog, source)
        finished = run.train()
        if finished:
            run.export()
        run.close()
    if not finished:
        raise SystemExit(3)
