"""Define the work of both sides and their measurements. Without torch, because every side imports this first."""

from __future__ import annotations

import dataclasses
import json
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

PHASES = ("rollout", "update", "sync")
"""Phases: from prompts to scored responses, from these to new weights, and the weights into the rollout engine. The
rest of a step is rewards, advantages and batching."""


@dataclass(frozen=True)
class Work:
    """The work of every side: model, prompts, number and length of the samples, one optimizer step per step."""

    hf_model: str
    prompts: tuple[str, ...]
    """Prompts in order, ``prompts_per_step`` of them per step, without repetition."""
    prompts_per_step: int
    samples: int
    """Responses to a prompt."""
    max_prompt_tokens: int
    response_tokens: int
    """Maximum number of tokens of a response."""
    stop: tuple[str, ...]
    """A response ends with the first token that completes one of these. Without any, all responses have
    ``response_tokens`` tokens, and the model's end token is ignored."""
    learning_rate: float
    seed: int
    tokens_in_micro_batch: int
    """Maximum tokens of this project's packed rows."""
    sequences_in_micro_batch: int
    """Number of sequences in TRL's padded batches."""

    @property
    def steps(self) -> int:
        """Return the number of all steps, including the first, which warms up and is not counted."""
        return len(self.prompts) // self.prompts_per_step

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(dataclasses.asdict(self)), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Work:
        content = json.loads(path.read_text(encoding="utf-8"))
        return cls(**content | {"prompts": tuple(content["prompts"]), "stop": tuple(content["stop"])})


@dataclass
class Step:
    """The measurements of one step of one side."""

    seconds: float = 0.0
    """Wall clock."""
    cpu_seconds: float = 0.0
    """CPU-seconds of all threads of the process."""
    phases: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PHASES, 0.0))
    """CPU-seconds, as in PHASES."""
    prompt_tokens: int = 0
    """Every prompt counted once."""
    response_tokens: int = 0
    trained_responses: int = 0
    """Number of responses in groups with unequal rewards; the others have no gradient."""

    @contextmanager
    def measured(self) -> Iterator[None]:
        """Return the seconds of the whole step."""
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self.seconds, self.cpu_seconds = time.perf_counter() - wall, time.process_time() - cpu

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add the time of the block to one phase."""
        cpu = time.process_time()
        yield
        self.phases[name] += time.process_time() - cpu


@dataclass
class Outcome:
    """The measurements of one side."""

    steps: list[Step] = field(default_factory=list)
    log_prob_difference: float | None = None
    """Mean |log p| difference of sampled tokens between rollout engine and trainer, which shows whether their weights
    agree. None if the trainer's own model samples."""
    peak_memory_gib: float = 0.0

    def write(self, path: Path) -> None:
        self.peak_memory_gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        path.write_text(json.dumps(dataclasses.asdict(self)), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Outcome:
        content = json.loads(path.read_text(encoding="utf-8"))
        return cls(**content | {"steps": [Step(**step) for step in content["steps"]]})


def reward(prompt: str, response: str) -> float:
    """Return the share of the response's words in the prompt, less a small repetition penalty that avoids ties."""
    words = response.split()
    if not words:
        return 0.0
    known = set(prompt.split())
    return sum(word in known for word in words) / len(words) - 0.01 * (len(words) - len(set(words)))


def files_of_side() -> tuple[Work, Path, list[str]]:
    """Parse a side's command line: the work, the path of the outcome, the side's own settings."""
    work, outcome, *settings = sys.argv[1:]
    return Work.read(Path(work)), Path(outcome), settings
