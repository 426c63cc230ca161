"""Train by reinforcement learning with verifiable rewards: questions, engines, held-out evaluation and samples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from megatron_pz.algorithm.policy_step import StepReport
from megatron_pz.algorithm.question_metrics import question_compute, question_metrics, question_samples
from megatron_pz.algorithm.question_rollouts import SOLVER, QuestionWorker
from megatron_pz.algorithm.rank_shares import RankShares
from megatron_pz.algorithm.rlvr import AnswerRound, QuestionAnswering
from megatron_pz.config.schema import RunConfig
from megatron_pz.question_answering.graders import make_grader
from megatron_pz.question_answering.verifier import ModelVerifier, VerifierFailed
from megatron_pz.run.evaluation.held_out_questions import HeldOutQuestions
from megatron_pz.run.inputs import open_tokenizer
from megatron_pz.run.objective import StepNotDone, StepResult
from megatron_pz.run.questions import HELD_OUT_SEED, RunQuestions
from megatron_pz.run.rollout_objective import RolloutObjective
from megatron_pz.runtime.errors import BadInput
from megatron_pz.runtime.watchdog import Watchdog
from megatron_pz.trainer.topology import Topology


class RlvrObjective(RolloutObjective):
    """One policy answers questions and learns from its graded answers."""

    algorithm: QuestionAnswering

    def __init__(self, config: RunConfig, topology: Topology, watchdog: Watchdog) -> None:
        """Open the questions and build the policy with its initial weights.

        Raises:
            BadInput: the settings, the questions or the model cannot be used.
        """
        if config.game.policy_sharing == "separate":
            raise BadInput("--policy-sharing separate: question answering has one role; use shared")
        if config.rollout.generator_ahead:
            raise BadInput("--generator-ahead: question answering has no generator; leave it out")
        if config.rollout.rollout_ranks:
            raise BadInput(f"--rollout-ranks {config.rollout.rollout_ranks}: not for question answering; leave it out")
        tokenizer = open_tokenizer(config.model)
        self.questions = RunQuestions.open(config, tokenizer)
        gym = self.questions.stream.gym
        self.grader = make_grader(config.questions, gym.score if gym else None)
        if isinstance(self.grader, ModelVerifier):
            self.grader.is_stopping = lambda: self.is_stopping()
        super().__init__(config, topology, watchdog, tokenizer, (SOLVER,))
        self.consumed_questions = 0
        self.held_out: HeldOutQuestions | None = None

    def state_dict(self) -> dict[str, Any]:
        """Return the position among the questions."""
        return {"questions": self.questions.stream.state_dict(), "consumed_questions": self.consumed_questions}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the saved position among the questions."""
        self.questions.stream.load_state_dict(state["questions"])
        self.consumed_questions = state["consumed_questions"]

    def start(self, first_iteration: int) -> None:
        """Start the engines with the policy's weights, and evaluate these at the beginning of a run."""
        config = self.config
        self.engines = self.start_engines()
        self.worker = self.worker_of(config.training.seed)
        self.algorithm = QuestionAnswering(
            config, self.worker, self.engines[SOLVER], self.learners, self.questions.stream.draw
        )
        if config.training.eval_interval:
            self.held_out = HeldOutQuestions(
                self.questions.held_out,
                self.worker_of(HELD_OUT_SEED),
                config.questions.eval_samples,
                Path(config.training.save),
                first_iteration - 1,
            )
            if first_iteration == 1:
                means = self.held_out.evaluate(0)
                if self.topology.rank == 0:
                    print(f"held-out accuracy of the initial weights: {means['held_out/accuracy']:.3f}", flush=True)

    def step(self, iteration: int) -> StepResult:
        """Ask, learn, and every ``eval_interval`` steps evaluate the new weights on the held-out questions."""
        report = self.learn(iteration)
        metrics = question_metrics(report, self.worker)
        compute = question_compute(report, self.worker, self.flop_counter)
        self.consumed_questions += sum(part.questions for part in report.rollouts)
        metrics["train/consumed_questions"] = float(self.consumed_questions)
        if self.held_out is not None and iteration % self.config.training.eval_interval == 0:
            with report.seconds("evaluation"):
                metrics |= self.held_out.evaluate(iteration)
            metrics["time/evaluation"] = report.seconds["evaluation"]
        metrics |= self.benchmark_metrics(iteration)
        kept = self.config.training.sampled_questions
        samples = question_samples(report.rollouts[0].answers[:kept]) if kept else None
        return StepResult(metrics, compute, samples)

    def learn(self, iteration: int) -> StepReport[AnswerRound]:
        """Run the algorithm's step. Raise StepNotDone if the verifier fails, before any learning."""
        before = self.questions.stream.state_dict()
        try:
            return self.algorithm.step(iteration)
        except VerifierFailed as failure:
            self.questions.stream.load_state_dict(before)
            raise StepNotDone(f"step {iteration} was not done: {failure}") from None

    def close(self) -> None:
        """End the engines and close the results."""
        super().close()
        if self.held_out is not None:
            self.held_out.close()

    def worker_of(self, seed: int) -> QuestionWorker:
        """Return a worker whose samples use this seed."""
        shares = RankShares(seed, self.topology)
        longest = self.config.rollout.longest_response(SOLVER)
        return QuestionWorker(self.config.questions, shares, self.questions.prompts, self.grader, self.engines, longest)
