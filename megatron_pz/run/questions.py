"""Open the questions of a run, draw those of a step, and choose the held-out ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from megatron_pz.algorithm.question_rollouts import QuestionPrompts
from megatron_pz.config.question_schema import QuestionConfig
from megatron_pz.config.schema import RunConfig
from megatron_pz.config.validate_questions import asks_questions, has_held_out_questions
from megatron_pz.corpus.sampler import PassageSampler
from megatron_pz.question_answering.question import Question
from megatron_pz.question_answering.question_files import read_questions
from megatron_pz.question_answering.reasoning_gym_tasks import ReasoningGym
from megatron_pz.runtime.errors import BadInput

HELD_OUT_SEED = 11
"""Seed of the held-out questions and of their answers: runs of different seeds are asked the same."""
MAX_MISSES = 10_000
"""Generated questions that may be skipped one after another."""

Fits = Callable[[Question], bool]


class QuestionStream:
    """Draws the training questions, the same on every rank, and continues exactly after a resume.

    Questions from files are drawn without replacement, in a new order in every epoch; generated ones come by number.
    """

    def __init__(self, config: QuestionConfig, seed: int, fits: Fits) -> None:
        """
        Open the questions.

        Args:
            config: names files or tasks.
            seed: seed of the run.
            fits: returns whether a question may be asked; the others are skipped.

        Raises:
            BadInput: there are no questions, too few for a step, or they cannot be read.
        """
        if not asks_questions(config):
            raise BadInput("--question-path is missing: give files with questions, or --reasoning-gym-tasks")
        self.config, self.seed, self._fits = config, seed, fits
        self.drawn = 0
        """Questions drawn so far, the skipped ones included."""
        self.gym: ReasoningGym | None = None
        self._sampler: PassageSampler | None = None
        self._questions: Sequence[Question] = ()
        if config.reasoning_gym_tasks:
            self.gym = ReasoningGym(config.reasoning_gym_tasks, seed, "training")
            return
        self._questions = read_questions(config.question_path, config)
        if len(self._questions) < config.questions_per_step:
            raise BadInput(
                f"--question-path {' '.join(config.question_path)} has {len(self._questions)} questions, fewer than "
                f"--questions-per-step {config.questions_per_step}"
            )
        self._sampler = PassageSampler(len(self._questions), seed)

    def draw(self, count: int) -> list[Question]:
        """Return the next ``count`` questions that fit.

        Raises:
            BadInput: no question of a whole epoch, or of :data:`MAX_MISSES` generated ones, fits.
        """
        found: list[Question] = []
        misses, most = 0, len(self._questions) or MAX_MISSES
        while len(found) < count:
            question = self._next()
            if self._fits(question):
                found.append(question)
                misses = 0
            elif (misses := misses + 1) > most:
                raise BadInput(
                    f"none of {most} questions can be asked, the last one {question.source}: all are held out, or "
                    "their prompts are longer than --max-prompt-length"
                )
        return found

    def _next(self) -> Question:
        self.drawn += 1
        if self.gym is not None:
            return self.gym[self.drawn - 1]
        assert self._sampler is not None
        return self._questions[self._sampler.draw(1)[0]]

    def state_dict(self) -> dict[str, Any]:
        """Return the state for :meth:`load_state_dict`, as numbers, texts and lists."""
        return {
            "seed": self.seed,
            "drawn": self.drawn,
            "tasks": list(self.config.reasoning_gym_tasks),
            "sampler": self._sampler.state_dict() if self._sampler else None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from the state of another stream.

        Raises:
            BadInput: the other stream had different tasks, numbers of questions, or another seed.
        """
        tasks = list(self.config.reasoning_gym_tasks)
        if state["tasks"] != tasks or (state["sampler"] is None) != (self._sampler is None):
            raise BadInput(
                f"the checkpoint's questions come from {state['tasks'] or 'files'}, now from {tasks or 'files'}: give "
                "the same"
            )
        if (seed := state.get("seed", self.seed)) != self.seed:  # checkpoints of earlier versions have none
            raise BadInput(
                f"the checkpoint's questions were drawn with seed {seed}, now --seed {self.seed}: give the same"
            )
        if self._sampler is not None:
            self._sampler.load_state_dict(state["sampler"])
        self.drawn = state["drawn"]


def held_out_questions(config: QuestionConfig, fits: Fits) -> list[Question]:
    """Return the first ``eval_questions`` held-out questions that fit, with different texts.

    Raises:
        BadInput: there is none, or a file cannot be read.
    """
    found: dict[str, Question] = {}
    if config.valid_question_path:
        for question in read_questions(config.valid_question_path, config):
            if len(found) < config.eval_questions and fits(question):
                found.setdefault(question.text, question)
    else:
        gym, number = ReasoningGym(config.reasoning_gym_tasks, HELD_OUT_SEED, "held-out"), 0
        while len(found) < config.eval_questions and number < config.eval_questions + MAX_MISSES:
            if fits(question := gym[number]):
                found.setdefault(question.text, question)
            number += 1
    if not found:
        raise BadInput("no held-out question has a prompt within --max-prompt-length")
    return list(found.values())


@dataclass(frozen=True)
class RunQuestions:
    """The questions of a run and the format of their prompts."""

    prompts: QuestionPrompts
    stream: QuestionStream
    held_out: list[Question]
    """Empty if the configuration names none."""

    @classmethod
    def open(cls, config: RunConfig, tokenizer: PreTrainedTokenizerBase) -> RunQuestions:
        """Open training and held-out questions whose prompts are within ``max_prompt_length``.

        Raises:
            BadInput: as in :class:`QuestionStream` and :func:`held_out_questions`, or an evaluation has no questions.
        """
        questions, longest = config.questions, config.rollout.max_prompt_length
        if (interval := config.training.eval_interval) and not has_held_out_questions(questions):
            raise BadInput(f"--eval-interval {interval} needs --valid-question-path")
        prompts = QuestionPrompts(questions, tokenizer)

        def fits(question: Question) -> bool:
            return len(prompts.encode(question)) <= longest

        held_out = held_out_questions(questions, fits) if has_held_out_questions(questions) else []
        texts = frozenset(question.text for question in held_out)
        stream = QuestionStream(
            questions, config.training.seed, lambda question: question.text not in texts and fits(question)
        )
        return cls(prompts, stream, held_out)
