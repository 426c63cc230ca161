"""MMLU-Pro as its authors ask and read it, compared with their patterns and recorded answers of two models."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_pz.question_answering.benchmarks import load_benchmark
from megatron_pz.question_answering.mmlu_pro import read, read_sentence
from megatron_pz.question_answering.question import Question
from megatron_pz.question_answering.recipes import recipe
from megatron_pz.runtime.errors import BadInput
from tests.support.benchmark_data import benchmark_data
from tests.support.cpu_time import cpu_seconds


@pytest.mark.parametrize(
    ("response", "letter"),
    [
        ("The answer is (B). No, the answer is (C).", "B"),
        ("the answer is D", "D"),
        ("The answer is (K). Answer: A", "A"),
        ("The answer is: (B)", "B"),  # by the last pattern: a letter by itself
        ("Answer: A. Answer: B\nAnswer: C", "B"),
        ("Answer:\n\n(C) Answer: D", "D"),
        ("answer: Answer: B", "B"),
        ("**Answer:** C", "C"),
        ("Both A and B, then J.", "J"),
        ("I think so", "I"),
        ("it is k", None),
        ("", None),
    ],
)
def test_the_three_patterns_read_in_turn(response: str, letter: str | None) -> None:
    assert read(response) == letter


@pytest.mark.parametrize(
    ("response", "first", "later"),
    [
        ("Let me think. None of these fits.", None, None),
        ("The answer is (X), where X is the letter. So the answer is (C).", "C", "C"),
        ("The answer is (D). Wait, the answer is (A).", "D", "D"),
        ("the answer is F", "F", "F"),
        ("The answer is B) because B is larger", "B", "B"),
        ("the answer is (c)", None, None),
        ("**The answer is (G).**", "G", "G"),
        ("The answer is **(G)**.", None, "G"),
        ("The answer is $\\boxed{\\text{C}}$.", None, "C"),
        ("$$\\boxed{\\text{C}}$$", None, "C"),
        ("Answer: \\boxed{E}", None, "E"),
        ("The answer is (K).", None, None),
        ("The answer is (K), not (B).", None, "B"),
        ("Options run from A to P; it is P.", None, "A"),
        ("The answer is A good conductor, so (H).", "A", "A"),  # an article is read as a letter
        ("The answer is Gold.", "G", "G"),  # and so is the first letter of a word
        ("A man walks. He rests.", None, "A"),
        ("ANSWER IS (B)", None, "B"),
        ("The answer is\n(B)", None, "B"),
        ("The answer is  (B)", None, "B"),
        ("answer: J\nBut answer: C", None, "J"),
        ("My Answer:\tD. Not answer:B!", None, "B"),
        ("Vitamin_B and B12, BC or AB.", None, None),
        ("Ä, Å or Α (a Greek letter)", None, None),
    ],
)
def test_both_versions_read_hard_answers_as_the_authors_do(response: str, first: str | None, later: str | None) -> None:
    assert (read_sentence(response), read(response)) == (first, later)
    assert naive(response) == later
    found = re.search(r"answer is \(?([A-J])\)?", response)
    assert (found and found.group(1)) == first


def naive(text: str) -> str | None:
    """Apply the authors' patterns unchanged, in quadratic time or worse."""
    for pattern in (r"answer is \(?([A-J])\)?", r".*[aA]nswer:\s*([A-J])"):
        if found := re.search(pattern, text):
            return found.group(1)
    found = re.search(r"\b[A-J]\b(?!.*\b[A-J]\b)", text, re.DOTALL)
    return found and found.group(0)


@given(st.lists(st.sampled_from(["answer is ", "(", "A", "J", ")", "nswer:", "a", "A", " ", "\n", "x", ".", "é", "_"])))
def test_reading_agrees_with_the_authors_patterns(parts: list[str]) -> None:
    text = "".join(parts)
    assert read(text) == naive(text)


@pytest.mark.parametrize("piece", ["answer: ", "a", "A", "Answer:\n", "answer is (", " ", "A B ", "nswer:"])
def test_a_megabyte_is_read_in_linear_time(piece: str) -> None:
    text = piece * (1_000_000 // len(piece)) + "!"
    assert cpu_seconds(lambda: read(text)) < 5


def recorded(model: str) -> list[tuple[str, str, str]]:
    """Return question id, the letter that the authors' script recorded ("" for none), and the response."""
    rows = pq.read_table(benchmark_data() / f"mmlu_pro/outputs_{model}.parquet").to_pylist()
    return [(str(row["question_id"]), row["pred"], row["generated_text"]) for row in rows]


@pytest.fixture(scope="module")
def letters() -> dict[str, str]:
    return {question.id: question.answer for question in load_benchmark("mmlu_pro", benchmark_data())}


def test_the_first_version_read_every_answer_of_yi_6b_alike(letters: dict[str, str]) -> None:
    answers = recorded("Yi-6B")
    read_now = [read_sentence(response) or "" for _, _, response in answers]
    assert read_now == [before for _, before, _ in answers]
    right = sum(letters[identifier] == letter for (identifier, *_), letter in zip(answers, read_now, strict=True))
    assert f"{right / len(letters):.5f}" == "0.24975"


def test_the_later_version_read_every_readable_answer_of_llama_alike(letters: dict[str, str]) -> None:
    """The authors' script recorded random guesses as read answers, so only responses without a letter differ."""
    answers = recorded("Meta-Llama-3_1-8B-Instruct")
    first = sum(read_sentence(response) == before for _, before, response in answers)
    three = [(read(response), before) for _, before, response in answers]
    assert round(first / len(answers), 3) == 0.913
    assert round(sum(now == before for now, before in three) / len(answers), 3) == 0.942
    assert {now for now, before in three if now != before} == {None}
    right = sum(letters[identifier] == before for identifier, before, *_ in answers)
    assert f"{right / len(letters):.5f}" == "0.44190"


def write_validation(directory: Path, subjects: dict[str, int]) -> None:
    folder = directory / "mmlu_pro"
    folder.mkdir()
    rows = [
        {
            "question_id": f"{subject}{number}",
            "question": f"Question {number}?",
            "options": ["yes", "no", "N/A"],
            "answer": "A",
            "answer_index": 0,
            "cot_content": f"A: Let's think step by step. Reason {number}. The answer is (A).",
            "category": subject,
            "src": "made up",
        }
        for subject, count in subjects.items()
        for number in range(count)
    ]
    (folder / "validation.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


QUESTION = Question("mmlu_pro", "1", "law", "Which?", "B", "test:1", options=("one", "two", "three"))


def test_five_worked_examples_of_the_category_come_first(tmp_path: Path) -> None:
    write_validation(tmp_path, {"history": 5, "law": 6})
    protocol = recipe("authors").protocol("mmlu_pro", tmp_path)
    head = (
        "The following are multiple choice questions (with answers) about law. Think step by step and then finish your "
        'answer with "the answer is (X)" where X is the correct letter choice.\n\n\n\n'
    )
    examples = [
        f"Question:\nQuestion {number}?\nOptions:\nA. yes\nB. no\nAnswer: Let's think step by step. Reason {number}. "
        "The answer is (A).\n\n"
        for number in range(5)
    ]
    asked = "Question:\nWhich?\nOptions:\nA. one\nB. two\nC. three\nAnswer: Let's think step by step."
    assert protocol.completion(QUESTION) == "".join([head, *examples, asked])
    assert protocol.prompt(QUESTION, lambda text: 2048 if "Reason 3" in text else 2047) == "".join(
        [head, *examples[:3], asked]
    )
    assert protocol.prompt(QUESTION, lambda text: 9999) == head + asked
    assert (protocol.chat, protocol.stop, protocol.max_tokens) == (False, ("Question:",), 2048)


def test_a_guess_is_one_of_the_questions_options(tmp_path: Path) -> None:
    write_validation(tmp_path, {"law": 5})
    protocol = recipe("authors").protocol("mmlu_pro", tmp_path)
    verdicts = [protocol.grade(QUESTION, "who knows", seed) for seed in range(300)]
    assert all(verdict.guessed for verdict in verdicts)
    assert 70 < sum(verdict.correct for verdict in verdicts) < 130, "one of three"
    assert protocol.grade(QUESTION, "The answer is (B).", 0).correct


def test_missing_worked_examples_are_bad_input(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no validation file"):
        recipe("authors").protocol("mmlu_pro", tmp_path)
    write_validation(tmp_path, {"law": 4})
    with pytest.raises(BadInput, match="4 worked examples of 'law', not 5"):
        recipe("authors").protocol("mmlu_pro", tmp_path).prompt(QUESTION)
