"""Ask prepared benchmarks in parts, and grade the answers.

A part is a fixed list of questions that one engine answers in one call. Seeds are derived from the questions, and the
result of a call depends only on its prompts, seeds and settings (:mod:`megatron_pz.rollout.engine`). The answers are
therefore independent of the number of ranks and of the parts that an interrupted run has already answered.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from megatron_pz.evaluation.benchmarks.prompts import PreparedBenchmark
from megatron_pz.question_answering.question import Question
from megatron_pz.rl.experience import Decoding, Response
from megatron_pz.rollout.protocol import DecodingEngine

ANSWERS_SCHEMA = pa.schema(
    [
        ("benchmark", pa.string()),
        ("question", pa.string()),  # identifier within the set
        ("subject", pa.string()),
        ("source", pa.string()),  # file and line or row
        ("sample", pa.int32()),
        ("prompt", pa.string()),  # as the model saw it
        ("prompt_tokens", pa.int32()),
        ("asked", pa.bool_()),  # false: the prompt leaves no room in the engine's context
        ("response", pa.string()),
        ("response_tokens", pa.int32()),
        ("truncated", pa.bool_()),
        ("reference", pa.string()),
        ("extracted", pa.string()),  # null: nothing was read
        ("guessed", pa.bool_()),  # the verdict is that of a random guess
        ("correct", pa.bool_()),
        ("graders", pa.map_(pa.string(), pa.bool_())),  # every grader's verdict
        ("error", pa.string()),  # error of a grader that failed
    ]
)
"""One row for every sample of every question."""


@dataclass(frozen=True)
class Part:
    """Consecutive questions of a benchmark."""

    benchmark: str
    number: int
    """Zero-based index."""
    start: int
    stop: int
    """Questions ``[start, stop)``."""
    responses: int


def parts_of(benchmark: PreparedBenchmark, responses_per_part: int) -> list[Part]:
    """Divide a benchmark into parts of at most ``responses_per_part`` responses, and of at least one question."""
    samples, count = benchmark.protocol.samples, len(benchmark.questions)
    size = max(1, responses_per_part // samples)
    starts = range(0, count, size)
    stops = [min(start + size, count) for start in starts]
    return [
        Part(benchmark.name, number, start, stop, (stop - start) * samples)
        for number, (start, stop) in enumerate(zip(starts, stops, strict=True))
    ]


def answer_parts(
    engine: DecodingEngine,
    benchmarks: Mapping[str, PreparedBenchmark],
    parts: Sequence[Part],
    seed: int,
    *,
    rank: int = 0,
    world_size: int = 1,
    ranks_per_engine: int = 1,
) -> Iterator[tuple[Part, pa.Table]]:
    """Answer this rank's share of the parts, and yield each with its rows.

    Parts are dealt to the engines in turn. All ranks call their engines equally often, since a call may be a
    collective. Among the ranks that share an engine, only the first asks and yields.

    Args:
        benchmarks: the benchmarks of all parts, by name.
        parts: the same on all ranks.
        seed: determines samples and guesses.
    """
    engines = world_size // ranks_per_engine
    own, place = divmod(rank, ranks_per_engine)
    for first in range(0, len(parts), engines):
        mine = first + own < len(parts) and place == 0
        part = parts[min(first + own, len(parts) - 1)]
        rows = _answer(engine, benchmarks[part.benchmark], part if mine else None, seed)
        if mine:
            yield part, pa.Table.from_pylist(rows, ANSWERS_SCHEMA)


def _answer(
    engine: DecodingEngine, benchmark: PreparedBenchmark, part: Part | None, seed: int
) -> list[dict[str, object]]:
    """Ask one part. With None, call the engine without prompts."""
    indices = range(part.start, part.stop) if part else range(0)
    protocol = benchmark.protocol
    fitting = [index for index in indices if len(benchmark.prompts[index].token_ids) < engine.context]
    answered = engine.generate(
        [benchmark.prompts[index].token_ids for index in fitting],
        protocol.samples,
        seeds=[_seed(seed, benchmark.questions[index]) for index in fitting],
        max_tokens=benchmark.max_tokens,
        stop=protocol.stop,
        decoding=Decoding(protocol.temperature, protocol.top_p),
    )
    responses = dict(zip(fitting, answered, strict=True))
    unasked = [None] * protocol.samples
    return [
        _row(benchmark, index, sample, response, seed)
        for index in indices
        for sample, response in enumerate(responses.get(index, unasked))
    ]


def _row(
    benchmark: PreparedBenchmark, index: int, sample: int, response: Response | None, seed: int
) -> dict[str, object]:
    question, prompt = benchmark.questions[index], benchmark.prompts[index]
    row: dict[str, object] = {
        "benchmark": benchmark.name,
        "question": question.id,
        "subject": question.subject,
        "source": question.source.rpartition("/")[2],
        "sample": sample,
        "prompt": prompt.text,
        "prompt_tokens": len(prompt.token_ids),
        "asked": response is not None,
        "reference": question.answer,
    }
    if response is None:
        graders = dict.fromkeys(benchmark.protocol.graders, False)
        return row | {
            "response": "",
            "response_tokens": 0,
            "truncated": False,
            "guessed": False,
            "correct": False,
            "graders": graders,
        }
    verdict = benchmark.protocol.grade(question, response.text, _seed(seed, question, sample))
    return row | {
        "response": response.text,
        "response_tokens": len(response.token_ids),
        "truncated": response.truncated,
        "extracted": verdict.extracted,
        "guessed": verdict.guessed,
        "correct": verdict.correct,
        "graders": dict(verdict.graders),
        "error": verdict.error,
    }


def _seed(seed: int, question: Question, sample: int | None = None) -> int:
    """Return the seed (64 bits) of a question's samples, or of the guess in place of one of them."""
    purpose = "samples" if sample is None else f"guess {sample}"
    digest = hashlib.sha256(f"{seed} {question.benchmark} {question.id} {purpose}".encode()).digest()
    return int.from_bytes(digest[:8])
