"""Define how one benchmark is asked and graded under one recipe."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from megatron_pz.question_answering.math_grader import GraderFailure
from megatron_pz.question_answering.question import Question, Verdict
from megatron_pz.question_answering.scores import Scores, aggregate
from megatron_pz.runtime.errors import brief

Tokens = Callable[[str], int]
"""Counts the tokens of a text."""
Compare = Callable[[Question, str], bool]
"""Returns whether an extracted text answers the question; raises :class:`GraderFailure` if it cannot."""


@dataclass(frozen=True)
class Protocol:
    """The prompt, the sampling settings and the grading of one benchmark under one recipe."""

    recipe: str
    benchmark: str
    source: str
    """Source of the settings."""
    write: Callable[[Question, Tokens | None], str]
    """Writes the user's text; may leave out worked examples to stay within :attr:`max_prompt_tokens`."""
    extract: Callable[[Question, str], str | None]
    """Reads the answer in a response; None and white space count as no answer."""
    graders: Mapping[str, Compare]
    """Comparisons of an extracted answer with the reference, by name; the verdict of the first one counts."""
    guess: Callable[[Question], Sequence[str]] | None = None
    """The answers from which the benchmark's authors guess if none is read; None if that counts as wrong."""
    system: str | None = None
    """System message of a chat."""
    system_in_completion: bool = False
    """Whether the system message holds the instruction and therefore precedes the text of a plain completion."""
    chat: bool = True
    """Whether the recipe asks through the model's chat template; False is a plain completion."""
    stop: tuple[str, ...] = ()
    max_tokens: int = 8192
    """Longest response, in tokens."""
    max_prompt_tokens: int | None = None
    """Maximum prompt tokens, for which worked examples are dropped; None without worked examples."""
    temperature: float = 0.0
    top_p: float = 1.0
    samples: int = 1
    """Responses per question; the score is their mean (mean@k)."""
    headline: Literal["micro", "macro", "harmonic"] = "micro"
    """The aggregate that is quoted as the benchmark's score."""

    def prompt(self, question: Question, tokens: Tokens | None = None) -> str:
        """Return the user's text.

        Args:
            question: One of the benchmark's questions.
            tokens: Counts a text's tokens. If given, worked examples are dropped from the end until the text has fewer
                than :attr:`max_prompt_tokens` tokens.
        """
        return self.write(question, tokens)

    def messages(self, question: Question, tokens: Tokens | None = None) -> list[dict[str, str]]:
        """Return the chat for a model's chat template."""
        system = [] if self.system is None else [{"role": "system", "content": self.system}]
        return [*system, {"role": "user", "content": self.prompt(question, tokens)}]

    def completion(self, question: Question, tokens: Tokens | None = None) -> str:
        """Return the prompt of a plain completion: the system message if it has instructions, then the user's text."""
        user = self.prompt(question, tokens)
        return f"{self.system}\n\n{user}\n" if self.system_in_completion else user

    def grade(self, question: Question, response: str, seed: int) -> Verdict:
        """Read and grade one response.

        The verdict depends only on the arguments. If the grader fails, the response counts as wrong and the failure is
        reported.

        Args:
            question: The question that was asked.
            response: The model's text, without the prompt.
            seed: Determines the guess if the recipe guesses. Each sample of a question needs a different seed.
        """
        extracted = self.extract(question, response)
        if extracted is None or not extracted.strip():
            guess = self._guess(question, seed)
            verdicts = dict.fromkeys(self.graders, guess == question.answer)
            return self._verdict(None, verdicts, guessed=guess is not None)
        verdicts, errors = {}, []
        for name, compare in self.graders.items():
            try:
                verdicts[name] = compare(question, extracted)
            except GraderFailure as failure:
                verdicts[name] = False
                errors.append(brief(failure))
            except Exception as failure:  # an unusual answer must not end a long evaluation
                verdicts[name] = False
                errors.append(f"{name}: {type(failure).__name__}: {brief(failure)}")
        return self._verdict(extracted, verdicts, error="; ".join(errors) or None)

    def aggregate(self, questions: Sequence[Question], scores: Sequence[float]) -> Scores:
        """Aggregate the scores of questions, each of which is the mean over the question's samples."""
        return aggregate([question.subject for question in questions], scores)

    def _guess(self, question: Question, seed: int) -> str | None:
        if self.guess is None:
            return None
        return random.Random(f"{seed} {question.benchmark} {question.id}").choice(self.guess(question))

    def _verdict(
        self, extracted: str | None, verdicts: dict[str, bool], guessed: bool = False, error: str | None = None
    ) -> Verdict:
        first = next(iter(self.graders))
        return Verdict(extracted, verdicts[first], guessed, error, verdicts)
