"""The command lines around an evaluation: their output, and refusals in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from megatron_pz.evaluation.results import Evaluation, EvaluationSettings, MaskPredictions, OwnMask, PassageResult
from megatron_pz.monitoring.metrics import StepMetrics
from megatron_pz.runtime.errors import BadInput
from tests.support.benchmark_files import write_gsm8k
from tools import evaluate, report

SETTINGS = EvaluationSettings(max_prompt_length=100, max_response_length=10)


def saved(folder: Path, name: str, accuracy: float, passages: int = 8) -> str:
    """Return an evaluation with about this accuracy on repeated words, in which half of the masks are valid."""
    results = []
    for number in range(passages):
        predictions = MaskPredictions("span", 0.5, 1.0, 4.0) if number % 2 else None
        own = OwnMask("ok" if predictions else "absent", predictions, 0.25, False, False, 5, 1.0)
        repeated = MaskPredictions("word", accuracy + number / 100, 1.0, 4.0)
        results.append(PassageResult(f"passage {number}", (own,), repeated, None))
    path = folder / f"{name}.json"
    Evaluation(name, SETTINGS, tuple(results)).save(path)
    return str(path)


def one_line_of(capsys: pytest.CaptureFixture[str], stop: pytest.ExceptionInfo[SystemExit]) -> str:
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_benchmarks_that_name_no_set_are_refused(tmp_path: Path) -> None:
    flags = ["--hf-model", str(tmp_path), "--benchmarks", ", ", "--data", str(tmp_path), "--results", str(tmp_path)]
    with pytest.raises(BadInput, match="--benchmarks ', ': names no set"):
        evaluate.parse(flags)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "results.txt", "comparisons.json"])
def test_a_name_that_cannot_be_a_directory_of_the_results_is_refused(name: str, tmp_path: Path) -> None:
    flags = ["--hf-model", str(tmp_path), "--benchmarks", "gsm8k", "--data", str(tmp_path), "--results", str(tmp_path)]
    with pytest.raises(BadInput, match="--name"):
        evaluate.parse([*flags, "--name", name])


def test_a_context_without_room_for_any_prompt_is_refused(
    tiny_llama_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_gsm8k(tmp_path)
    flags = [
        "--hf-model",
        tiny_llama_dir,
        "--benchmarks",
        "gsm8k",
        "--data",
        tmp_path,
        "--results",
        tmp_path / "results",
    ]
    flags += ["--prompt-format", "plain", "--precision", "fp32", "--context", "2"]
    with pytest.raises(SystemExit) as stop:
        evaluate.main([str(flag) for flag in flags])
    assert "--benchmarks gsm8k: no prompt is shorter than the context of 2 tokens" in one_line_of(capsys, stop)


def test_an_evaluation_without_passages_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"none\.json holds no passage"):
        Evaluation.load(Path(saved(tmp_path, "none", 0.1, passages=0)))


def test_the_report_says_what_moved(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [saved(tmp_path, "before", 0.1), saved(tmp_path, "after", 0.4)]
    run = tmp_path / "run"
    run.mkdir()
    (run / "metrics.jsonl").write_text(StepMetrics(1, {"generator/reward": 0.5}).to_json() + "\n")
    report.main(["--evaluations", *files, "--run", str(run), "--output", str(tmp_path / "out")])
    printed = capsys.readouterr().out
    assert (tmp_path / "out" / "results.txt").read_text() == printed
    verdicts = {
        line.split("  ")[1]: line.split()[-3:] for line in printed.splitlines() if line.endswith("its interval")
    }
    assert verdicts["predictor: fixed repeated words"] == ["beyond", "its", "interval"]
    assert verdicts["valid masks"] == ["within", "its", "interval"]
    for picture in ("evaluation.png", "curves.png"):
        assert (tmp_path / "out" / picture).read_bytes().startswith(b"\x89PNG")


def test_evaluations_of_other_passages_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [saved(tmp_path, "before", 0.1), saved(tmp_path, "after", 0.4, passages=7)]
    with pytest.raises(SystemExit) as stop:
        report.main(["--evaluations", *files, "--output", str(tmp_path / "out")])
    assert "same passages" in one_line_of(capsys, stop)
    assert not (tmp_path / "out").exists()


def test_a_run_that_is_not_there_is_told_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        report.main(
            ["--evaluations", saved(tmp_path, "a", 0.1), "--run", "/nowhere", "--output", str(tmp_path / "out")]
        )
    assert "no metrics at /nowhere" in one_line_of(capsys, stop)
    assert not (tmp_path / "out").exists()


def test_evaluations_of_one_name_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = saved(tmp_path, "model", 0.1)
    with pytest.raises(SystemExit) as stop:
        report.main(["--evaluations", file, file, "--output", str(tmp_path / "out")])
    assert "--name" in one_line_of(capsys, stop)


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (["--hf-model", "{model}"], "--valid-data-path"),
        (["--hf-model", "{model}/absent", "--valid-data-path", "p"], "no config.json"),
        (["--hf-model", "{model}", "{model}", "--valid-data-path", "p"], "not all different"),
        (["--hf-model", "{model}", "--name", "a", "b", "--valid-data-path", "p"], "--name has 2 values, --hf-model 1"),
        (["--hf-model", "{model}", "--valid-data-path", "p", "--bogus"], "--bogus"),
        (["--hf-model", "{model}", "--benchmarks", "gsm8k"], "--benchmarks needs --data"),
        (["--hf-model", "{model}", "--benchmarks", "gsm8k", "--data", "d"], "--benchmarks needs --results"),
        (
            ["--hf-model", "{model}", "--name", "a/b", *"--benchmarks gsm8k --data d --results r".split()],
            "--name a/b: a model's results get a directory of this name",
        ),
        (["--hf-model", "{model}", *"--benchmarks gsm8k --data d --results r --questions -1".split()], "at least 0"),
        (["--hf-model", "{model}", "--valid-data-path", "p", "--passages", "0"], "--passages 0: must be at least 1"),
        (["--hf-model", "{model}", "--valid-data-path", "p", "--output", "{model}"], "is a directory"),
        (
            ["--hf-model", "{model}", "--valid-data-path", "p", "--output", "/proc/a/b.json"],
            "the directory cannot be made",
        ),
        (
            ["--hf-model", "{model}", "{model}/.", "--name", "a", "b", "--valid-data-path", "p", "--output", "c", "c"],
            "give every model a file of its own",
        ),
    ],
)
def test_evaluate_refuses_flags_before_it_starts_anything(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], complaint: str
) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(SystemExit) as stop:
        evaluate.main(["--config", "none.yaml", *(flag.format(model=tmp_path) for flag in flags)])
    assert complaint in one_line_of(capsys, stop)
