"""Choose which kept passages a report shows with their texts, within a budget of bytes."""

from __future__ import annotations

import base64
import json
import math
import zlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from megatron_pz.monitoring.samples import MaskSample, PredictionSample
from megatron_pz.reports.kept_samples import QUESTION, KeptSamples, place_masks
from megatron_pz.reports.word_kinds import KINDS, kind_of_span
from megatron_pz.roles.answers import last_command


@dataclass(frozen=True)
class Shown:
    """Passages that are shown, in the order of the run, with the compressed texts of each."""

    numbers: tuple[int, ...]
    """Numbers among the run's kept passages."""
    texts: tuple[str, ...]
    """Base64 of the deflated JSON of :func:`passage_record`."""


def choose(samples: KeptSamples, budget: int, entry: int) -> Shown:
    """Take passages, evenly spread over the steps, until texts and ``entry`` bytes for each fill ``budget`` bytes.

    The first passage of every step comes before the second of any, so that as many steps as possible are shown.
    """
    chosen: dict[int, str] = {}
    left = budget
    for number in spread_order([passage.iteration for passage in samples.passages]):
        text = pack(passage_record(samples.read(samples.passages[number])))
        left -= len(text) + entry
        if left < 0:
            break
        chosen[number] = text
    numbers = tuple(sorted(chosen))
    return Shown(numbers, tuple(chosen[number] for number in numbers))


def pack(record: Any) -> str:
    """Deflate an object's JSON and write it in base64, which needs no escaping inside HTML."""
    return base64.b64encode(zlib.compress(to_json(record).encode("utf-8", "replace"), 9)).decode("ascii")


def to_json(record: Any) -> str:
    """Return compact JSON; raise ValueError for numbers that JSON cannot represent."""
    return json.dumps(record, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def spread_order(steps: Sequence[int]) -> Iterator[int]:
    """Order passages, given the step of each, so that every prefix of the order is spread over the steps.

    The order of steps is last, first, middle, quarters and so on. The first passages of all steps precede all second
    ones.

    >>> list(spread_order([1, 1, 2, 3]))
    [3, 0, 2, 1]
    """
    of_step: dict[int, list[int]] = defaultdict(list)
    for number, step in enumerate(steps):
        of_step[step].append(number)
    ordered = [of_step[step] for step in _bisected(sorted(of_step))]
    for rank in range(max(map(len, ordered), default=0)):
        yield from (numbers[rank] for numbers in ordered if rank < len(numbers))


def _bisected(steps: Sequence[int]) -> Iterator[int]:
    """Yield the last, the first, and then the middle of every gap, widest gaps first."""
    if not steps:
        return
    yield steps[-1]
    if len(steps) > 1:
        yield steps[0]
    gaps = [(0, len(steps) - 1)]
    for low, high in gaps:  # the list grows during the iteration
        middle = (low + high) // 2
        if low < middle < high:
            yield steps[middle]
            gaps += [(low, middle), (middle, high)]


def passage_record(samples: list[MaskSample]) -> dict[str, Any]:
    """Gather the content of the page for a passage: its text, its masks in place, and all responses of both roles.

    Responses that name the same mask and share its predictions appear together.
    """
    placed = place_masks(samples)
    masks: dict[Any, dict[str, Any]] = {}
    for sample, starts, shown in zip(samples, placed.starts, placed.shown_until, strict=True):
        proposed = sample.span if sample.span is not None else last_command(sample.response, "mask")
        key = (proposed, sample.fault, sample.predictions)
        if key not in masks:
            has_kind = sample.span is not None and sample.strategy != QUESTION
            kind = KINDS[kind_of_span(sample.span or "", placed.text)] if has_kind else ""
            masks[key] = {
                "words": proposed,
                "fault": sample.fault,
                "starts": starts,
                "shown": shown,
                "kind": kind,
                "reward": round(sample.reward, 4),
                "strategy": sample.strategy,
                "responses": [],
                "predictions": [_prediction(prediction) for prediction in sample.predictions],
            }
        if sample.strategy == "active":
            response = {"text": sample.response} | _figures(sample)
            masks[key]["responses"].append(response)
    url, revision = _links(samples[0])
    return {"text": placed.text, "url": url, "revision": revision, "masks": list(masks.values())}


def _prediction(prediction: PredictionSample) -> dict[str, Any]:
    return {"text": prediction.response, "answer": prediction.answer, "right": prediction.right} | _figures(prediction)


def _figures(sample: MaskSample | PredictionSample) -> dict[str, Any]:
    """Return the figures of a response; its difference is None if it is unknown or not finite."""
    difference = sample.log_prob_difference
    known = difference is not None and math.isfinite(difference)
    return {"tokens": sample.tokens, "difference": float(f"{difference:.3g}") if known else None}


def _links(sample: MaskSample) -> tuple[str, str]:
    """Return the URLs of the article and of its revision; empty if unknown or not a web address."""
    parts = urlsplit(sample.url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        return "", ""
    if not sample.revision_id.isdigit() or not parts.path.startswith("/wiki/"):
        return sample.url, ""
    return sample.url, f"{parts.scheme}://{parts.netloc}/w/index.php?oldid={sample.revision_id}"
