"""The questions of a run: resumption, evaluation and refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from megatron_pz.config.question_schema import QuestionConfig
from megatron_pz.config.schema import DataConfig, GameConfig, RolloutConfig, RunConfig, TrainingConfig
from megatron_pz.question_answering.question import Question
from megatron_pz.run import questions
from megatron_pz.run.evaluation.held_out_passages import HeldOut
from megatron_pz.run.questions import QuestionStream, RunQuestions
from megatron_pz.run.rlvr import RlvrObjective
from megatron_pz.runtime.errors import BadInput


class NumberedTasks:
    """Replaces reasoning-gym with numbered questions of a seed."""

    def __init__(self, tasks: tuple[str, ...], seed: int, split: str) -> None:
        self.seed = seed

    def __getitem__(self, index: int) -> Question:
        return Question("task", str(index), "task", f"{self.seed}: {index}", "1", "")


def test_generated_questions_go_on_with_the_same_seed_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(questions, "ReasoningGym", NumberedTasks)
    config = QuestionConfig(reasoning_gym_tasks=("task",))

    def stream(seed: int) -> QuestionStream:
        return QuestionStream(config, seed, lambda question: True)

    whole, first, second = stream(3), stream(3), stream(3)
    first.draw(2)
    second.load_state_dict(first.state_dict())
    assert second.draw(2) == whole.draw(4)[2:]
    with pytest.raises(BadInput, match="drawn with seed 3, now --seed 4"):
        stream(4).load_state_dict(first.state_dict())


def test_an_evaluation_without_anything_to_ask_is_refused(tmp_path: Path) -> None:
    """Held-out passages do not count as questions, nor questions as passages."""
    evaluated = TrainingConfig(eval_interval=5)
    asking = RunConfig(
        training=evaluated,
        data=DataConfig(valid_data_path=("corpus",)),
        questions=QuestionConfig(question_path=(str(tmp_path / "q.jsonl"),)),
    )
    nothing: Any = None
    with pytest.raises(BadInput, match="--eval-interval 5 needs --valid-question-path"):
        RunQuestions.open(asking, nothing)
    playing = RunConfig(training=evaluated, questions=QuestionConfig(valid_question_path=("q.jsonl",)))
    with pytest.raises(BadInput, match="--eval-interval 5 needs --valid-data-path"):
        HeldOut(playing, nothing, nothing)


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        (RunConfig(game=GameConfig(policy_sharing="separate")), "--policy-sharing separate: question answering"),
        (RunConfig(rollout=RolloutConfig(generator_ahead=True)), "--generator-ahead: question answering"),
        (RunConfig(rollout=RolloutConfig(rollout_ranks=2)), "--rollout-ranks 2: not for question answering"),
    ],
)
def test_settings_of_the_other_roles_are_refused(config: RunConfig, complaint: str) -> None:
    nothing: Any = None
    with pytest.raises(BadInput, match=complaint):
        RlvrObjective(config, nothing, nothing)
