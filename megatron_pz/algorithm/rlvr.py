"""Run reinforcement learning with verifiable rewards, one step at a time: one policy answers questions.

Departures from General-Reasoner (arXiv 2505.14652), whose recipe the paper follows after pretraining:

- No entropy bonus (there 0.001): the trainer computes the entropy of its tokens without a gradient.
- A group's standard deviation is that of a population (divided by n); a truncated response counts as unanswered.
- Token weights correct for the mismatch between rollout and trainer probabilities (truncated importance sampling),
  as in the game; ``mismatch_correction: off`` leaves it out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from megatron_pz.algorithm.learner import Learner
from megatron_pz.algorithm.policy_step import PolicyStep
from megatron_pz.algorithm.question_rollouts import SOLVER, Answers, QuestionWorker
from megatron_pz.config.schema import RunConfig
from megatron_pz.question_answering.question import Question
from megatron_pz.rl.experience import ScoredGroup
from megatron_pz.rollout.fault_tolerance import RestartingEngine


@dataclass(frozen=True)
class AnswerRound:
    """This rank's share of one round of answers."""

    questions: int
    """Questions of the round, over all ranks."""
    answers: list[Answers]


class QuestionAnswering(PolicyStep[AnswerRound]):
    """One policy answers questions; the group of a question is its n answers."""

    def __init__(
        self,
        config: RunConfig,
        worker: QuestionWorker,
        engine: RestartingEngine,
        learners: list[Learner],
        draw: Callable[[int], Sequence[Question]],
    ) -> None:
        """
        Keep the parts of the run.

        Args:
            config: the configuration of the run.
            worker: asks and grades.
            engine: the engine of the policy.
            learners: the learner of the policy, as the only entry.
            draw: returns the given number of next questions, the same on every rank.
        """
        super().__init__(config, worker, worker.sampler, {SOLVER: engine}, learners)
        self.worker, self.draw = worker, draw

    def gather_experience(self, iteration: int) -> tuple[list[AnswerRound], list[ScoredGroup]]:
        """Ask once, or with dynamic sampling until there are enough groups to learn from."""
        game, wanted = self.config.game, self.config.questions.questions_per_step
        rounds: list[AnswerRound] = []
        groups: list[ScoredGroup] = []
        for number in range(game.max_sampling_rounds if game.dynamic_sampling else 1):
            questions = self.draw(wanted)
            answers = self.worker.answer(questions, game.grpo_group_size, f"{iteration}.{number}")
            rounds.append(AnswerRound(len(questions), answers))
            groups += self.experience(answers)
            if len(groups) >= wanted:
                break
        return rounds, groups

    def experience(self, answers: Sequence[Answers]) -> list[ScoredGroup]:
        """Return the groups of all ranks whose rewards differ, in the order of their questions. Collective."""
        return self.gathered(
            {each.index: self.score(SOLVER, each.prompt_ids, each.responses, each.rewards) for each in answers}
        )
