"""Small benchmark files in the public schemas, and an engine whose answers are scripted."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from megatron_pz.rl.experience import Decoding, Response

SUMS = tuple(
    (f"Ann has {a} apples and buys {b} more. How many apples has she?", a + b) for a in (2, 3, 4) for b in (5, 6)
)
CHOICES = (
    ("physics", "What does a clock measure?", ("mass", "time", "charge"), "B"),
    ("physics", "What does a balance measure?", ("mass", "time", "charge"), "A"),
    ("law", "Who writes laws?", ("a court", "a parliament", "a jury", "nobody"), "B"),
    ("law", "Who applies laws?", ("a court", "a parliament", "a jury", "nobody"), "A"),
    ("law", "Who sits in a trial?", ("a king", "a parliament", "a jury", "nobody"), "C"),
)


def write_gsm8k(folder: Path) -> Path:
    """Write ``gsm8k/test.jsonl`` with the six sums; return the folder."""
    (folder / "gsm8k").mkdir(parents=True)
    records = [{"question": text, "answer": f"Add them.\n#### {answer}"} for text, answer in SUMS]
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (folder / "gsm8k/test.jsonl").write_text(lines, encoding="utf-8")
    return folder


def write_mmlu_pro(folder: Path) -> Path:
    """Write ``mmlu_pro/test.parquet`` with the five choices of two subjects; return the folder."""
    (folder / "mmlu_pro").mkdir(parents=True)
    records = [
        {
            "question_id": number,
            "question": text,
            "options": list(options),
            "answer": letter,
            "answer_index": "ABCD".index(letter),
            "cot_content": "",
            "category": subject,
            "src": "test",
        }
        for number, (subject, text, options, letter) in enumerate(CHOICES)
    ]
    pq.write_table(pa.Table.from_pylist(records), folder / "mmlu_pro/test.parquet")
    return folder


class ScriptedBenchmarkEngine:
    """Answers sample k of a prompt with ``answer(prompt's characters, seed + k)``; tokens are characters."""

    def __init__(self, answer: Callable[[str, int], str], context: int = 10_000) -> None:
        self.answer, self.context = answer, context
        self.calls: list[list[str]] = []
        """Prompts of every call."""
        self.asked: list[tuple[int, Sequence[str], int, Decoding | None]] = []
        """Samples, stop strings, most tokens and decoding of every call."""

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        n: int,
        *,
        seeds: Sequence[int],
        max_tokens: int,
        stop: Sequence[str],
        decoding: Decoding | None = None,
    ) -> list[list[Response]]:
        texts = ["".join(map(chr, prompt)) for prompt in prompts]
        self.calls.append(texts)
        self.asked.append((n, stop, max_tokens, decoding))
        return [
            [respond(self.answer(text, seed + k)) for k in range(n)] for text, seed in zip(texts, seeds, strict=True)
        ]


def respond(text: str) -> Response:
    """Return a response with one token per character; a response that ends in … was truncated."""
    return Response(tuple(range(len(text))), (-1.0,) * len(text), text, truncated=text.endswith("…"))
