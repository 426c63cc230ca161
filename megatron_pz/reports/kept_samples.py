"""Index the samples that a run has kept, so that single passages of a large file can be read again."""

from __future__ import annotations

import json
import math
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from megatron_pz.monitoring.samples import SAMPLES_FILE, MaskSample
from megatron_pz.reports.word_kinds import kind_of_span
from megatron_pz.roles.spans import MASK
from megatron_pz.runtime.errors import BadInput

QUESTION = "question"
"""Strategy of a sample that is a question and not a masked passage."""


@dataclass
class KeptPassage:
    """One passage of one step with the outcomes of its masks; its texts stay in the file."""

    iteration: int
    title: str
    text: str
    start: int
    """Byte of the file at which the lines of this passage begin."""
    end: int
    outcomes: list[float | str] = field(default_factory=list)
    """Share of correct predictions of each mask, or the reason why the mask is not valid."""
    kinds: list[str] = field(default_factory=list)
    """Kind of the hidden words of every valid mask, in order (:func:`.word_kinds.kind_of_span`)."""
    masks: list[tuple[float, float]] = field(default_factory=list)
    """Share of right predictions and reward of every valid mask, in order; none of a question."""


class KeptSamples:
    """The passages in a run's ``samples.jsonl``, in the order of the file; an incomplete last line is left out.

    The file stays open. A running run replaces the file when it removes samples, and the index then still refers to the
    opened file.

    Raises:
        BadInput: the run directory has no such file, or a line was not written by this program.
    """

    def __init__(self, run: Path) -> None:
        self._path = run / SAMPLES_FILE
        try:
            self._file: BinaryIO = self._path.open("rb")
        except OSError as error:
            raise BadInput(
                f"no samples at {self._path} ({error.strerror}): give the --save directory of a run"
            ) from None
        try:
            self.passages = list(self._index())
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise BadInput(f"{self._path} holds a line that this program did not write; move the file away") from None

    def read(self, passage: KeptPassage) -> list[MaskSample]:
        """Read the masks of a passage with all texts."""
        self._file.seek(passage.start)
        lines = self._file.read(passage.end - passage.start).splitlines()
        return [sample_of(json.loads(line)) for line in lines]

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _index(self) -> Iterator[KeptPassage]:
        current: KeptPassage | None = None
        start = 0
        for line in self._file:
            if not line.endswith(b"\n"):
                break
            record = json.loads(line)
            iteration, sample = record["iteration"], sample_of(record)
            if not isinstance(iteration, int) or not math.isfinite(sample.reward):
                raise ValueError("a step is a whole number, a reward finite")
            key = (iteration, sample.title, sample.passage)
            if current is None or key != (current.iteration, current.title, current.text):
                if current is not None:
                    yield current
                current = KeptPassage(*key, start, start)
            start += len(line)
            current.end = start
            if sample.span is None:
                current.outcomes.append(sample.fault or "no_command")
            elif sample.predictions:
                right = sum(prediction.right for prediction in sample.predictions)
                current.outcomes.append(right / len(sample.predictions))
                if sample.strategy != QUESTION:
                    current.kinds.append(kind_of_span(sample.span, sample.passage))
                    current.masks.append((right / len(sample.predictions), sample.reward))
        if current is not None:
            yield current


def sample_of(record: dict[str, Any]) -> MaskSample:
    """Read a line of samples. A question with answers becomes a passage whose only mask is the reference."""
    if "question" not in record:
        return MaskSample.from_record(record)
    answers = record["answers"]
    return MaskSample.from_record(
        {
            "title": record["id"],
            "passage": record["question"],
            "response": "",
            "span": record["reference"],
            "fault": "",
            "reward": sum(answer["reward"] for answer in answers) / max(len(answers), 1),
            "predictions": [{name: each[name] for name in ("response", "answer", "right")} for each in answers],
            "strategy": QUESTION,
        }
    )


@dataclass(frozen=True)
class PlacedMasks:
    """A passage in the form in which its masks were looked up, and the places of the masks."""

    text: str
    starts: tuple[tuple[int, ...], ...]
    """Offsets of the hidden occurrences of each sample; empty if they are unknown."""
    shown_until: tuple[int | None, ...]
    """Offset at which the predictor's passage ended, by sample; None if it saw all of it."""


def place_masks(samples: list[MaskSample]) -> PlacedMasks:
    """Find the positions of the spans that one or more samples of the same passage hide.

    Spans are looked up in NFC by default (:class:`~megatron_pz.roles.spans.SpanRules`), so that the returned text may
    be the NFC form of the passage.
    """
    masks = [sample for sample in samples if sample.span is not None and sample.masked_passage]
    hidden = {sample: sample.masked_passage.replace(MASK, sample.span or "") for sample in masks}
    passage = samples[0].passage
    forms = (passage, unicodedata.normalize("NFC", passage))
    text = next((form for form in forms if all(map(form.startswith, hidden.values()))), forms[-1])
    starts: list[tuple[int, ...]] = []
    shown: list[int | None] = []
    for sample in samples:
        placed = sample in hidden and text.startswith(hidden[sample])
        starts.append(_starts(sample.masked_passage, len(sample.span or "")) if placed else ())
        shown.append(len(hidden[sample]) if placed and len(hidden[sample]) < len(text) else None)
    return PlacedMasks(text, tuple(starts), tuple(shown))


def _starts(masked_passage: str, span_length: int) -> tuple[int, ...]:
    """Return the offsets of the masks in the passage without masks."""
    starts, offset = [], 0
    for piece in masked_passage.split(MASK)[:-1]:
        offset += len(piece)
        starts.append(offset)
        offset += span_length
    return tuple(starts)
