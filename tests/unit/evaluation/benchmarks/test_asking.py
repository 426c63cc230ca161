"""Asking in parts gives the same rows on any rank, and rows record the model's text and the grader's verdict."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from types import MappingProxyType

import pyarrow as pa
import pytest

from megatron_pz.evaluation.benchmarks.asking import answer_parts, parts_of
from megatron_pz.evaluation.benchmarks.prompts import PreparedBenchmark, Prompt
from megatron_pz.question_answering.protocol import Protocol
from megatron_pz.question_answering.question import Question
from megatron_pz.rl.experience import Decoding
from tests.support.benchmark_files import ScriptedBenchmarkEngine

QUESTIONS = tuple(
    Question("toy", str(n), "even odd".split()[n % 2], f"{n} + 1 =", str(n + 1), f"/a/b:{n + 1}") for n in range(7)
)


def equals(question: Question, answer: str) -> bool:
    if answer == "boom":
        raise ZeroDivisionError("a strange answer")
    return answer == question.answer


PROTOCOL = Protocol(
    "hand",
    "toy",
    "",
    write=lambda question, tokens: question.text,
    extract=lambda question, response: response.strip() or None,
    graders=MappingProxyType({"equal": equals, "first": lambda question, answer: answer[:1] == question.answer[:1]}),
    guess=lambda question: ["1", "2", "3"],
    stop=("\n",),
    temperature=0.6,
    top_p=0.95,
    samples=2,
)
BENCHMARK = PreparedBenchmark(
    PROTOCOL, QUESTIONS, 9, False, 50, tuple(Prompt(each.text, tuple(map(ord, each.text))) for each in QUESTIONS)
)


def by_seed(prompt: str, seed: int) -> str:
    """Return a right, wrong or empty answer, depending on the seed."""
    right = str(int(prompt.split()[0]) + 1)
    return {0: right, 1: "no", 2: ""}[hashlib.sha256(f"{prompt} {seed}".encode()).digest()[0] % 3]


def rows(world_size: int, ranks_per_engine: int = 1, skip: int = 0) -> tuple[list[dict], list[ScriptedBenchmarkEngine]]:
    parts = parts_of(BENCHMARK, responses_per_part=5)[skip:]
    engines = [ScriptedBenchmarkEngine(by_seed) for _ in range(world_size)]
    found = {}
    for rank, engine in enumerate(engines):
        shares = answer_parts(
            engine,
            {"toy": BENCHMARK},
            parts,
            seed=3,
            rank=rank,
            world_size=world_size,
            ranks_per_engine=ranks_per_engine,
        )
        found |= {part.number: table for part, table in shares}
    return pa.concat_tables(found[number] for number in sorted(found)).to_pylist(), engines


@pytest.mark.parametrize(("world_size", "ranks_per_engine"), [(2, 1), (3, 1), (5, 1), (4, 2)])
def test_the_number_of_ranks_changes_nothing(world_size: int, ranks_per_engine: int) -> None:
    alone, (engine,) = rows(1)
    shared, engines = rows(world_size, ranks_per_engine)
    assert shared == alone
    assert len({len(each.calls) for each in engines}) == 1, "every rank calls its engine equally often"
    asked = sorted(call for each in engines for call in each.calls if call)
    assert asked == sorted(engine.calls), "the prompts of one call stay together, so that a batch is the same"


def test_parts_answered_earlier_change_nothing() -> None:
    whole, _ = rows(1)
    rest, _ = rows(1, skip=2)
    assert rest == whole[2 * 2 * 2 :]


def test_every_question_is_asked_as_the_protocol_says() -> None:
    found, (engine,) = rows(1)
    assert engine.asked == [(2, ("\n",), 50, Decoding(0.6, 0.95))] * 4
    assert [len(call) for call in engine.calls] == [2, 2, 2, 1], "five responses hold two questions of two samples"
    assert [(row["question"], row["sample"]) for row in found] == [(str(n), k) for n in range(7) for k in (0, 1)]
    assert {row["source"] for row in found} == {f"b:{n}" for n in range(1, 8)}, "no folder of a machine is kept"
    silent = [row for row in found if row["extracted"] is None]
    assert silent and all(row["guessed"] and row["response"] == "" for row in silent)
    for row in found:
        if not row["guessed"]:
            assert row["correct"] == (row["response"] == row["reference"]) == dict(row["graders"])["equal"]


def test_a_prompt_without_room_in_the_context_is_wrong_and_not_asked() -> None:
    long = replace(BENCHMARK, prompts=(Prompt("7" * 30, (55,) * 30), *BENCHMARK.prompts[1:]))
    engine = ScriptedBenchmarkEngine(lambda prompt, seed: "8", context=30)
    ((_, table),) = answer_parts(engine, {"toy": long}, parts_of(long, 1000), seed=3)
    assert len(engine.calls[0]) == 6
    first, second = table.to_pylist()[:2]
    assert (first["asked"], first["correct"], first["guessed"], first["prompt_tokens"]) == (False, False, False, 30)
    assert (first["question"], second["question"], second["sample"]) == ("0", "0", 1)


def test_a_grader_that_raises_counts_as_wrong_and_is_named() -> None:
    engine = ScriptedBenchmarkEngine(lambda prompt, seed: "boom")
    ((_, table),) = answer_parts(engine, {"toy": BENCHMARK}, parts_of(BENCHMARK, 1000), seed=3)
    assert not any(table["correct"].to_pylist())
    assert table["error"][0].as_py() == "equal: ZeroDivisionError: a strange answer"
    assert table["extracted"][0].as_py() == "boom"
