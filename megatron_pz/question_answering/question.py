"""Define one benchmark question and the verdict on one response to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

LETTERS: Final = "ABCDEFGHIJ"
"""Letters of the options, in order. The benchmarks of multiple choice have at most ten."""


@dataclass(frozen=True)
class Question:
    """One item of a benchmark."""

    benchmark: str
    """Name of the set, one of :data:`megatron_pz.question_answering.benchmarks.BENCHMARKS`."""
    id: str
    """Identifier within the set: the file's own if it has one, else the row's number from 0."""
    subject: str
    """Category, discipline, task or field that the set reports scores by; the set's name if it has none."""
    text: str
    answer: str
    """The reference answer: a letter for multiple choice, else text or LaTeX without a box around it."""
    source: str
    """Place it was read from, ``file:line`` or ``file:row N``; rows count from 1."""
    options: tuple[str, ...] = ()
    """Texts of the options A, B, …; empty if the answer is free."""
    extras: Mapping[str, object] = field(default_factory=dict)
    """All fields of the record, under their names in the file."""


@dataclass(frozen=True)
class Verdict:
    """The answer read from a response, and whether it is right."""

    extracted: str | None
    """The answer as read from the response; None if nothing was read. A guess is never stored here."""
    correct: bool
    guessed: bool = False
    """Whether nothing was read and ``correct`` results from a random guess, as in the benchmark authors' code."""
    error: str | None = None
    """One line about a grader that failed; the response then counts as wrong under that grader."""
    graders: Mapping[str, bool] = field(default_factory=dict)
    """Each grader's own verdict, by name; ``correct`` is that of the protocol's first grader."""
