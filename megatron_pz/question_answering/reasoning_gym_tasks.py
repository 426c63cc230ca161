"""Generate and score questions by the tasks of the package reasoning-gym, which is optional."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import yaml

from megatron_pz.question_answering.question import Question
from megatron_pz.runtime.errors import BadInput, brief

if TYPE_CHECKING:
    from reasoning_gym.dataset import ProceduralDataset

SIZE = 2**31 - 1
"""Length given to tasks, which generate items on request."""


class ReasoningGym:
    """An endless list of questions: item i is item ``i // n`` of task ``i % n``, independent of earlier accesses."""

    def __init__(self, tasks: Sequence[str], seed: int, split: str) -> None:
        """
        Set up the tasks.

        Args:
            tasks: ``NAME`` or ``NAME:SETTING=VALUE,…``, values as in YAML.
            seed: the run's seed.
            split: a word that selects different questions for the same seed, such as ``held-out``.

        Raises:
            BadInput: the package is missing or refuses a task or a setting.
        """
        self.tasks = tuple(tasks)
        self._datasets = [_dataset(task, seed, split) for task in tasks]
        self._names = [task.partition(":")[0] for task in tasks]
        if repeated := {name for name in self._names if self._names.count(name) > 1}:
            raise BadInput(f"--reasoning-gym-tasks names {', '.join(sorted(repeated))} twice: give each task once")
        self._by_name = dict(zip(self._names, self._datasets, strict=True))

    def __getitem__(self, index: int) -> Question:
        """Return question number ``index``, from 0."""
        item, task = divmod(index, len(self.tasks))
        entry = self._datasets[task][item]
        name = self._names[task]
        place = f"reasoning-gym {name} {item}"
        return Question(
            name,
            f"{name}/{item}",
            name,
            entry["question"],
            str(entry["answer"]),
            place,
            extras=MappingProxyType(dict(entry)),
        )

    def score(self, question: Question, answer: str) -> float:
        """Return the task's own score of an answer, 0 to 1."""
        score = self._by_name[question.benchmark].score_answer(answer, entry=dict(question.extras))
        return min(max(float(score), 0.0), 1.0)


def _dataset(task: str, seed: int, split: str) -> ProceduralDataset:
    try:
        import reasoning_gym
    except ImportError as error:
        raise BadInput(
            f"--reasoning-gym-tasks {task}: the package reasoning-gym cannot be imported ({brief(error)}): "
            "pip install 'megatron-pz[questions]'"
        ) from None
    name, _, settings = task.partition(":")
    # Tasks add an item's index to their seed, so neighbouring seeds would share items.
    digest = hashlib.sha256(f"{seed} {split} {name}".encode()).digest()
    own_seed = int.from_bytes(digest[:4]) >> 1
    try:
        return reasoning_gym.create_dataset(name, seed=own_seed, size=SIZE, **_settings(settings))
    except Exception as error:  # a task's own checks may raise any exception, such as AssertionError and TypeError
        raise BadInput(f"--reasoning-gym-tasks {task}: {brief(error)}") from None


def _settings(text: str) -> dict[str, Any]:
    pairs = [pair.partition("=") for pair in text.split(",") if pair]
    for name, sign, value in pairs:
        if not name or not sign or not value:
            raise ValueError(f"{name}{sign}{value}: give settings as SETTING=VALUE,SETTING=VALUE")
    return {name.strip(): yaml.safe_load(value) for name, _, value in pairs}
