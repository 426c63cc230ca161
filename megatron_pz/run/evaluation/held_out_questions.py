"""Evaluate a run's policy on held-out questions between steps, and store the result of every question."""

from __future__ import annotations

import json
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

from megatron_pz.algorithm.question_metrics import answer_metrics
from megatron_pz.algorithm.question_rollouts import QuestionWorker
from megatron_pz.config.question_schema import QuestionConfig
from megatron_pz.monitoring.metrics import IterationLog
from megatron_pz.question_answering.question import Question

HELD_OUT_FILE = "held_out.jsonl"


class HeldOutQuestions:
    """Held-out questions, the same in every run of these settings, answered with the same seeds each time."""

    def __init__(
        self, questions: Sequence[Question], worker: QuestionWorker, samples: int, save: Path, resume_iteration: int
    ) -> None:
        """
        Open ``<save>/held_out.jsonl`` on rank 0.

        Args:
            questions: all questions, on every rank.
            worker: asks the questions, with the seed of the evaluation instead of the run's.
            samples: number of answers to each question.
            save: directory of the run.
            resume_iteration: iteration at which the run resumes; later lines are removed, because steps are repeated.
        """
        self.questions, self.worker, self.samples = questions, worker, samples
        self.digest = digest(questions, worker.config)
        rank = worker.topology.rank
        self._log = IterationLog(save / HELD_OUT_FILE, resume_iteration) if rank == 0 else None

    def evaluate(self, iteration: int) -> dict[str, float]:
        """Return the means over all held-out questions by name, ``held_out/…``, and store each question's accuracy.

        ``iteration`` is the step before the evaluation, 0 for the initial weights. Collective.
        """
        answers = self.worker.answer(self.questions, self.samples, "held-out")
        everywhere = sorted(self.worker.from_all_ranks([(each.index, each.accuracy) for each in answers]))
        if self._log is not None:
            accuracy = [accuracy for _, accuracy in everywhere]
            self._log.append(json.dumps({"iteration": iteration, "questions": self.digest, "accuracy": accuracy}))
        means = answer_metrics(answers, "held_out", self.worker)
        # A few samples have no outcome of their own.
        return {name: value for name, value in means.items() if not name.startswith("held_out/groups_")}

    def close(self) -> None:
        """Close the file."""
        if self._log is not None:
            self._log.close()


def digest(questions: Sequence[Question], config: QuestionConfig) -> str:
    """Hash the inputs of grading: the questions with options and references, and the grader."""
    asked = [[each.text, each.options, each.answer] for each in questions]
    verifier = [config.verifier_model, config.verifier_prompt] if config.grader == "verifier" else []
    return sha256(json.dumps([config.grader, verifier, asked]).encode()).hexdigest()[:16]
