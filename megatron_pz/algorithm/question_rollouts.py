"""Ask questions over all ranks, grade the answers and reward them.

Every rank asks its share of a step's questions. A sample's seed depends on the run's seed, the step and the question's
place in it, so a step repeats exactly, on any number of ranks.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from megatron_pz.algorithm.rank_shares import RankShares
from megatron_pz.algorithm.role_sampler import EngineSampler
from megatron_pz.config.question_schema import QuestionConfig
from megatron_pz.question_answering.graders import Answered, Grade, Grader, reward
from megatron_pz.question_answering.question import Question
from megatron_pz.question_answering.question_template import QuestionTemplate
from megatron_pz.rl.experience import Response, Role
from megatron_pz.rollout.protocol import Engine
from megatron_pz.runtime.errors import BadInput, ExpectedFailure, one_line

SOLVER: Role = "solver"
_PLACE = "\x00question\x00"


@dataclass(frozen=True)
class Answers:
    """The n responses to one question, graded and rewarded."""

    index: int
    """Place of the question in the round."""
    question: Question
    prompt_ids: tuple[int, ...]
    responses: tuple[Response, ...]
    grades: tuple[Grade, ...]
    rewards: tuple[float, ...]

    @property
    def accuracy(self) -> float:
        """Return the share of correct responses."""
        return sum(grade.right for grade in self.grades) / len(self.grades)


class QuestionPrompts:
    """Encodes the prompts of questions. A question's text is never read as control tokens."""

    def __init__(self, config: QuestionConfig, tokenizer: PreTrainedTokenizerBase) -> None:
        """Prepare the text around a question.

        Raises:
            BadInput: a chat template is requested, but the tokenizer has none that shows the user's text, or it fails.
        """
        self.tokenizer = tokenizer
        self.template = QuestionTemplate.load(config.question_template)
        self._before, self._after = self._around() if config.chat_template else ([], [])

    def encode(self, question: Question) -> tuple[int, ...]:
        """Return the token ids of a question's prompt."""
        text = self.tokenizer.encode(self.template.write(question), add_special_tokens=False)
        return (*self._before, *text, *self._after)

    def _around(self) -> tuple[list[int], list[int]]:
        if not self.tokenizer.chat_template:
            raise BadInput(f"--chat-template: the tokenizer of {self.tokenizer.name_or_path} has no chat template")
        turn = [{"role": "user", "content": _PLACE}]
        try:
            whole = self.tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
        except Exception as error:  # a template may compute anything
            raise BadInput(f"--chat-template: that of {self.tokenizer.name_or_path} fails: {one_line(error)}") from None
        before, place, after = whole.partition(_PLACE)
        if not place:
            raise BadInput(f"--chat-template: that of {self.tokenizer.name_or_path} does not show the user's text")
        return self._with_control_tokens(before), self._with_control_tokens(after)

    def _with_control_tokens(self, text: str) -> list[int]:
        """Encode a part of the chat template, including control tokens that the run's tokenizer reads as text."""
        known = {token.content: number for number, token in self.tokenizer.added_tokens_decoder.items()}
        longest_first = sorted(known, key=len, reverse=True)
        parts = re.split(f"({'|'.join(map(re.escape, longest_first))})", text) if known else [text]
        ids: list[int] = []
        for part in filter(None, parts):
            ids += [known[part]] if part in known else self.tokenizer.encode(part, add_special_tokens=False)
        return ids


class QuestionWorker(RankShares):
    """Samples and grades this rank's share of the answers, and exchanges results with the other ranks."""

    def __init__(
        self,
        config: QuestionConfig,
        shares: RankShares,
        prompts: QuestionPrompts,
        grader: Grader,
        engines: Mapping[Role, Engine],
        max_response_length: int,
    ) -> None:
        super().__init__(shares.seed, shares.topology)
        self.config, self.prompts, self.grader = config, prompts, grader
        self.sampler = EngineSampler(prompts.tokenizer, engines, {SOLVER: max_response_length})

    def answer(self, questions: Sequence[Question], n: int, rng_key: str) -> list[Answers]:
        """Sample n answers to each question of this rank's share, and reward them. Collective.

        Args:
            questions: all questions of the round, the same on every rank.
            n: number of answers to each question.
            rng_key: name of the round; the seeds depend on it.

        Raises:
            ExpectedFailure: the grader of any rank failed.
        """
        share = self.my_share(len(questions))
        prompts = [self.prompts.encode(questions[index]) for index in share]
        seeds = [self.seed_of(rng_key, SOLVER, index) for index in share]
        sampled = self.sampler.sample(SOLVER, prompts, n, seeds, self.config.response_stop)
        answered = [
            Answered(questions[index], response.text, response.truncated)
            for index, responses in zip(share, sampled, strict=True)
            for response in responses
        ]
        grades = self._grade(answered)
        answers = []
        for place, (index, prompt, responses) in enumerate(zip(share, prompts, sampled, strict=True)):
            own = tuple(grades[place * n : (place + 1) * n])
            rewards = tuple(self._reward(questions[index], grade) for grade in own)
            answers.append(Answers(index, questions[index], prompt, tuple(responses), own, rewards))
        return answers

    def _grade(self, answered: Sequence[Answered]) -> list[Grade]:
        grades: list[Grade] = []
        failure = None
        try:
            grades = self.grader.grade(answered)
        except ExpectedFailure as error:
            failure = error
        failures = [each for each in self.from_all_ranks([failure]) if each is not None]
        if failures:
            raise failures[0]
        return grades

    def _reward(self, question: Question, grade: Grade) -> float:
        longer = 0
        if self.config.answer_length_penalty and grade.right and grade.answer is not None:
            longer = len(self.sampler.encode(grade.answer)) - len(self.sampler.encode(question.answer))
        return reward(grade, longer, self.config)
