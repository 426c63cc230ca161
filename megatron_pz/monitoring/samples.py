"""Write samples of masks and predictions for people to read, as JSONL and as Markdown pages."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

SAMPLES_FILE = "samples.jsonl"


@dataclass(frozen=True)
class PredictionSample:
    """One answer of the predictor to a mask."""

    response: str
    """The whole text."""
    answer: str | None
    """The span read from it; None where there is none to read."""
    right: bool


@dataclass(frozen=True)
class MaskSample:
    """One rollout of the generator with the predictions for its mask."""

    title: str
    """Title of the article."""
    passage: str
    response: str
    """The generator's whole text."""
    span: str | None
    """The masked words; None where the response names no valid mask."""
    fault: str
    """Why the mask is not valid; empty when it is."""
    reward: float
    masked_passage: str = ""
    predictions: tuple[PredictionSample, ...] = ()

    def to_json(self, iteration: int) -> str:
        """Return one line of JSON."""
        return json.dumps({"iteration": iteration, **asdict(self)}, ensure_ascii=False)


def write_page(path: Path, iteration: int, samples: Sequence[MaskSample]) -> None:
    """Write a Markdown page that shows each passage once, with its masks and the predictions of each.

    Rollouts that name the same mask and share its predictions (``share_equal_masks``) appear together.
    """
    lines = [f"# Iteration {iteration}"]
    passages: dict[tuple[str, str], dict[MaskSample, Counter[str]]] = {}
    for sample in samples:
        masks = passages.setdefault((sample.title, sample.passage), {})
        masks.setdefault(replace(sample, response=""), Counter())[sample.response] += 1
    for (title, passage), masks in passages.items():
        lines += ["", f"## {_inline(title) or 'untitled'}", "", _quoted(passage)]
        for mask, responses in masks.items():
            lines += ["", *_mask_lines(mask, responses)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _mask_lines(mask: MaskSample, responses: Counter[str]) -> list[str]:
    """Format a mask with the generator's responses that name it and their counts."""
    head = f"### {_code(mask.span)}" if mask.span is not None else f"### no valid mask ({mask.fault})"
    right = sum(prediction.right for prediction in mask.predictions)
    score = f", {right} of {len(mask.predictions)} predictions right" if mask.predictions else ""
    lines = [f"{head} — reward {mask.reward:+.3f}{score}"]
    for response, count in responses.most_common():
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
