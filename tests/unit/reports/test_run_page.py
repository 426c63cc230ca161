"""The page of runs: its content, its omissions, and the escaping of texts. tests/system opens it."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from megatron_pz.monitoring import metrics as metrics_module
from megatron_pz.reports.passage_texts import spread_order
from megatron_pz.reports.run_folder import RunFolder, names_of
from megatron_pz.reports.run_page import PAGE
from megatron_pz.roles.spans import InvalidMaskReason
from megatron_pz.runtime.errors import BadInput
from tests.support.report_page import blob, refused, unpack
from tests.support.report_runs import HOSTILE, write_hostile_run, write_run
from tools import report


def passages(page: Path, run: dict[str, Any]) -> list[dict[str, Any]]:
    texts, starts = blob(page, "texts"), run["kept"]["start"]
    return [unpack(texts[start:end]) for start, end in pairwise(starts)]


def test_the_page_of_a_run_holds_its_curves_and_its_passages(tmp_path: Path) -> None:
    run = write_run(tmp_path / "pz", steps=12)
    report.main([str(run)])
    page = run / "report.html"
    (described,) = unpack(blob(page, "data"))["runs"]
    assert (described["name"], described["planned"], described["steps"]) == ("pz", 22, list(range(1, 13)))
    assert len(described["metrics"]["predictor/accuracy"]) == 12
    assert described["metrics"]["held_out/once_accuracy"][:9] == [None] * 9
    shown = passages(page, described)
    assert len(shown) == described["kept"]["all"] == 24
    for record, outcomes in zip(shown, described["kept"]["outcomes"], strict=True):
        assert sum(max(1, len(mask["responses"])) for mask in record["masks"]) == len(outcomes)
        for mask in record["masks"]:
            assert all(record["text"][start:].startswith(mask["words"]) for start in mask["starts"])
    assert not list(run.glob(".*incomplete"))


def test_settings_that_json_cannot_hold_are_left_out_and_no_text_is_changed(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"iteration": 1}\n')
    (tmp_path / "config.yaml").write_text("training: {save: runs/Infinity-NaN, least: -.inf, none: .nan}\n")
    assert RunFolder.open(tmp_path, "run").settings == {
        "training.save": "runs/Infinity-NaN",
        "training.least": None,
        "training.none": None,
    }


def test_runs_are_compared_and_what_does_not_fit_is_left_out_evenly(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / name, steps=60, seed=seed) for seed, name in enumerate(("a", "b"))]
    page, limit = tmp_path / "two.html", 0.25
    report.main([*map(str, folders), "--output", str(page), "--max-mib", str(limit)])
    assert 0.9 * limit < page.stat().st_size / 2**20 <= limit
    for run in unpack(blob(page, "data"))["runs"]:
        kept = run["kept"]
        assert kept["all"] == 120 > len(kept["step"]) > 10
        assert {1, 60} <= set(kept["step"])
        gaps = [after - before for before, after in pairwise(kept["step"])]
        assert max(gaps) <= 60 / len(kept["step"]) * 3
        assert sum(map(sum, (row["n"] for row in run["difficulty"]["kinds"]))) > sum(map(len, kept["outcomes"]))


def test_no_text_breaks_out_of_the_page(tmp_path: Path) -> None:
    run = write_hostile_run(tmp_path / "hostile")
    report.main([str(run), "--name", "<b>&\"'"])
    page = run / "report.html"
    html = page.read_text(encoding="utf-8")
    assert html.count("</script>") == 3 and "taken" not in html and "<b>" not in html
    assert "<title>&lt;b&gt;&amp;&quot;&#x27;</title>" in html
    (described,) = unpack(blob(page, "data"))["runs"]
    for record, text in zip(passages(page, described), HOSTILE, strict=True):
        assert record["text"] == f"{text} Vienna {text}".replace("\ud800", "?")
        assert record["url"] == "", "javascript: is no web address"


def test_the_policy_allows_this_script_and_this_style_only(tmp_path: Path) -> None:
    run = write_run(tmp_path / "pz", steps=1)
    report.main([str(run)])
    html = (run / "report.html").read_text(encoding="utf-8")
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]+)"', html)
    parts = {"script-src": html.rpartition("<script>")[2], "style-src": html.partition("<style>")[2]}
    for name, rest in parts.items():
        text = re.split("</script>|</style>", rest)[0]
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{name} 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none';")
    assert not re.findall(r"https?://(?!www\.w3\.org/2000/svg)", html.replace("https://github.com/leeoniya/uPlot", ""))


def test_steps_are_taken_from_both_ends_and_then_from_the_gaps() -> None:
    assert list(spread_order([1, 2, 3, 4, 5])) == [4, 0, 2, 1, 3]
    assert list(spread_order([4, 4, 8])) == [2, 0, 1]
    assert sorted(spread_order([n // 3 for n in range(100)])) == list(range(100))
    assert list(spread_order([])) == []


def test_a_run_without_samples_has_a_page_and_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "pz", steps=3)
    (run / "samples.jsonl").unlink()
    report.main([str(run)])
    assert capsys.readouterr().err == f"{run} has no samples.jsonl: the page shows no masks of it\n"
    assert unpack(blob(run / "report.html", "data"))["runs"][0]["kept"]["step"] == []


def test_what_cannot_be_shown_is_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "pz", steps=2)
    other = write_run(tmp_path / "other", steps=2, corpus="dewiki_text_passage")
    assert "no metrics at" in refused(capsys, tmp_path)
    line = refused(capsys, run, other, "--output", tmp_path / "x.html")
    assert "pz is of the corpus wiki_text_passage, other of dewiki_text_passage" in line
    for name, place in (("a", "one"), ("b", "two")):  # two corpora of one name
        folder = write_run(tmp_path / place, steps=2)
        (tmp_path / name).mkdir()
        (tmp_path / name / "wiki.idx").write_text(name)
        (folder / "config.yaml").write_text(f"data: {{data_path: [{tmp_path / name / 'wiki'}]}}")
    line = refused(capsys, tmp_path / "one", tmp_path / "two", "--output", tmp_path / "x.html")
    assert "one is of the corpus wiki, two of others of the same names" in line
    for name, task in (("one", "gcd"), ("two", "lcm")):
        (tmp_path / name / "config.yaml").write_text(f"questions: {{reasoning_gym_tasks: [{task}]}}")
    line = refused(capsys, tmp_path / "one", tmp_path / "two", "--output", tmp_path / "x.html")
    assert "one is of the questions gcd, two of lcm" in line
    assert "metrics.jsonl is a file: give the --save directory" in refused(capsys, run / "metrics.jsonl")
    assert "named twice" in refused(capsys, run, run)
    assert "--name has 2 values for 1 runs" in refused(capsys, run, "--name", "a", "b")
    assert "give more" in refused(capsys, run, "--max-mib", 0.01)
    for limit in ("nan", "inf", "-1"):
        assert "must be above 0" in refused(capsys, run, "--max-mib", limit)
    assert "is a directory" in refused(capsys, run, "--output", tmp_path)
    assert "cannot write /proc/none/x.html" in refused(capsys, run, "--output", "/proc/none/x.html")
    assert "--watch needs" in refused(capsys, run, "--watch", 0)
    assert "give the directories of runs" in refused(capsys)
    for content in ("[" * 20_000, "? [1, 2]\n: 3", "a: &a [*a]"):
        (run / "config.yaml").write_text(content)
        assert "is not the configuration of a run" in refused(capsys, run)
    for file in ("metrics.jsonl", "samples.jsonl"):
        damaged = write_run(tmp_path / file, steps=2)
        (damaged / file).write_text("[" * 100_000 + "\n")
        assert file in refused(capsys, damaged)
    (run / "config.yaml").write_text("[")
    assert "is not the configuration of a run" in refused(capsys, run)


@pytest.mark.parametrize(
    ("file", "name", "value"),
    [
        *(("metrics.jsonl", "generator/reward", value) for value in ("high", [1], 10**400)),
        *(("metrics.jsonl", "iteration", value) for value in ("1", None, 1.5)),
        *(("samples.jsonl", "reward", value) for value in ("high", None, math.nan)),
        ("samples.jsonl", "iteration", "1"),
        ("samples.jsonl", "response", None),
        ("samples.jsonl", "url", 3),
        ("samples.jsonl", "predictions", [{"response": "", "answer": None, "right": "yes"}]),
    ],
)
def test_a_value_of_another_type_is_one_line(
    file: str, name: str, value: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "pz", steps=2)
    lines = [json.loads(line) | {name: value} for line in (run / file).read_text(encoding="utf-8").splitlines()]
    (run / file).write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    assert file in refused(capsys, run)


def test_a_difference_that_is_not_finite_is_shown_as_unknown(tmp_path: Path) -> None:
    run = write_run(tmp_path / "pz", steps=1, passages=1, masks=1)
    lines = [json.loads(line) for line in (run / "samples.jsonl").read_text(encoding="utf-8").splitlines()]
    for line in lines:
        line["log_prob_difference"] = math.nan
        for prediction in line["predictions"]:
            prediction["log_prob_difference"] = math.inf
    (run / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    report.main([str(run)])
    (described,) = unpack(blob(run / "report.html", "data"))["runs"]
    (record,) = passages(run / "report.html", described)
    assert {each["difference"] for mask in record["masks"] for each in mask["responses"]} == {None}


def test_a_watched_page_follows_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, slept = write_run(tmp_path / "pz", steps=2), []

    def sleep(seconds: float) -> None:
        slept.append((seconds, len(unpack(blob(run / "report.html", "data"))["runs"][0]["steps"])))
        write_run(run, steps=2 + len(slept))
        if len(slept) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(report.time, "sleep", sleep)
    with pytest.raises(SystemExit) as stop:
        report.main([str(run), "--watch", "7"])
    assert stop.value.code == 130
    assert slept == [(7.0, 2), (7.0, 3), (7.0, 4)]


def test_runs_are_named_by_as_much_of_their_folders_as_tells_them_apart() -> None:
    assert names_of([Path("/x/pz"), Path("/y/random")]) == ["pz", "random"]
    assert names_of([Path("/x/a/run"), Path("/x/b/run")]) == ["a/run", "b/run"]
    assert names_of([Path("/x/quickstart/run")]) == ["quickstart/run"]
    with pytest.raises(BadInput, match="twice"):
        names_of([Path("/x"), Path("/x/.")])


def test_every_metric_that_is_documented_has_a_panel() -> None:
    """The table in monitoring/metrics.py agrees with panels.json."""
    panels = [
        panel for section in json.loads((PAGE / "panels.json").read_text()) for row in section["rows"] for panel in row
    ]
    shown = {line["metric"] for panel in panels for line in panel["lines"]}
    prefixes = tuple(panel["prefix"] for panel in panels if "prefix" in panel)
    section, documented = "", set()
    for line in (metrics_module.__doc__ or "").splitlines():
        if head := re.match(r"(?:``(\w+)``|((?:both|all) roles)) ", line):
            section = head[1] or head[2]
        quantities = re.findall(r"``(\w+)``", re.sub(r"^``\w+``", "", line))
        for role in ("generator", "predictor") if section.endswith(" roles") else (section,):
            documented |= {f"{role}/{quantity}" for quantity in quantities if role}
    assert len(documented) > 50
    left_out = {"train/sampling_rounds"}
    missing = {name for name in documented if name not in shown and not name.startswith(prefixes)} - left_out
    assert {name for name in missing if not name.startswith(("held_out/", "time/", "memory/"))} == set()
    assert all(panel["hint"] for panel in panels)


def test_every_reason_against_a_mask_has_words() -> None:
    wording = json.loads((PAGE / "wording.json").read_text())
    assert set(wording["faults"]) == {fault.value for fault in InvalidMaskReason} - {"ok"}
