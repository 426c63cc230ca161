"""The run's log: its files after a run, a crash and a resume, and the console output."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import tracemalloc
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from megatron_pz.monitoring.console import Console, iteration_line
from megatron_pz.monitoring.launches import read_launches
from megatron_pz.monitoring.metrics import IterationLog, StepMetrics, read_metrics
from megatron_pz.monitoring.run_logger import RunLogger
from megatron_pz.monitoring.samples import MaskSample, PredictionSample, write_page
from megatron_pz.monitoring.sinks import WandbSink
from megatron_pz.runtime.errors import BadInput

SAMPLE = MaskSample(
    title="Danube",
    passage="The Danube is long.\nThe Danube is wide.",
    response=" is the \\mask{Danube}",
    span="Danube",
    fault="",
    reward=0.5,
    masked_passage="The [mask] is long.\nThe Danube is wide.",
    predictions=(PredictionSample("\\boxed{Danube}", "Danube", True), PredictionSample("`so`", None, False)),
)


def rewards_on_disk(folder: Path) -> list[tuple[int, float]]:
    return [(step.iteration, step.values["generator/reward"]) for step in read_metrics(folder)]


def run_steps(folder: Path, steps: range, offset: float, resume_iteration: int = 0) -> None:
    logger = RunLogger(folder, 9, resume_iteration=resume_iteration)
    for step in steps:
        logger.log(step, {"generator/reward": step + offset, "predictor/accuracy": math.nan})
        logger.samples(step, [SAMPLE])
    logger.close()


def test_every_step_is_on_disk_before_the_next(tmp_path: Path) -> None:
    logger = RunLogger(tmp_path, 2)
    logger.log(1, {"generator/reward": 0.25})
    assert rewards_on_disk(tmp_path) == [(1, 0.25)]
    logger.close()


def test_resume_cuts_off_what_is_repeated(tmp_path: Path) -> None:
    run_steps(tmp_path, range(1, 6), offset=0.0)
    run_steps(tmp_path, range(4, 7), offset=0.5, resume_iteration=3)
    assert rewards_on_disk(tmp_path) == [(1, 1.0), (2, 2.0), (3, 3.0), (4, 4.5), (5, 5.5), (6, 6.5)]
    samples = [json.loads(line)["iteration"] for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    assert samples == [1, 2, 3, 4, 5, 6]
    assert len(list((tmp_path / "samples").glob("*.md"))) == 6


def test_resume_hides_the_repeated_steps_from_tensorboard(tmp_path: Path) -> None:
    run_steps(tmp_path, range(1, 6), offset=0.0)
    run_steps(tmp_path, range(4, 6), offset=0.5, resume_iteration=3)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    points = [(event.step, event.value) for event in events.Scalars("generator/reward")]
    assert points == [(1, 1.0), (2, 2.0), (3, 3.0), (4, 4.5), (5, 5.5)]
    assert "predictor/accuracy" not in events.Tags()["scalars"]  # NaN throughout


def test_resume_removes_pages_of_steps_that_are_not_reached_again(tmp_path: Path) -> None:
    run_steps(tmp_path, range(1, 4), offset=0.0)
    RunLogger(tmp_path, 9, resume_iteration=1).close()
    assert [page.name for page in (tmp_path / "samples").glob("*.md")] == ["iter_0000001.md"]


def test_a_half_written_last_line_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"iteration": 1, "a/b": 1.0}\n{"iteration": 2, "a/b"')
    assert [step.iteration for step in read_metrics(path)] == [1]
    log = IterationLog(path, resume_iteration=7)
    log.append(StepMetrics(2, {"a/b": 2.0}).to_json())
    log.close()
    assert [step.values for step in read_metrics(path)] == [{"a/b": 1.0}, {"a/b": 2.0}]


def test_a_resumed_file_is_cut_where_it_is(tmp_path: Path) -> None:
    """The samples of thousands of steps are gigabytes, so they are neither held in memory nor rewritten."""
    path = tmp_path / "samples.jsonl"
    line = json.dumps({"iteration": 1, "response": "x" * 10_000}) + "\n"
    path.write_text(line * 2000 + line.replace("1", "2", 1) * 3)
    file = path.stat().st_ino
    tracemalloc.start()
    IterationLog(path, resume_iteration=1).close()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert path.read_text() == line * 2000
    assert path.stat().st_ino == file
    assert peak < 1_000_000


@pytest.mark.parametrize("content", [b"my notes\nand more\n", b"\x80\xff\n"])
def test_a_foreign_file_is_refused_and_left_alone(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(content)
    with pytest.raises(BadInput, match=r"metrics\.jsonl"):
        IterationLog(path, resume_iteration=3)
    with pytest.raises(BadInput, match=r"metrics\.jsonl"):
        read_metrics(path)
    assert path.read_bytes() == content


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85", "\x0c", "\x1e", "\r", "\r\n"])
def test_a_response_with_any_line_separator_can_be_resumed_over(separator: str, tmp_path: Path) -> None:
    response = f"one{separator}two \\mask{{Danube}}"
    for resume_iteration in (0, 1):
        logger = RunLogger(tmp_path, 9, resume_iteration=resume_iteration)
        logger.samples(resume_iteration + 1, [dataclasses.replace(SAMPLE, response=response)])
        logger.close()
    with (tmp_path / "samples.jsonl").open(encoding="utf-8", newline="\n") as file:
        assert [json.loads(line)["response"] for line in file] == [response] * 2


def test_nan_and_infinity_make_valid_json(tmp_path: Path) -> None:
    line = StepMetrics(3, {"a/b": math.nan, "c/d": math.inf, "e/f": 0.1}).to_json()
    strict = json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert strict == {"iteration": 3, "a/b": None, "c/d": None, "e/f": 0.1}
    assert math.isnan(StepMetrics.from_json(line).values["a/b"])


@pytest.mark.parametrize("line", ["[1]", "1", "null", '"text"', "{}"])
def test_metrics_that_are_no_objects_are_one_line(line: str, tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text(line + "\n")
    with pytest.raises(BadInput, match=r"metrics\.jsonl is not a metrics file"):
        read_metrics(tmp_path)


@pytest.mark.parametrize("content", [b"\x80\xff\n", b"[1]\n", b"{}\n", b"1\n"])
def test_starts_that_are_not_ours_are_one_line(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "launches.jsonl").write_bytes(content)
    with pytest.raises(BadInput, match=r"launches\.jsonl holds a line that this program did not write"):
        read_launches(tmp_path)


def test_only_rank_zero_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logger = RunLogger(tmp_path / "run", 2, rank=1)
    logger.log(1, {"generator/reward": 0.5})
    logger.samples(1, [SAMPLE])
    logger.close()
    assert not (tmp_path / "run").exists()
    assert capsys.readouterr().out == ""


def test_wandb_that_is_not_installed_is_bad_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "wandb", None)
    with pytest.raises(BadInput, match="wandb"):
        RunLogger(tmp_path, 2, wandb_project="pretrain-zero")


def test_an_unwritable_folder_is_bad_input(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="--save"):
        RunLogger(tmp_path / "file", 2)


def test_the_iteration_line_is_megatrons() -> None:
    """The fields up to the gradient norm equal the output of Megatron-LM's training_log for these values."""
    metrics = {
        "train/grad_norm": 1.23456,
        "train/lr": 4e-5,
        "train/consumed_passages": 24.0,
        "train/responses": 168.0,
        "time/iteration": 12.3456,
        "predictor/accuracy": math.nan,
        "generator/reward": 0.1125,
        "time/rollout": 6.0,
    }
    line = iteration_line(3, 30, metrics, datetime(2026, 11, 22, 9, 5, 7))
    assert line == (
        " [2026-11-22 09:05:07] iteration        3/      30 | consumed samples:           24 |"
        " elapsed time per iteration (ms): 12345.6 | learning rate: 4.000000E-05 | global batch size:   168 |"
        " grad norm: 1.235 | generator reward: 0.113 | predictor accuracy: - |"
    )


def test_console_prints_a_line_each_and_no_bar_into_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    out = io.StringIO()
    console = Console(2, 0, out)
    console.show(1, {"train/lr": 1.0})
    console.show(2, {"train/lr": 1.0})
    console.close()
    assert [line.split("|")[0].split()[-1] for line in out.getvalue().splitlines()] == ["2", "2"]
    assert capsys.readouterr().err == ""


def test_the_page_shows_equal_masks_once_and_counts_the_responses_that_name_them(tmp_path: Path) -> None:
    alike = dataclasses.replace(SAMPLE, response="\\mask{Danube}")
    other = dataclasses.replace(SAMPLE, predictions=())
    write_page(tmp_path / "page.md", 1, [SAMPLE, alike, SAMPLE, other])
    page = (tmp_path / "page.md").read_text()
    assert page.count("### `Danube`") == 2, "predictions of its own make it another"
    assert page.count("\\boxed{Danube}") == 1
    assert "generator, 2 times: `is the \\mask{Danube}`\n\ngenerator: `\\mask{Danube}`\n" in page


def test_the_page_shows_a_passage_once_with_all_its_masks(tmp_path: Path) -> None:
    failed = MaskSample(SAMPLE.title, SAMPLE.passage, "no idea", None, "no_command", -0.2)
    logger = RunLogger(tmp_path, 9)
    logger.samples(4, [SAMPLE, failed])
    logger.close()
    page = (tmp_path / "samples" / "iter_0000004.md").read_text()
    assert page.count("> The Danube is long.\n> The Danube is wide.") == 1
    assert "### `Danube` — reward +0.500, 1 of 2 predictions right" in page
    assert "> The [mask] is long." in page
    assert "- **right** `\\boxed{Danube}`" in page
    assert "- wrong `` `so` ``" in page
    assert "### no valid mask (no_command) — reward -0.200" in page


def test_a_wandb_run_keeps_an_id_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs in directories of equal name stay separate; a resumed run, also an old one, continues its own run."""
    started: list[dict[str, str]] = []
    wandb = SimpleNamespace(init=lambda **settings: started.append(settings))
    monkeypatch.setitem(__import__("sys").modules, "wandb", wandb)
    for person, resume_iteration in (("a", 0), ("a", 7), ("b", 0), ("old", 7)):
        folder = tmp_path / person / "run"
        folder.mkdir(parents=True, exist_ok=True)
        WandbSink("project", folder, resume_iteration)
    ids = [settings["id"] for settings in started]
    assert ids[0] == ids[1] != ids[2]
    assert "run" not in ids[:3] and ids[3] == "run"
    assert {settings["name"] for settings in started} == {"run"}
