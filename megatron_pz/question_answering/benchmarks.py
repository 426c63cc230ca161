"""Read the benchmarks from local files in their public schemas."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from megatron_pz.question_answering.boxed import last_boxed
from megatron_pz.question_answering.question import LETTERS, Question
from megatron_pz.question_answering.records import SUFFIXES, Record, read_records
from megatron_pz.runtime.errors import BadInput

BBEH_TASKS: Final = 23
"""Tasks of the whole BIG-Bench Extra Hard, https://github.com/google-deepmind/bbeh."""


def load_benchmark(name: str, directory: Path) -> list[Question]:
    """Read a benchmark's questions from ``directory/name/``, in the order of its files.

    A set is one file whose name begins with ``test`` (or with the name of its public file), or shards that sort by
    name, in ``.parquet``, ``.jsonl`` or ``.json`` format. ``bbeh`` has one file per task.

    Raises:
        BadInput: The name is unknown, no file is found, a file is empty, or a record lacks a field, has a field of
            another type, or repeats an identifier. The message names the file, the line or row, and the field.
    """
    if name not in BENCHMARKS:
        raise BadInput(f"no benchmark {name!r}; there are {', '.join(BENCHMARKS)}")
    read = _READERS[name]
    questions: list[Question] = []
    seen: dict[str, str] = {}
    for path in benchmark_files(name, directory):
        for record in read_records(path):
            # Sets without identifiers are numbered through all shards; each task of BBEH is numbered separately.
            number = record.number if name == "bbeh" else len(questions)
            question = read(replace(record, number=number), name, path)
            if (before := seen.get(question.id)) is not None:
                raise BadInput(f"{question.source}: identifier {question.id!r} already occurs at {before}")
            seen[question.id] = question.source
            questions.append(question)
    return questions


def shortfall(name: str, subjects: Collection[str]) -> str | None:
    """Return the part of the published set that these subjects cover, such as "3 of 23 tasks"; None for all.

    >>> shortfall("bbeh", [])
    '0 of 23 tasks'
    """
    return f"{len(subjects)} of {BBEH_TASKS} tasks" if name == "bbeh" and len(subjects) < BBEH_TASKS else None


def load_examples(directory: Path) -> list[Question]:
    """Read MMLU-Pro's validation set, whose ``cot_content`` holds the worked solutions for few-shot prompts.

    Raises:
        BadInput: As in :func:`load_benchmark`, or a solution is empty.
    """
    folder = directory / "mmlu_pro"
    questions = []
    for path in _shards(folder, ("validation",)):
        for record in read_records(path):
            record.text("cot_content")
            questions.append(_mmlu_pro(record, "mmlu_pro", path))
    if not questions:
        raise BadInput(
            f"{folder}: no validation file (validation.parquet, .jsonl or .json of TIGER-Lab/MMLU-Pro), which the "
            "worked examples of the 5-shot prompt come from"
        )
    return questions


def benchmark_files(name: str, directory: Path) -> list[Path]:
    """Return the files that hold a benchmark, sorted by name.

    Raises:
        BadInput: The folder or the files are missing.
    """
    folder = directory / name.removesuffix("_mini")
    if not folder.is_dir():
        raise BadInput(f"{folder}: no folder with the files of {name}")
    if name == "bbeh":
        files = sorted({*folder.glob("*.json"), *folder.glob("bbeh_*/task.json")} - {folder / "mini.json"})
    elif name == "bbeh_mini":
        files = [path for path in (folder / "mini.json", folder / "mini/data.json") if path.is_file()][:1]
    else:
        files = _shards(folder, _STEMS.get(name, ("test",)))
    if not files:
        raise BadInput(
            f"{folder}: no file of {name}; {_WANTED.get(name, 'test.parquet, test.jsonl or test.json')} is read"
        )
    return files


def _shards(folder: Path, stems: tuple[str, ...]) -> list[Path]:
    """Return the files of the first stem and suffix that has any, so that a set in two formats is read once."""
    for stem in stems:
        for suffix in SUFFIXES:
            for pattern in (
                f"{stem}{suffix}",
                f"{stem}-*-of-*{suffix}",
                f"data/{stem}-*-of-*{suffix}",
                f"main/{stem}-*-of-*{suffix}",
            ):
                if files := sorted(folder.glob(pattern)):
                    return files
    return []


def _question(
    record: Record, benchmark: str, identifier: object, text: str, answer: str, subject: str = "", **more: Any
) -> Question:
    extras = dict(record.fields)
    return Question(benchmark, str(identifier), subject or benchmark, text, answer, record.place, extras=extras, **more)


def _mmlu_pro(record: Record, benchmark: str, path: Path) -> Question:
    """Read ``question_id, question, options, answer, answer_index, cot_content, category, src``."""
    identifier = record.number_or_text("question_id")
    # As in the authors' preprocessing, padding of the option list is not an option.
    options = tuple(option for option in record.texts("options", fewest=2) if option != "N/A")
    return _letter_question(record, benchmark, identifier, options, "answer", record.text("category"))


def _supergpqa(record: Record, benchmark: str, path: Path) -> Question:
    """Read ``uuid, question, options, answer, answer_letter, discipline, field, subfield, difficulty, …``."""
    options = record.texts("options", fewest=2)
    for name in ("answer", "field", "subfield", "difficulty"):
        record.text(name)
    return _letter_question(record, benchmark, record.text("uuid"), options, "answer_letter", record.text("discipline"))


def _letter_question(
    record: Record, benchmark: str, identifier: str, options: tuple[str, ...], answer_field: str, subject: str
) -> Question:
    letters = LETTERS[: len(options)]
    if len(options) < 2:
        raise BadInput(f"{record.place}: field 'options' has {len(options)} options besides 'N/A', fewer than 2")
    if len(options) > len(LETTERS):
        raise BadInput(f"{record.place}: field 'options' has {len(options)} entries, more than {len(LETTERS)}")
    answer = record.text(answer_field)
    if answer not in tuple(letters):
        raise BadInput(f"{record.place}: field {answer_field!r} is {answer!r}, not a letter from A to {letters[-1]}")
    return _question(record, benchmark, identifier, record.text("question"), answer, subject, options=options)


def _bbeh(record: Record, benchmark: str, path: Path) -> Question:
    """Read ``input, target`` and an optional ``task`` of a task's ``examples``."""
    if "task" in record.fields:
        task = record.text("task")
    elif benchmark == "bbeh_mini":
        task = benchmark
    else:
        task = path.parent.name if path.name == "task.json" else path.stem
    task = task.removeprefix("bbeh_") if benchmark == "bbeh" else task
    return _question(
        record, benchmark, f"{task}/{record.number}", record.text("input"), record.number_or_text("target"), task
    )


def _gsm8k(record: Record, benchmark: str, path: Path) -> Question:
    """Read ``question, answer``; the reference follows the last ``####`` of the worked answer."""
    _, marker, after = record.text("answer").rpartition("####")
    answer = after.strip().replace(",", "")  # digits are grouped by commas in a few answers ("1,450")
    if not marker or not answer:
        raise BadInput(f"{record.place}: field 'answer' has no text after '####'")
    return _question(record, benchmark, record.number, record.text("question"), answer, benchmark)


def _math500(record: Record, benchmark: str, path: Path) -> Question:
    """Read ``problem, solution, answer, subject, level, unique_id``."""
    if record.get("level") not in range(1, 6):
        raise record.wrong("level", record.get("level"), "a whole number from 1 to 5")
    return _question(
        record,
        benchmark,
        record.text("unique_id"),
        record.text("problem"),
        record.text("answer"),
        record.text("subject"),
    )


def _olympiadbench(record: Record, benchmark: str, path: Path) -> Question:
    """Read ``id, subfield, context, question, final_answer, …`` of the English text-only mathematics."""
    answers = record.texts("final_answer")
    if len(answers) > 1:
        raise BadInput(f"{record.place}: field 'final_answer' has {len(answers)} entries; one is read")
    # The answer is enclosed in dollar signs; if there are several, each of them is.
    answer = answers[0].strip("$")
    if not answer.strip():
        raise BadInput(f"{record.place}: field 'final_answer' has an empty entry, number 0")
    return _question(
        record,
        benchmark,
        record.number_or_text("id"),
        record.text("question"),
        answer,
        record.text("subfield"),
    )


def _minerva_math(record: Record, benchmark: str, path: Path) -> Question:
    """Read ``problem, solution, type, idx``; the reference is the last box of the solution."""
    answer = last_boxed(record.text("solution"))
    if answer is None or not answer.strip():
        raise BadInput(f"{record.place}: field 'solution' has no \\boxed{{}} with an answer")
    return _question(
        record, benchmark, record.number_or_text("idx"), record.text("problem"), answer.strip(), record.text("type")
    )


def _contest(record: Record, benchmark: str, path: Path) -> Question:
    """Read ``id, problem, answer, url`` of AIME 2024 or AMC 2023."""
    return _question(
        record,
        benchmark,
        record.number_or_text("id"),
        record.text("problem"),
        record.number_or_text("answer"),
        benchmark,
    )


_STEMS: Final = {"supergpqa": ("test", "SuperGPQA-all", "train")}
_WANTED: Final = {
    "supergpqa": "test, SuperGPQA-all or train as .parquet, .jsonl or .json",
    "bbeh": "one .json per task (TASK.json or bbeh_TASK/task.json)",
    "bbeh_mini": "mini.json or mini/data.json",
}
_READERS: Final[Mapping[str, Callable[[Record, str, Path], Question]]] = {
    "mmlu_pro": _mmlu_pro,
    "supergpqa": _supergpqa,
    "bbeh": _bbeh,
    "bbeh_mini": _bbeh,
    "math500": _math500,
    "olympiadbench": _olympiadbench,
    "minerva_math": _minerva_math,
    "gsm8k": _gsm8k,
    "amc23": _contest,
    "aime24": _contest,
}
BENCHMARKS: Final = tuple(_READERS)
"""Names of the benchmarks. ``bbeh_mini`` is the 460 items that BBEH's authors chose from all tasks."""
