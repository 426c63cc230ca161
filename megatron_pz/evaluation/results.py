"""Hold the results of an evaluation for every passage, and read and write them as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from megatron_pz.config.schema import GameConfig
from megatron_pz.runtime.errors import BadInput
from megatron_pz.runtime.files import write_whole


@dataclass(frozen=True)
class EvaluationSettings:
    """Sample counts and length limits of an evaluation."""

    max_prompt_length: int
    """Tokens; a mask whose question is longer cannot be asked and counts as unsolved."""
    max_response_length: int
    """Tokens; a longer response is cut off and earns nothing."""
    masks_per_passage: int = 2
    predictions_per_mask: int = 8
    """G of equation 9."""
    samples_per_repeated_word: int = 4
    """Predictions of each fixed mask whose word occurs elsewhere in the passage; 0: none."""
    samples_per_once_word: int = 4
    """Predictions of each fixed mask whose word follows from the context only; 0: none."""
    seed: int = 11
    generator_max_response_length: int = 0
    """Tokens of a generator's response; 0: max_response_length."""


@dataclass(frozen=True)
class MaskPredictions:
    """Summary of the predictions of one mask."""

    span: str
    accuracy: float
    """Share of right predictions."""
    readable: float
    r"""Share of responses that hold an untruncated ``\boxed{}``."""
    length: float
    """Mean tokens of the responses."""


@dataclass(frozen=True)
class OwnMask:
    """A generator rollout and the summary of its mask's predictions."""

    fault: str
    """A :class:`megatron_pz.roles.spans.InvalidMaskReason`; ``ok`` for a valid mask."""
    predictions: MaskPredictions | None
    """None without a valid mask."""
    reward: float
    """Reward by the run's form of equation 9; 0 without a valid mask, since the penalty belongs to training only."""
    sub_word: bool
    """An occurrence of the span lies inside a longer word."""
    function_word: bool
    """The span is one English function word, which is easy to guess; many such masks indicate a degenerate policy."""
    length: int
    """Tokens of the response."""
    entropy: float
    """Mean -log p of its tokens, nats."""


@dataclass(frozen=True)
class PassageResult:
    """All results of one passage."""

    passage: str
    own: tuple[OwnMask, ...]
    repeated: MaskPredictions | None
    """Fixed mask of a word that occurs elsewhere in the passage; None when the passage has no such word."""
    once: MaskPredictions | None
    """Fixed mask of a word that follows from the context only; None when the passage has no such word."""


@dataclass(frozen=True)
class Evaluation:
    """The results of one policy on a list of passages."""

    name: str
    settings: EvaluationSettings
    passages: tuple[PassageResult, ...]
    rules: str = ""
    """Span and reward rules of the evaluation (:func:`rules_of`); empty in files of earlier versions."""

    def save(self, path: Path) -> None:
        """Write the evaluation as JSON.

        Raises:
            BadInput: the file cannot be written.
        """
        content = TypeAdapter(Evaluation).dump_json(self, indent=1)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, lambda partial: partial.write_bytes(content))
        except OSError as error:
            raise BadInput(f"cannot write {path}: {error.strerror}") from None

    @classmethod
    def load(cls, path: Path) -> Evaluation:
        """Read the file of :meth:`save`.

        Raises:
            BadInput: the file is missing or has another content.
        """
        try:
            evaluation = TypeAdapter(cls).validate_json(path.read_bytes())
        except OSError as error:
            raise BadInput(f"evaluation {path}: {error.strerror}") from None
        except ValidationError as error:
            faults = error.error_count()
            raise BadInput(f"{path} is not a result of tools/evaluate.py ({faults} faults); make it again") from None
        if not evaluation.passages:
            raise BadInput(f"{path} holds no passage; make it again")
        return evaluation


def rules_of(game: GameConfig) -> str:
    """Return in one line the configuration fields that determine the validity and the reward of masks."""
    names = (
        "span_policy",
        "max_span_occurrences",
        "whole_words",
        "max_span_words",
        "leak_guard",
        "answer_normalization",
        "generator_reward",
    )
    family = Path(game.prompt_family).name  # paths to one directory may differ
    return ", ".join([f"prompt_family {family}", *(f"{name} {getattr(game, name)}" for name in names)])


def merge(parts: Sequence[Evaluation]) -> Evaluation:
    """Join the ranks' shares of one evaluation in rank order.

    Raises:
        ValueError: their names, settings or rules differ.
    """
    first = parts[0]
    if len({(part.name, part.settings, part.rules) for part in parts}) != 1:
        raise ValueError("only parts of one evaluation can be joined")
    return replace(first, passages=tuple(result for part in parts for result in part.passages))
