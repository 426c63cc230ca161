"""Generated questions: a number always names the same question, and errors are one line."""

from __future__ import annotations

import builtins
import os
import subprocess
import sys
from typing import Any

import pytest

from megatron_pz.question_answering.reasoning_gym_tasks import ReasoningGym
from megatron_pz.runtime.errors import BadInput

TASKS = ("chain_sum:min_terms=2,max_terms=2,min_digits=1,max_digits=2", "gcd", "letter_counting")


def test_without_the_package_there_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def missing(name: str, *rest: Any) -> Any:
        if name.startswith("reasoning_gym"):
            raise ImportError("No module named 'reasoning_gym'")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(BadInput, match=r"cannot be imported .*pip install 'megatron-pz\[questions\]'"):
        ReasoningGym(TASKS, 1, "training")


@pytest.mark.parametrize(
    ("tasks", "complaint"),
    [
        (("no_such_task",), "no_such_task.*not registered"),
        (("gcd:no_such_setting=1",), "unexpected keyword argument 'no_such_setting'"),
        (("gcd:min_value",), "give settings as SETTING=VALUE"),
        (("chain_sum:min_terms=9,max_terms=2",), "chain_sum"),
        (("gcd", "gcd:min_value=2"), "names gcd twice"),
    ],
)
def test_a_wrong_task_is_refused_in_one_line(tasks: tuple[str, ...], complaint: str) -> None:
    pytest.importorskip("reasoning_gym")
    with pytest.raises(BadInput, match=complaint) as refused:
        ReasoningGym(tasks, 1, "training")
    assert "\n" not in str(refused.value)


def test_a_question_depends_on_seed_and_number_only() -> None:
    pytest.importorskip("reasoning_gym")
    in_order, backwards = ReasoningGym(TASKS, 7, "training"), ReasoningGym(TASKS, 7, "training")
    asked = [in_order[number] for number in range(12)]
    assert [backwards[number].text for number in reversed(range(12))] == [each.text for each in reversed(asked)]
    assert [each.subject for each in asked[:4]] == ["chain_sum", "gcd", "letter_counting", "chain_sum"]
    assert len({each.text for each in asked}) > 9
    for other in (ReasoningGym(TASKS, 8, "training"), ReasoningGym(TASKS, 7, "held-out")):
        assert [other[number].text for number in range(12)] != [each.text for each in asked]


def test_another_process_generates_the_same_questions() -> None:
    """The other process has another hash seed, which orders sets differently."""
    pytest.importorskip("reasoning_gym")
    code = f"""
from megatron_pz.question_answering.reasoning_gym_tasks import ReasoningGym
gym = ReasoningGym({TASKS!r}, 7, "training")
print([gym[number].text for number in range(6)])
"""
    command, environment = [sys.executable, "-c", code], {**os.environ, "PYTHONHASHSEED": "1"}
    other = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=60)
    gym = ReasoningGym(TASKS, 7, "training")
    assert other.stdout == f"{[gym[number].text for number in range(6)]}\n"


def test_answers_are_scored_by_the_task_itself() -> None:
    pytest.importorskip("reasoning_gym")
    gym = ReasoningGym(("chain_sum", "countdown"), 3, "training")
    sums, countdown = gym[0], gym[1]
    assert gym.score(sums, sums.answer) == 1.0 and gym.score(sums, "no number") < 0.5
    assert gym.score(countdown, countdown.answer) == 1.0
    assert 0.0 < gym.score(countdown, "1 + 1") < 1.0
