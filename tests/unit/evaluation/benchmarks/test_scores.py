"""Scores of answers, worked by hand, and comparisons of two models in pairs."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from megatron_pz.evaluation.benchmarks.asking import ANSWERS_SCHEMA, Part
from megatron_pz.evaluation.benchmarks.comparison import compare
from megatron_pz.evaluation.benchmarks.contamination import Contamination
from megatron_pz.evaluation.benchmarks.scores import ModelScores, score
from megatron_pz.evaluation.benchmarks.store import AnswerStore, write_table
from megatron_pz.question_answering.scores import adjusted_harmonic_mean
from megatron_pz.reports.benchmark_text import results_text
from megatron_pz.runtime.errors import BadInput

FACTS: dict[str, Any] = {
    "recipe": "hand",
    "questions": 4,
    "of": 9,
    "chat": True,
    "samples": 2,
    "temperature": 0.6,
    "top_p": 0.95,
    "max_tokens": 50,
    "context": 100,
    "seed": 1,
}


def row(question: str, subject: str, sample: int, correct: bool, **more: Any) -> dict[str, Any]:
    return {
        "benchmark": "toy",
        "question": question,
        "subject": subject,
        "sample": sample,
        "asked": True,
        "response_tokens": 10,
        "truncated": False,
        "extracted": "x",
        "guessed": False,
        "correct": correct,
        "graders": {"strict": correct, "kind": True},
        **more,
    }


def table(rows: Sequence[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), ANSWERS_SCHEMA)


UNASKED = {"asked": False, "response_tokens": 0, "extracted": None, "graders": {"strict": False, "kind": False}}
ANSWERS = table(
    [
        row("a", "law", 0, True),
        row("a", "law", 1, False, extracted=None, guessed=True),
        row("b", "law", 0, True, truncated=True),
        row("b", "law", 1, True, extracted=None, guessed=True),
        row("c", "law", 0, False, extracted=None),
        row("c", "law", 1, False, error="strict: ZeroDivisionError"),
        row("d", "art", 0, False, **UNASKED),
        row("d", "art", 1, False, **UNASKED),
    ]
)


def test_scores_by_hand() -> None:
    found = score(ANSWERS, "harmonic", FACTS)
    # Questions: a 1/2, b 1, c 0 (law: 1/2), d 0 (art: 0).
    assert found.scores["micro"].mean == pytest.approx(1.5 / 4)
    assert found.scores["macro"].mean == pytest.approx((0.5 + 0.0) / 2)
    assert found.scores["harmonic"].mean == pytest.approx(adjusted_harmonic_mean([0.5, 0.0]))
    assert {name: each.mean for name, each in found.subjects.items()} == {"art": 0.0, "law": 0.5}
    assert {name: each.mean for name, each in found.graders.items()} == {"strict": 1.5 / 4, "kind": 3 / 4}
    counts = found.counts
    assert (counts.responses, counts.unread, counts.guessed, counts.guessed_right) == (6, 3, 2, 1)
    assert (counts.truncated, counts.grader_errors, counts.mean_tokens) == (1, 1, 10.0)
    assert found.too_long == ("d",)
    for each in (*found.scores.values(), *found.subjects.values()):
        assert each.low <= each.mean <= each.high


def test_a_part_of_bbehs_tasks_is_said() -> None:
    found = dataclasses.replace(score(ANSWERS, "harmonic", FACTS), benchmark="bbeh")
    text = results_text([ModelScores("m", (found,))])
    assert "bbeh: 4 of 9 questions of 2 of 23 tasks, mean@2" in text


def test_a_harmonic_mean_above_one_is_explained() -> None:
    rows = [{**row, "correct": True, "asked": True} for row in ANSWERS.to_pylist()]
    found = dataclasses.replace(score(pa.Table.from_pylist(rows, ANSWERS.schema), "harmonic", FACTS), benchmark="bbeh")
    assert found.scores["harmonic"].mean == pytest.approx(1.01)
    assert "all right 1.010" in results_text([ModelScores("m", (found,))])
    assert "1.010" not in results_text([ModelScores("m", (score(ANSWERS, "micro", FACTS),))])


def test_the_score_without_contaminated_questions() -> None:
    def of(*questions: str) -> Contamination:
        return Contamination(("wiki",), 100, 13, questions, 1)

    found = score(ANSWERS, "micro", FACTS, of("b"))
    assert found.clean is not None and found.clean.mean == pytest.approx(0.5 / 3)
    assert score(ANSWERS, "micro", FACTS, of("a", "b", "c", "d")).clean is None
    text = results_text([ModelScores("m", (found,))])
    assert "1 of 4" in text and "100 passages of wiki: 13 words in a row; 1 questions are too short" in text


def test_results_survive_their_file(tmp_path: Path) -> None:
    scores = ModelScores("m", (score(ANSWERS, "macro", FACTS, Contamination(("wiki",), 1, 13, ("a",), 0)),))
    scores.save(tmp_path)
    assert ModelScores.load(tmp_path) == scores
    (tmp_path / "results.json").write_text("{}")
    with pytest.raises(BadInput, match=r"results\.json is not a result of tools/evaluate\.py"):
        ModelScores.load(tmp_path)
    with pytest.raises(BadInput, match="give a folder of tools/evaluate"):
        ModelScores.load(tmp_path / "none")


def model(folder: Path, name: str, right: set[int], **facts: Any) -> tuple[ModelScores, Path]:
    """Return a model's scores on forty questions of two subjects, of which some are right."""
    rows = [row(str(n), "even odd".split()[n % 2], 0, n in right) for n in range(40)]
    store = AnswerStore(folder / name)
    store.claim("toy", FACTS)
    store.write(Part("toy", 0, 0, 40, 40), table(rows))
    store.join("toy", [Part("toy", 0, 0, 40, 40)])
    return ModelScores(name, (score(store.read("toy"), "micro", {**FACTS, "samples": 1, **facts}),)), folder / name


def test_two_models_are_compared_question_by_question(tmp_path: Path) -> None:
    """Twelve even questions of forty are gained. By counting, p = 2 / 2^12 over the set, corrected for one set; for two
    subjects it is that of the even ones, doubled, and the odd ones do not differ."""
    before = model(tmp_path, "base", set(range(10)))
    after = model(tmp_path, "trained", {*range(10), *range(10, 34, 2)})
    found = compare(*before, *after)
    micro, macro = found.sets
    assert (micro.statistic, macro.statistic) == ("micro", "macro")
    assert (micro.before, micro.after, micro.change.mean) == pytest.approx((0.25, 0.55, 0.3))
    assert micro.p == macro.p == micro.corrected_p == pytest.approx(2 / 2**12, abs=5e-4)
    even, odd = found.subjects
    assert (even.subject, odd.subject) == ("even", "odd")
    assert even.corrected_p == pytest.approx(2 * 2 / 2**12, abs=1e-3)
    assert (odd.p, odd.corrected_p, odd.change.mean) == (1.0, 1.0, 0.0)
    assert micro.significant and even.significant and not odd.significant
    text = results_text([before[0], after[0]], [found])
    assert "trained is better than base on toy (+0.300)." in text
    back = compare(*after, *before)
    assert "base is worse than trained on toy (-0.300)." in results_text([after[0], before[0]], [back])


def test_a_set_that_only_a_later_model_was_asked_is_in_the_table(tmp_path: Path) -> None:
    before, after = model(tmp_path, "base", {1})[0], model(tmp_path, "trained", {2})[0]
    other = dataclasses.replace(after.benchmarks[0], benchmark="added")
    text = results_text([before, dataclasses.replace(after, benchmarks=(*after.benchmarks, other))])
    (row,) = [line.split() for line in text.splitlines() if "added micro" in line]
    assert row[3:] == ["–", "0.025", "[0.000,", "0.075]"]
    assert text.index("toy: 4 of 9") < text.index("added: 4 of 9"), "in the order of the models"


def test_no_difference_is_said_in_words(tmp_path: Path) -> None:
    before, after = model(tmp_path, "base", {1, 2}), model(tmp_path, "trained", {2, 3})
    found = compare(*before, *after)
    assert found.sets[0].change.low < 0 < found.sets[0].change.high
    assert "No set distinguishes trained from base." in results_text([before[0], after[0]], [found])


@pytest.mark.parametrize(
    ("facts", "words"),
    [({"recipe": "other"}, "recipe"), ({"max_tokens": 9, "chat": False}, "chat, max tokens"), ({"data": "x"}, "data")],
)
def test_results_of_other_settings_are_not_compared(tmp_path: Path, facts: dict[str, Any], words: str) -> None:
    before, after = model(tmp_path, "base", {1}), model(tmp_path, "trained", {2}, **facts)
    with pytest.raises(BadInput, match=f"^toy: base and trained were not asked alike, they differ in {words};"):
        compare(*before, *after)


def test_answers_that_do_not_match_their_record_are_not_compared(tmp_path: Path) -> None:
    before, after = model(tmp_path, "base", {1}), model(tmp_path, "trained", {2})
    rows = [row(str(n), "even", 0, True) for n in range(40)]
    write_table(after[1] / "toy.parquet", table(rows))
    with pytest.raises(BadInput, match=r"^toy: the answers in .*/base and .*/trained are to other questions"):
        compare(*before, *after)


def test_models_without_a_common_set_are_not_compared(tmp_path: Path) -> None:
    before, after = model(tmp_path, "base", {1}), model(tmp_path, "trained", {2})
    other = dataclasses.replace(after[0], benchmarks=())
    with pytest.raises(BadInput, match="no benchmark in common"):
        compare(*before, other, after[1])
