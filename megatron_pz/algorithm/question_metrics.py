"""Turn a step of question answering into metrics and readable samples."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from megatron_pz.algorithm.learning_metrics import MetricAccumulator, learning_metrics
from megatron_pz.algorithm.policy_step import StepReport
from megatron_pz.algorithm.question_rollouts import SOLVER, Answers, QuestionWorker
from megatron_pz.algorithm.rlvr import AnswerRound
from megatron_pz.monitoring.compute import ComputeUsed, FlopCounter
from megatron_pz.monitoring.samples import AnswerSample, QuestionSample
from megatron_pz.rl.advantages import outcome


def question_metrics(report: StepReport[AnswerRound], worker: QuestionWorker) -> dict[str, float]:
    """Compute all metrics of a step except the run's own counters. Collective: each rank reports its own answers."""
    answers = [each for part in report.rollouts for each in part.answers]
    return answer_metrics(answers, SOLVER, worker) | learning_metrics(report, (SOLVER,))


def answer_metrics(answers: Iterable[Answers], section: str, worker: QuestionWorker) -> dict[str, float]:
    """Average over the answers of all ranks; metric names begin with ``section``. Collective.

    If questions come from several sets, each set also has its own accuracy.
    """
    mine = MetricAccumulator()
    for each in answers:
        right = [float(grade.right) for grade in each.grades]
        mine.add(f"{section}/accuracy", right)
        mine.add(f"{section}/accuracy_{each.question.subject}", right)
        mine.add(f"{section}/reward", each.rewards)
        mine.add(f"{section}/format", (float(grade.answer is not None) for grade in each.grades))
        mine.add(f"{section}/grader_errors", (float(grade.error is not None) for grade in each.grades))
        mine.add(f"{section}/response_length", (float(len(response.token_ids)) for response in each.responses))
        mine.add(f"{section}/truncated", (float(response.truncated) for response in each.responses))
        mine.add_shares(f"{section}/groups", ("all_zero", "all_equal", "mixed", "all_one"), [outcome(each.rewards)])
    total = MetricAccumulator()
    for part in worker.from_all_ranks([mine]):
        total.merge(part)
    means = total.means()
    by_subject = [name for name in means if name.startswith(f"{section}/accuracy_")]
    return means if len(by_subject) > 1 else {name: means[name] for name in means if name not in by_subject}


def question_compute(report: StepReport[AnswerRound], worker: QuestionWorker, flops: FlopCounter) -> ComputeUsed:
    """Count the compute that a step used on all ranks. Collective: each rank counts its own answers."""
    answers = (each for part in report.rollouts for each in part.answers)
    mine = sum((flops.sampling(len(each.prompt_ids), each.responses) for each in answers), ComputeUsed())
    total = sum(worker.from_all_ranks([mine]), ComputeUsed())
    return sum((learner.compute for learner in report.learners), total)


def question_samples(answers: Sequence[Answers]) -> list[QuestionSample]:
    """Return readable samples of the questions with their answers."""
    return [
        QuestionSample(
            id=each.question.id,
            question=each.question.text,
            reference=each.question.answer,
            answers=tuple(
                AnswerSample(response.text, grade.answer, grade.right, reward, grade.error)
                for response, grade, reward in zip(each.responses, each.grades, each.rewards, strict=True)
            ),
        )
        for each in answers
    ]
