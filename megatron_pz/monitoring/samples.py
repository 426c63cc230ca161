"""Write samples of masks and predictions as JSONL and as readable Markdown pages, and read them back."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any, Protocol, get_args, get_type_hints

SAMPLES_FILE = "samples.jsonl"


class Sample(Protocol):
    """A readable sample of a step."""

    def to_json(self, iteration: int) -> str:
        """Return one line of JSON."""

    @classmethod
    def page(cls, samples: Sequence[Any]) -> list[str]:
        """Return the lines of Markdown that show samples of this kind."""


@dataclass(frozen=True)
class PredictionSample:
    """One answer of the predictor to a mask."""

    response: str
    """The whole text."""
    answer: str | None
    """The span read from the response; None if there is none."""
    right: bool
    tokens: int = 0
    """Tokens of the response; 0 in samples of earlier versions."""
    log_prob_difference: float | None = None
    """Mean |log p(trainer) - log p(rollout)| over its tokens, nats; None if the step did not learn from it."""


@dataclass(frozen=True)
class MaskSample:
    """One rollout of the generator with the predictions for its mask."""

    title: str
    """Title of the article."""
    passage: str
    response: str
    """The generator's whole text."""
    span: str | None
    """The masked words; None if the response names no valid mask."""
    fault: str
    """Why the mask is not valid; empty when it is."""
    reward: float
    masked_passage: str = ""
    predictions: tuple[PredictionSample, ...] = ()
    tokens: int = 0
    """Tokens of the response; 0 in samples of earlier versions and for a mask that no model chose."""
    log_prob_difference: float | None = None
    """The same as for a prediction."""
    strategy: str = "active"
    """Source of the mask: ``active``, the generator, or a passive strategy, which leaves ``response`` empty."""
    url: str = ""
    """Address of the article; empty if the corpus has none."""
    revision_id: str = ""
    """Revision of the article that the corpus was made from; empty if the corpus has none."""

    @classmethod
    def page(cls, samples: Sequence[MaskSample]) -> list[str]:
        """Return lines that show each passage once, with its masks and the predictions of each."""
        return _passage_lines(samples)

    def to_json(self, iteration: int) -> str:
        """Return one line of JSON."""
        return json.dumps({"iteration": iteration, **asdict(self)}, ensure_ascii=False)

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> MaskSample:
        """Make a sample from a parsed line of :meth:`to_json`. Unknown fields of other versions are ignored.

        Raises:
            KeyError: a field without a default is missing.
            TypeError: the predictions are not a list of objects, or a field has a value of another type.
        """
        predictions = tuple(PredictionSample(**_known(each, _OF_PREDICTION)) for each in record["predictions"])
        return cls(**_known(record, _OF_MASK), predictions=predictions)


def _types(sample: type) -> dict[str, Any]:
    """Return the types that a field's value may have, by name; JSON may write a float as an integer."""
    hints = {name: hint for name, hint in get_type_hints(sample).items() if name != "predictions"}
    return {name: hint | int if float in (hint, *get_args(hint)) else hint for name, hint in hints.items()}


def _known(record: dict[str, Any], types: dict[str, Any]) -> dict[str, Any]:
    """Return the known fields of a record. Raise TypeError for a value of another type."""
    known = {name: value for name, value in record.items() if name in types}
    for name, value in known.items():
        if not isinstance(value, types[name]):
            raise TypeError(f"{name} is {value!r}")
    return known


_OF_PREDICTION, _OF_MASK = _types(PredictionSample), _types(MaskSample)


@dataclass(frozen=True)
class AnswerSample:
    """One answer to a question."""

    response: str
    """The whole text."""
    answer: str | None
    """The answer read from the response; None if there is none."""
    right: bool
    reward: float
    error: str | None = None
    """Why the grader could not judge the answer."""


@dataclass(frozen=True)
class QuestionSample:
    """A question with the answers to it."""

    id: str
    question: str
    reference: str
    """The reference answer."""
    answers: tuple[AnswerSample, ...]

    @classmethod
    def page(cls, samples: Sequence[QuestionSample]) -> list[str]:
        """Return lines that show each question with its answers, equal ones once."""
        lines = []
        for sample in samples:
            right = sum(answer.right for answer in sample.answers)
            lines += ["", f"## {_inline(sample.id)}", "", _quoted(sample.question), ""]
            lines += [f"reference {_code(sample.reference)}, {right} of {len(sample.answers)} right", ""]
            for answer, count in Counter(sample.answers).most_common():
                verdict = "**right**" if answer.right else f"wrong ({answer.error})" if answer.error else "wrong"
                times = f", {count} times" if count > 1 else ""
                lines.append(f"- {verdict}, reward {answer.reward:+.3f}{times}: {_code(answer.response)}")
        return lines

    def to_json(self, iteration: int) -> str:
        """Return one line of JSON."""
        return json.dumps({"iteration": iteration, **asdict(self)}, ensure_ascii=False)


def write_page(path: Path, iteration: int, samples: Sequence[Sample]) -> None:
    """Write a Markdown page that shows a step's samples, kind by kind."""
    lines = [f"# Iteration {iteration}"]
    for _, own in groupby(samples, type):
        kind = list(own)
        lines += kind[0].page(kind)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _passage_lines(samples: Sequence[MaskSample]) -> list[str]:
    """Format passages; rollouts that name the same mask and share its predictions appear together."""
    lines = []
    passages: dict[tuple[str, str], dict[MaskSample, Counter[str]]] = {}
    for sample in samples:
        masks = passages.setdefault((sample.title, sample.passage), {})
        mask = replace(sample, response="", tokens=0, log_prob_difference=None)
        masks.setdefault(mask, Counter())[sample.response] += 1
    for (title, passage), masks in passages.items():
        lines += ["", f"## {_inline(title) or 'untitled'}", "", _quoted(passage)]
        for mask, responses in masks.items():
            lines += ["", *_mask_lines(mask, responses)]
    return lines


def _mask_lines(mask: MaskSample, responses: Counter[str]) -> list[str]:
    """Format a mask with the generator's responses that name it and their counts."""
    head = f"### {_code(mask.span)}" if mask.span is not None else f"### no valid mask ({mask.fault})"
    right = sum(prediction.right for prediction in mask.predictions)
    score = f", {right} of {len(mask.predictions)} predictions right" if mask.predictions else ""
    lines = [f"{head} — reward {mask.reward:+.3f}{score}"]
    for response, count in responses.most_common() if mask.strategy == "active" else ():
        lines += ["", f"generator{f', {count} times' if count > 1 else ''}: {_code(response)}"]
    if mask.span is not None:
        lines += ["", _quoted(mask.masked_passage), ""]
        lines += [f"- {'**right**' if p.right else 'wrong'} {_code(p.response)}" for p in mask.predictions]
    return lines


def _inline(text: str) -> str:
    return " ".join(text.split())


def _code(text: str | None) -> str:
    """Format a Markdown code span on one line, with as many backticks as the text needs."""
    inline = _inline(text or "")
    fence = "`"
    while fence in inline:
        fence += "`"
    pad = " " if inline.startswith("`") or inline.endswith("`") else ""
    return f"{fence}{pad}{inline}{pad}{fence}" if inline else "(empty)"


def _quoted(text: str) -> str:
    return "\n".join(f"> {line}".rstrip() for line in text.splitlines())
