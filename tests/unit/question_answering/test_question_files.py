"""Training questions from files, and their prompts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from megatron_pz.config.question_schema import QuestionConfig
from megatron_pz.question_answering.question import Question
from megatron_pz.question_answering.question_files import read_questions
from megatron_pz.question_answering.question_template import TEMPLATES, QuestionTemplate
from megatron_pz.runtime.errors import BadInput

ROWS = [{"problem": "1 + 1", "target": 2}, {"problem": "Half of 5", "target": "2.5"}]
FIELDS = {"question_field": "problem", "answer_field": "target"}


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist([{key: str(value) for key, value in row.items()} for row in rows]), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.mark.parametrize("name", ["sums.jsonl", "sums.parquet"])
def test_the_named_fields_are_read(name: str, tmp_path: Path) -> None:
    first, second = read_questions([write(tmp_path / name, ROWS)], QuestionConfig(**FIELDS))
    assert (first.text, first.answer, first.id, first.subject) == ("1 + 1", "2", "sums/0", "sums")
    assert (second.text, second.answer) == ("Half of 5", "2.5")


@pytest.mark.parametrize(
    ("row", "settings", "complaint"),
    [
        ({"problem": "x"}, {}, r":2: no field 'target'"),
        ({"target": "x"}, {}, r":2: no field 'problem'"),
        ({"problem": "x", "target": ["a"]}, {}, r":2: field 'target' is not text"),
        ({"problem": " ", "target": "x"}, {}, r":2: field 'problem' is empty"),
        ({"problem": "x", "target": "two or 3 or 4"}, {"grader": "number"}, r":2: field 'target' is not one number"),
    ],
)
def test_a_fault_is_named_with_file_and_line(
    row: dict[str, Any], settings: dict[str, Any], complaint: str, tmp_path: Path
) -> None:
    path = write(tmp_path / "sums.jsonl", [ROWS[0], row])
    with pytest.raises(BadInput, match=f"sums.jsonl{complaint}"):
        read_questions([path], QuestionConfig(**FIELDS, **settings))


def test_questions_of_files_with_equal_stems_have_ids_of_their_own(tmp_path: Path) -> None:
    def ids(*names: str) -> list[str]:
        for name in names:
            (tmp_path / name).parent.mkdir(exist_ok=True)
        paths = [write(tmp_path / name, ROWS[:1]) for name in names]
        return [question.id for question in read_questions(paths, QuestionConfig(**FIELDS))]

    assert ids("a/train.jsonl", "b/sums.jsonl") == ["train/0", "sums/0"]
    assert ids("a/train.jsonl", "b/train.parquet") == ["a/train/0", "b/train/0"]
    assert len({*ids("a/train.jsonl", "a/train.parquet")}) == 2
    assert ids("a/train.jsonl", "a/train.jsonl") == ["train/0", "train/0"], "the same questions"


def test_options_follow_the_question_and_the_answer_is_their_letter(tmp_path: Path) -> None:
    config = QuestionConfig(options_field="options", grader="letter")
    rows = [{"question": "Which {one}?", "options": ["red", "blue"], "answer": "B"}]
    (question,) = read_questions([write(tmp_path / "choice.jsonl", rows)], config)
    (tmp_path / "own.txt").write_text("Q: {question}\nBox it in \\boxed{}.\n")
    prompt = QuestionTemplate.load(str(tmp_path / "own.txt")).write(question)
    assert prompt == "Q: Which {one}?\n(A) red\n(B) blue\nBox it in \\boxed{}."
    with pytest.raises(BadInput, match="field 'answer' is not a letter from A to B: 'C'"):
        read_questions([write(tmp_path / "wrong.jsonl", [{**rows[0], "answer": "C"}])], config)


def test_templates_are_known_by_name_and_must_hold_the_question_once(tmp_path: Path) -> None:
    for path in TEMPLATES.glob("*.txt"):
        assert QuestionTemplate.load(path.stem).write(Question("", "", "", "Why?", "", "")).count("Why?") == 1
    (tmp_path / "twice.txt").write_text("{question} {question}")
    with pytest.raises(BadInput, match=r"holds \{question\} 2 times"):
        QuestionTemplate.load(str(tmp_path / "twice.txt"))
    with pytest.raises(BadInput, match="--question-template boxd is none of boxed, short and no file"):
        QuestionTemplate.load("boxd")


def test_a_small_number_as_reference_has_no_exponent(tmp_path: Path) -> None:
    path = write(tmp_path / "small.jsonl", [{"question": "What?", "answer": 1e-05}])
    (question,) = read_questions([path], QuestionConfig(grader="number"))
    assert question.answer == "0.00001"
