"""Read training questions from files whose field names the configuration gives."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path

from megatron_pz.config.question_schema import QuestionConfig
from megatron_pz.question_answering.graders import number_in
from megatron_pz.question_answering.question import LETTERS, Question
from megatron_pz.question_answering.records import Record, read_records


def read_questions(paths: Iterable[str], config: QuestionConfig) -> list[Question]:
    """Read the questions of JSON Lines, JSON or Parquet files, in order.

    Raises:
        BadInput: a file cannot be read or is empty, or a record lacks a field or has a value that the grader cannot
            use. The message names the file, its line or row, and the field.
    """
    found = [Path(path) for path in paths]
    names = _names({*found})
    return [_question(record, names[path], config) for path in found for record in read_records(path)]


def _names(paths: Collection[Path]) -> dict[Path, str]:
    """Return distinct names of the files: stems, or the shortest ends of the paths that are distinct."""
    for parts in range(1, max((len(path.parts) for path in paths), default=0) + 1):
        names = {path: Path(*path.parts[-parts:]).with_suffix("").as_posix() for path in paths}
        if len({*names.values()}) == len(paths):
            return names
    return {path: str(path) for path in paths}  # the same folder has both a.json and a.jsonl


def _question(record: Record, file: str, config: QuestionConfig) -> Question:
    options = record.texts(config.options_field, fewest=2) if config.options_field else ()
    answer = record.number_or_text(config.answer_field).strip()
    if len(options) > len(LETTERS):
        raise record.wrong(config.options_field, options, f"a list of at most {len(LETTERS)} options")
    if config.grader == "letter" and answer not in tuple(LETTERS[: len(options)]):
        raise record.wrong(config.answer_field, answer, f"a letter from A to {LETTERS[len(options) - 1]}")
    if config.grader == "number" and number_in(answer) is None:
        raise record.wrong(config.answer_field, answer, "one number")
    text = record.text(config.question_field)
    return Question(file, f"{file}/{record.number}", file, text, answer, record.place, options)
