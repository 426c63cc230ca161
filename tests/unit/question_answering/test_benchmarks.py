"""Readers of every set in its public schema, and errors that name the place and field of a fault."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_pz.question_answering.benchmarks import BENCHMARKS, load_benchmark, shortfall
from megatron_pz.question_answering.recipes import RECIPES, recipe
from megatron_pz.runtime.errors import BadInput
from tests.support.benchmark_data import benchmark_data

SUPERGPQA: dict[str, Any] = {
    "uuid": "a8390c75",
    "question": "The common-mode rejection ratio of a circuit depends on",
    "options": ["all of the above", "the difference of both ratios"],
    "answer": "the difference of both ratios",
    "answer_letter": "B",
    "discipline": "Engineering",
    "field": "Electronic Science and Technology",
    "subfield": "Circuits and Systems",
    "difficulty": "middle",
    "is_calculation": False,
}
MATH500: dict[str, Any] = {
    "problem": "Suppose $\\sin D = 0.7$. What is $DE$?",
    "solution": "The triangle is right: $\\boxed{\\sqrt{51}}$.",
    "answer": "\\sqrt{51}",
    "subject": "Geometry",
    "level": 1,
    "unique_id": "test/precalculus/1303.json",
}
RECORDS: dict[str, dict[str, Any]] = {
    "mmlu_pro": {
        "question_id": 70,
        "question": "Which?",
        "options": ["yes", "no", "N/A"],
        "answer": "B",
        "answer_index": 1,
        "cot_content": "",
        "category": "law",
        "src": "",
    },
    "supergpqa": SUPERGPQA,
    "math500": MATH500,
    "olympiadbench": {
        "id": 1606,
        "subfield": "Algebra",
        "context": None,
        "question": "Which $n$?",
        "solution": ["…"],
        "final_answer": ["$2n$"],
        "is_multiple_answer": False,
        "unit": None,
        "answer_type": "Expression",
        "error": None,
    },
    "minerva_math": {"problem": "How far?", "solution": "$\\boxed{1.6} \\mathrm{~cm}$", "type": "Astronomy", "idx": 3},
    "gsm8k": {"question": "How many?", "answer": "3 * 500 = 1500\n#### 1,500"},
    "amc23": {"id": 0, "problem": "How many?", "answer": 27.0, "url": ""},
    "aime24": {"id": 60, "problem": "How long?", "solution": "…", "answer": "204", "url": ""},
}
READ = {  # identifier, subject, answer, options
    "mmlu_pro": ("70", "law", "B", ("yes", "no")),
    "supergpqa": ("a8390c75", "Engineering", "B", ("all of the above", "the difference of both ratios")),
    "math500": ("test/precalculus/1303.json", "Geometry", "\\sqrt{51}", ()),
    "olympiadbench": ("1606", "Algebra", "2n", ()),
    "minerva_math": ("3", "Astronomy", "1.6", ()),
    "gsm8k": ("0", "gsm8k", "1500", ()),
    "amc23": ("0", "amc23", "27", ()),
    "aime24": ("60", "aime24", "204", ()),
}
QUESTION_FIELDS = {"gsm8k": "question", "mmlu_pro": "question", "supergpqa": "question", "olympiadbench": "question"}


def write(directory: Path, name: str, records: list[Any], file: str = "test.jsonl") -> Path:
    path = directory / name / file
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(records), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    else:
        path.write_text(json.dumps({"examples": records, "canary": ""}), encoding="utf-8")
    return path


def refused(directory: Path, name: str) -> str:
    with pytest.raises(BadInput) as caught:
        load_benchmark(name, directory)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("file", ["test.jsonl", "test.parquet", "test.json", "data/test-00000-of-00001.parquet"])
@pytest.mark.parametrize("name", RECORDS)
def test_a_record_is_read_in_its_public_schema(name: str, file: str, tmp_path: Path) -> None:
    path = write(tmp_path, name, [RECORDS[name]], file)
    (question,) = load_benchmark(name, tmp_path)
    assert (question.id, question.subject, question.answer, question.options) == READ[name]
    assert question.text == RECORDS[name][QUESTION_FIELDS.get(name, "problem")]
    assert question.source == (f"{path}:1" if path.suffix == ".jsonl" else f"{path}:row 1")
    assert question.extras == RECORDS[name]


REQUIRED = [
    (name, field)
    for name, record in RECORDS.items()
    for field in record
    if field not in ("answer_index", "cot_content", "src", "is_calculation", "context", "is_multiple_answer", "unit")
    and field not in ("answer_type", "error", "url")
    and not (field == "solution" and name != "minerva_math")
]


@pytest.mark.parametrize(("name", "field"), REQUIRED)
def test_a_missing_changed_or_empty_field_is_named_with_its_line(name: str, field: str, tmp_path: Path) -> None:
    path = write(tmp_path, name, [{other: value for other, value in RECORDS[name].items() if other != field}])
    assert refused(tmp_path, name).startswith(f"{path}:1: no field '{field}'; it has '")
    for value in (None, {"text": "x"}, ""):
        write(tmp_path, name, [RECORDS[name] | {field: value}])
        assert refused(tmp_path, name).startswith(f"{path}:1: field '{field}' ")


LATEX = [  # as in MATH-500: reference, and an equivalent answer of a response
    ("\\left( 3, \\frac{\\pi}{2} \\right)", "(3, \\frac{\\pi}{2})"),
    ("\\dfrac{14}{3}", "\\frac{14}{3}"),
    ("\\text{Evelyn}", "Evelyn"),
    ("11\\sqrt2", "11\\sqrt{2}"),
    ("x^3+3x-6", "x^3 + 3x - 6"),
    ("90^\\circ", "90"),
    ("\\$18.90", "18.90"),
    ("10,\\!080", "10080"),
    ("\\begin{pmatrix} -2 \\\\ 1 \\end{pmatrix}", "\\begin{pmatrix}-2\\\\1\\end{pmatrix}"),
    ("[-2,7]", "[-2, 7]"),
]


def test_math500s_references_in_latex_are_read_and_graded(tmp_path: Path) -> None:
    rows = [
        MATH500 | {"answer": reference, "level": number % 5 + 1, "unique_id": f"test/algebra/{number}.json"}
        for number, (reference, _) in enumerate(LATEX)
    ]
    write(tmp_path, "math500", rows, "data/test-00000-of-00001.parquet")
    questions = load_benchmark("math500", tmp_path)
    assert [question.answer for question in questions] == [reference for reference, _ in LATEX]
    protocol = recipe("general_reasoner").protocol("math500")
    for question, (_, answer) in zip(questions, LATEX, strict=True):
        graded = protocol.grade(question, f"So it is $\\boxed{{{answer}}}$.", 0)
        assert graded.graders == {"math_verify": True, "qwen": True}, question.answer
        wrong = protocol.grade(question, "So it is $\\boxed{12345}$.", 0)
        assert wrong.graders == {"math_verify": False, "qwen": False}, question.answer


def test_supergpqas_options_are_read_as_they_are(tmp_path: Path) -> None:
    """Ten options have texts that look like letters, numbers or LaTeX; the letter decides regardless of the text."""
    options = ["B", "A", "10", "$\\frac{1}{2}$", "N/A", "all of the above", "(C)", "Æ", "none", "0.5"]
    odd = SUPERGPQA | {"options": options, "answer": "$\\frac{1}{2}$", "answer_letter": "D", "uuid": "1"}
    write(tmp_path, "supergpqa", [SUPERGPQA, odd], "SuperGPQA-all.jsonl")
    _, question = load_benchmark("supergpqa", tmp_path)
    assert (question.options, question.answer) == (tuple(options), "D")
    cases = {
        "authors": {"Answer: D": "D", "The answer is $\\frac{1}{2}$.": "D", "The answer is all of the above.": "F"},
        "general_reasoner": {
            "\\boxed{D}": "D",
            "The answer is: D\n": "D",
            "\\boxed{\\text{D}}": "D",
            "\\boxed{F}": "F",
        },
    }
    for name, read in cases.items():
        protocol = recipe(name).protocol("supergpqa")
        for response, letter in read.items():
            verdict = protocol.grade(question, response, 0)
            assert (verdict.extracted, verdict.correct) == (letter, letter == "D"), response


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("supergpqa", {"options": None}, "field 'options' is not a list of texts: None"),
        ("supergpqa", {"options": ["yes", 2]}, "field 'options' is not a list of texts: ['yes', 2]"),
        ("supergpqa", {"options": "A) yes B) no"}, "field 'options' is not a list of texts"),
        ("supergpqa", {"answer_letter": "the difference of both ratios"}, "not a letter from A to B"),
        ("supergpqa", {"answer_letter": "C"}, "field 'answer_letter' is 'C', not a letter from A to B"),
        ("supergpqa", {"options": [str(number) for number in range(11)]}, "11 entries, more than 10"),
        ("math500", {"level": "Level 3"}, "field 'level' is not a whole number from 1 to 5: 'Level 3'"),
        ("mmlu_pro", {"answer": "C"}, "field 'answer' is 'C', not a letter from A to B"),
        ("mmlu_pro", {"options": ["yes"]}, "field 'options' has 1 entries, fewer than 2"),
        ("mmlu_pro", {"options": ["yes", " "]}, "field 'options' has an empty entry, number 1"),
        ("mmlu_pro", {"options": [str(number) for number in range(11)]}, "11 entries, more than 10"),
        ("supergpqa", {"answer_letter": "b"}, "field 'answer_letter' is 'b', not a letter from A to B"),
        ("math500", {"level": 6}, "field 'level' is not a whole number from 1 to 5: 6"),
        ("mmlu_pro", {"options": ["yes", "N/A"]}, "field 'options' has 1 options besides 'N/A', fewer than 2"),
        ("mmlu_pro", {"options": ["N/A", "N/A"]}, "field 'options' has 0 options besides 'N/A', fewer than 2"),
        ("mmlu_pro", {"options": ["yes", "\ud800"]}, "field 'options' is not Unicode texts"),
        ("gsm8k", {"question": "How many \ud83e?"}, "field 'question' is not Unicode text"),
        ("gsm8k", {"answer": "#### ,"}, "field 'answer' has no text after '####'"),
        ("olympiadbench", {"final_answer": ["$$"]}, "field 'final_answer' has an empty entry, number 0"),
        ("gsm8k", {"answer": "It is 5"}, "field 'answer' has no text after '####'"),
        ("gsm8k", {"answer": "5 #### "}, "field 'answer' has no text after '####'"),
        ("minerva_math", {"solution": "It is 5"}, "field 'solution' has no \\boxed{} with an answer"),
        ("olympiadbench", {"final_answer": ["1", "2"]}, "field 'final_answer' has 2 entries; one is read"),
        ("amc23", {"answer": True}, "field 'answer' is not text: True"),
        ("aime24", {"answer": float("inf")}, "field 'answer' is not text: inf"),
    ],
)
def test_a_value_that_cannot_be_is_named(name: str, change: dict[str, Any], words: str, tmp_path: Path) -> None:
    path = write(tmp_path, name, [RECORDS[name], RECORDS[name] | change])
    message = refused(tmp_path, name)
    assert message.startswith(f"{path}:2: field ")
    assert words in message


def test_an_identifier_may_stand_once(tmp_path: Path) -> None:
    path = write(tmp_path, "aime24", [RECORDS["aime24"], RECORDS["aime24"]])
    assert refused(tmp_path, "aime24") == f"{path}:2: identifier '60' already occurs at {path}:1"


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda path: path.write_text(""), "holds no item"),
        (lambda path: path.write_text('{"id": 1}\n{"id": '), "test.jsonl:1: no field"),
        (lambda path: path.write_text('\n{"id": '), "test.jsonl:2: not JSON"),
        (lambda path: path.write_text("[1]\n"), "test.jsonl:1: not an object with fields"),
        (lambda path: path.write_bytes(b"\xff\xfe"), "not UTF-8"),
        (lambda path: path.write_text("[" * 100_000), "test.jsonl:1: not JSON: maximum recursion depth"),
        (lambda path: path.rename(path.with_suffix(".json")), "not JSON"),
        (lambda path: path.rename(path.with_suffix(".parquet")), "cannot be read"),
        (lambda path: path.rename(path.with_suffix(".csv")), "no file of aime24; test.parquet, test.jsonl"),
    ],
)
def test_a_damaged_file_is_one_line(damage: Callable[[Path], object], words: str, tmp_path: Path) -> None:
    damage(write(tmp_path, "aime24", [RECORDS["aime24"], RECORDS["aime24"] | {"id": 61}]))
    assert words in refused(tmp_path, "aime24")


def test_an_empty_list_and_another_object_are_refused(tmp_path: Path) -> None:
    write(tmp_path, "aime24", [], "test.json")
    assert "holds no item" in refused(tmp_path, "aime24")
    (tmp_path / "aime24/test.json").write_text('{"rows": []}')
    assert "neither a list of items nor an object with a list under 'examples'" in refused(tmp_path, "aime24")


def test_unknown_names_and_missing_folders_are_refused(tmp_path: Path) -> None:
    assert refused(tmp_path, "mmlu").startswith("no benchmark 'mmlu'; there are mmlu_pro, supergpqa")
    assert refused(tmp_path, "gsm8k") == f"{tmp_path}/gsm8k: no folder with the files of gsm8k"
    with pytest.raises(BadInput, match="no recipe 'general'; there are general_reasoner, authors"):
        recipe("general")
    with pytest.raises(BadInput, match="no benchmark 'mmlu'"):
        recipe("authors").protocol("mmlu")


def test_shards_are_read_in_order_and_counted_through(tmp_path: Path) -> None:
    for shard, text in enumerate(("One?", "Two?")):
        file = f"main/test-0000{shard}-of-00002.parquet"
        write(tmp_path, "gsm8k", [RECORDS["gsm8k"] | {"question": text}], file)
    questions = load_benchmark("gsm8k", tmp_path)
    assert [(question.id, question.text) for question in questions] == [("0", "One?"), ("1", "Two?")]


def test_bbeh_is_read_by_task(tmp_path: Path) -> None:
    items = [{"input": "Which?", "target": "(A)"}, {"input": "How many?", "target": 2}]
    write(tmp_path, "bbeh", items, "nycc.json")
    write(tmp_path, "bbeh", items, "bbeh_word_sorting/task.json")
    write(tmp_path, "bbeh", items, "mini.json")
    questions = load_benchmark("bbeh", tmp_path)
    assert [(question.id, question.subject, question.answer) for question in questions] == [
        ("word_sorting/0", "word_sorting", "(A)"),
        ("word_sorting/1", "word_sorting", "2"),
        ("nycc/0", "nycc", "(A)"),
        ("nycc/1", "nycc", "2"),
    ]
    assert shortfall("bbeh", {question.subject for question in questions}) == "2 of 23 tasks"
    assert [question.id for question in load_benchmark("bbeh_mini", tmp_path)] == ["bbeh_mini/0", "bbeh_mini/1"]


SIZES = {"mmlu_pro": 12032, "bbeh": 600, "bbeh_mini": 460, "olympiadbench": 675, "minerva_math": 272, "gsm8k": 1319}
SIZES |= {"amc23": 40, "aime24": 30}


@pytest.mark.parametrize("name", SIZES)
def test_the_published_sets_are_read_whole(name: str) -> None:
    questions = load_benchmark(name, benchmark_data())
    assert len(questions) == SIZES[name]
    assert {question.benchmark for question in questions} == {name}


def test_a_whole_set_lacks_nothing(tmp_path: Path) -> None:
    for task in range(23):
        write(tmp_path, "bbeh", [{"input": "Which?", "target": "A"}], f"task{task}.json")
    assert shortfall("bbeh", {question.subject for question in load_benchmark("bbeh", tmp_path)}) is None
    assert shortfall("gsm8k", {"gsm8k"}) is None


def test_every_recipe_covers_every_benchmark(tmp_path: Path) -> None:
    write(tmp_path, "mmlu_pro", [RECORDS["mmlu_pro"] | {"cot_content": "A: B."}] * 1, "validation.jsonl")
    for name in RECIPES:
        for benchmark in BENCHMARKS:
            protocol = recipe(name).protocol(benchmark, tmp_path)
            assert (protocol.recipe, protocol.benchmark) == (name, benchmark)
            assert protocol.samples == (32 if benchmark in ("amc23", "aime24") else 1)
            assert (protocol.temperature > 0) == (protocol.samples > 1), "greedy responses are all alike"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=True) | st.text(max_size=5),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=3), children, max_size=2),
    max_leaves=5,
)


@given(st.sampled_from([(name, field) for name, record in RECORDS.items() for field in record]), JSON)
def test_no_value_of_a_field_leads_to_anything_but_bad_input(of: tuple[str, str], value: object) -> None:
    name, field = of
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), name, [RECORDS[name] | {field: value}])
        try:
            (question,) = load_benchmark(name, Path(folder))
        except BadInput as error:
            assert "test.jsonl:1: field " in str(error) and "\n" not in str(error)
        else:
            assert question.text.strip() and question.answer.strip()
            assert question.text.strip() in recipe("general_reasoner").protocol(name).prompt(question)
