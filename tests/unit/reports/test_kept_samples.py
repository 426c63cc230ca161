"""The index of a run's samples, and the places of masks in a passage."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from megatron_pz.monitoring.samples import MaskSample, PredictionSample
from megatron_pz.reports.kept_samples import KeptSamples, place_masks
from megatron_pz.reports.passage_texts import passage_record
from megatron_pz.runtime.errors import BadInput

RIGHT, WRONG = PredictionSample("a", "a", True), PredictionSample("b", "b", False)


def mask(
    passage: str, span: str, masked: str, predictions: tuple[PredictionSample, ...] = (RIGHT, WRONG)
) -> MaskSample:
    return MaskSample("T", passage, rf"\mask{{{span}}}", span, "", 0.5, masked, predictions)


def write(folder: Path, *steps: tuple[int, MaskSample], tail: str = "") -> KeptSamples:
    lines = [sample.to_json(step) + "\n" for step, sample in steps]
    (folder / "samples.jsonl").write_text("".join(lines) + tail, encoding="utf-8")
    return KeptSamples(folder)


def test_masks_of_a_passage_are_indexed_together_and_read_again(tmp_path: Path) -> None:
    first, second = mask("a b", "a", "[mask] b"), mask("a b", "b", "a [mask]", (RIGHT, RIGHT))
    invalid, other = MaskSample("T", "a b", "no", None, "absent", 0.0), mask("c\u2028d", "c", "[mask]\u2028d")
    kept = write(tmp_path, (1, first), (1, invalid), (1, second), (1, other), (2, first), tail='{"iteration": 3, "ti')
    assert [(each.iteration, each.outcomes) for each in kept.passages] == [
        (1, [0.5, "absent", 1.0]),
        (1, [0.5]),
        (2, [0.5]),
    ]
    assert kept.read(kept.passages[0]) == [first, invalid, second]
    assert kept.read(kept.passages[1]) == [other]


def test_samples_of_earlier_versions_are_read(tmp_path: Path) -> None:
    """The line has the fields from before those of this page were added."""
    old = {
        "iteration": 7,
        "title": "Danube",
        "passage": "The Danube.",
        "response": r"\mask{Danube}",
        "span": "Danube",
        "fault": "",
        "reward": 0.5,
        "masked_passage": "The [mask].",
        "predictions": [{"response": "x", "answer": None, "right": False}],
    }
    (tmp_path / "samples.jsonl").write_text(json.dumps(old) + "\n")
    kept = KeptSamples(tmp_path)
    record = passage_record(kept.read(kept.passages[0]))
    assert record["masks"][0]["predictions"][0]["difference"] is None
    assert (record["url"], record["revision"]) == ("", "")


@pytest.mark.parametrize("line", ["no json", "[]", '{"iteration": 1}', '{"iteration": 1, "predictions": [1]}'])
def test_another_file_is_refused_in_one_line(tmp_path: Path, line: str) -> None:
    (tmp_path / "samples.jsonl").write_text(line + "\n")
    with pytest.raises(BadInput, match="holds a line that this program did not write"):
        KeptSamples(tmp_path)


def test_every_hidden_occurrence_is_placed_and_no_other() -> None:
    passage = "cat, cat and cat"
    all_of_them, one = mask(passage, "cat", "[mask], [mask] and [mask]"), mask(passage, "cat", "cat, [mask] and cat")
    placed = place_masks([all_of_them, one, MaskSample("T", passage, "", None, "absent", 0.0)])
    assert placed.starts == ((0, 5, 13), (5,), ())
    assert placed.shown_until == (None, None, None)


def test_a_passage_that_was_cut_says_where() -> None:
    placed = place_masks([mask("one two three", "two", "one [mask]")])
    assert (placed.starts, placed.shown_until) == (((4,),), (7,))


def test_masks_that_were_looked_up_in_composed_form_are_placed_in_it() -> None:
    passage = "Cafe\u0301 Cafe\u0301 Wien"
    placed = place_masks([mask(passage, "Wien", "Café Café [mask]")])
    assert (placed.text, placed.starts) == ("Café Café Wien", ((10,),))


def test_a_masked_passage_of_another_text_has_no_place() -> None:
    assert place_masks([mask("one two", "x", "[mask] y")]).starts == ((),)


def test_responses_with_one_mask_and_its_predictions_appear_together() -> None:
    twice = mask("a b", "a", "[mask] b")
    invalid = MaskSample("T", "a b", r"I hide \mask{z}", None, "absent", -0.1)
    passive = MaskSample("T", "a b", "", "b", "", 0.0, "a [mask]", (WRONG,), strategy="random_span")
    (first, second, third) = passage_record([twice, twice, invalid, passive])["masks"]
    assert (first["words"], len(first["responses"]), first["starts"]) == ("a", 2, (0,))
    assert (second["words"], second["fault"], second["starts"]) == ("z", "absent", ())
    assert (third["responses"], third["strategy"]) == ([], "random_span")


@pytest.mark.parametrize(
    ("url", "revision", "links"),
    [
        (
            "https://de.wikipedia.org/wiki/Donau",
            "12",
            ("https://de.wikipedia.org/wiki/Donau", "https://de.wikipedia.org/w/index.php?oldid=12"),
        ),
        ("https://de.wikipedia.org/wiki/Donau", "", ("https://de.wikipedia.org/wiki/Donau", "")),
        ("https://example.org/a", "12", ("https://example.org/a", "")),
        ("javascript:alert(1)", "12", ("", "")),
        ("", "12", ("", "")),
    ],
)
def test_links_lead_to_the_revision_where_it_is_known(url: str, revision: str, links: tuple[str, str]) -> None:
    sample = MaskSample("T", "a", "", None, "absent", 0.0, url=url, revision_id=revision)
    record = passage_record([sample])
    assert (record["url"], record["revision"]) == links


def test_a_question_is_shown_as_a_passage_with_its_reference(tmp_path: Path) -> None:
    answers = [
        {"response": r"\boxed{4}", "answer": "4", "right": True, "reward": 1.0, "error": None},
        {"response": "?", "answer": None, "right": False, "reward": -0.5, "error": None},
    ]
    question = {"iteration": 3, "id": "q7", "question": "2 + 2?", "reference": "4", "answers": answers}
    (tmp_path / "samples.jsonl").write_text(json.dumps(question) + "\n")
    kept = KeptSamples(tmp_path)
    assert [(each.title, each.outcomes, each.masks) for each in kept.passages] == [("q7", [0.5], [])]
    (mask,) = passage_record(kept.read(kept.passages[0]))["masks"]
    assert (mask["words"], mask["reward"], mask["kind"]) == ("4", 0.25, "")
    assert [each["answer"] for each in mask["predictions"]] == ["4", None]
