"""The state of an experiment on disk: changed settings, ended runs, and stable task numbers."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from megatron_pz.config.parse import load_yaml
from megatron_pz.evaluation.benchmarks.asking import ANSWERS_SCHEMA
from megatron_pz.evaluation.benchmarks.store import AnswerStore
from megatron_pz.experiment.design import Experiment
from megatron_pz.experiment.progress import Evaluations, describe, number_tasks, prepare, training_of
from megatron_pz.run.objective import Schedule
from megatron_pz.runtime.errors import BadInput
from tests.unit.experiment.conftest import checkpoint, evaluation
from tools import evaluate

Read = Callable[..., Experiment]


def test_a_cell_keeps_its_resolved_settings_and_refuses_others(read: Read) -> None:
    cell = read().cells[0]
    prepare(cell)
    prepare(cell)
    kept = load_yaml(cell.folder / "config.yaml")
    assert (kept.training.seed, kept.optimizer.lr, kept.training.save) == (1, 1e-4, str(cell.folder / "run"))
    changed = read(lr="2e-4").cells[0]
    prepare(changed)
    assert load_yaml(cell.folder / "config.yaml").optimizer.lr == 2e-4, "a run that refused its input has not begun"
    prepare(cell)
    checkpoint(cell, [4.0])
    with pytest.raises(BadInput, match=r"begun with other settings \(optimizer\.lr was 0\.0001 and is 0\.0002\)"):
        prepare(changed)
    assert load_yaml(cell.folder / "config.yaml") == kept
    for added in read(**{"[1, 2, 3]": "[1, 2, 3, 4]", "settings": "  new: {}\nsettings"}).cells:
        prepare(added)


def test_a_run_has_ended_when_its_checkpoint_has_the_budget(read: Read) -> None:
    one, two, three = read().cells[:3]
    assert training_of(one) is None
    checkpoint(one, [4.0, 8.0])
    checkpoint(two, [6.0, 12.0])
    begun, ended = training_of(one), training_of(two)
    assert begun is not None and (begun.iteration, begun.ended) == (2, False)
    assert ended is not None and (ended.iteration, ended.ended, ended.compute.flops) == (2, True, 12.0)
    assert not (one.folder / "trained.json").exists()
    shutil.rmtree(two.folder / "run" / "iter_0000002")
    assert training_of(two) == ended, "the record outlives the checkpoint"
    assert training_of(three) is None


@pytest.mark.parametrize("common", ["{}", '{"work": 1}', "[]"])
def test_a_checkpoint_of_something_else_is_one_line(read: Read, common: str) -> None:
    cell = read().cells[0]
    checkpoint(cell, [4.0])
    (cell.folder / "run/iter_0000001/run_state.json").write_text(f'{{"files": {{}}, "common": {common}}}')
    with pytest.raises(BadInput, match="iter_0000001: is not a checkpoint of a run"):
        training_of(cell)


def test_a_record_that_cannot_be_written_is_one_line(read: Read) -> None:
    cell = read().cells[0]
    checkpoint(cell, [12.0])
    (cell.folder / ".trained.incomplete.json").mkdir()
    with pytest.raises(BadInput, match=r"trained\.json: cannot be written"):
        training_of(cell)


@pytest.mark.parametrize(
    "content", ["", "[]", "null", '{"iteration": 3}', "[" * 100_000, '{"iteration": "x", "compute": {}, "ended": 3}']
)
def test_a_damaged_record_is_one_line(read: Read, content: str) -> None:
    (cell, *_) = read().cells
    cell.folder.mkdir(parents=True)
    (cell.folder / "trained.json").write_text(content)
    with pytest.raises(BadInput, match=r"trained\.json cannot be read \(.*\): delete it, and it is made") as refused:
        training_of(cell)
    assert "\n" not in str(refused.value)


def test_a_run_that_its_collapse_stopped_has_ended_and_says_why(read: Read) -> None:
    warned, stopped = read().cells[0], read(**{"lr: ": "stop_on_collapse: true, lr: "}).cells[1]
    checkpoint(warned, [1.0] * 6, idle=True)
    checkpoint(stopped, [1.0] * 6, idle=True)
    found = training_of(warned)
    assert found is not None and not found.ended, "a warning does not end a run"
    ended = training_of(stopped)
    assert ended is not None and ended.ended
    assert "predictor/groups_mixed" in ended.collapse


def test_metrics_beyond_the_checkpoint_do_not_count(read: Read) -> None:
    """A killed run has logged steps that it will repeat."""
    cell = read(**{"lr: ": "stop_on_collapse: true, lr: "}).cells[0]
    checkpoint(cell, [1.0])
    with (cell.folder / "run/metrics.jsonl").open("a") as file:
        file.write('{"iteration": 2, "health/collapse_signs": 1.0}\n')
    found = training_of(cell)
    assert found is not None and not found.ended


def test_what_is_left_is_said_in_words(read: Read) -> None:
    experiment = read()
    files = Evaluations(experiment, experiment.cells[0].folder.parents[2])

    def left(number: int) -> str:
        cell = experiment.cells[number]
        return describe(cell, training_of(cell), files.of(cell))

    checkpoint(experiment.cells[1], [4.0])
    checkpoint(experiment.cells[2], [10.0])
    checkpoint(experiment.cells[3], [10.0])
    files.of(experiment.cells[3]).touch()
    (experiment.cells[4].folder / "run").mkdir(parents=True)
    (experiment.cells[4].folder / "run/metrics.jsonl").touch()
    assert [left(number) for number in range(5)] == [
        *("not begun", "begun, at step 1", "trained, not evaluated", "", "begun, without a checkpoint"),
    ]


def test_other_evaluation_settings_are_other_files_and_other_paths_are_not(read: Read, tmp_path: Path) -> None:
    experiment = read()
    before = Evaluations(experiment, tmp_path / "out").key
    assert Evaluations(read(lr="2e-4"), tmp_path / "elsewhere").key == before
    assert Evaluations(read(**{"passages: 4": "passages: 5"}), tmp_path / "out").key != before
    flags = Evaluations(experiment, tmp_path / "out").flags()
    assert flags[:4] == ["--config", str(tmp_path / "out/common.yaml"), "--valid-data-path", "held_out"]
    assert flags[flags.index("--passages") + 1] == "4"
    assert load_yaml(tmp_path / "out/common.yaml").game == experiment.common.game


def test_benchmarks_are_asked_by_the_same_call_and_read_back(read: Read, tmp_path: Path) -> None:
    experiment = read(**{"measures:": "benchmarks: {names: [gsm8k], questions: 2}\nmeasures:"})
    files = Evaluations(experiment, tmp_path / "out")
    assert files.key != Evaluations(read(), tmp_path / "out").key
    results = tmp_path / f"out/benchmarks-{files.key}"
    flags = files.flags()
    assert flags[flags.index("--benchmarks") :] == [
        *("--benchmarks", "gsm8k", "--data", str(tmp_path / "benchmarks"), "--results", str(results)),
        *("--recipe", "general_reasoner", "--prompt-format", "recipe", "--questions", "2", "--max-tokens", "0"),
    ]
    evaluate.parse([*flags, "--hf-model", str(model(tmp_path)), "--name", experiment.cells[0].name])
    evaluation("m", [0.5]).save(files.start)
    rows = [{"benchmark": "gsm8k", "subject": "", "question": name, "correct": name == "b"} for name in ("a", "b")]
    (results / "start").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows, ANSWERS_SCHEMA), results / "start/gsm8k.parquet")
    AnswerStore(results / "start").claim("gsm8k", {"recipe": "general_reasoner"})
    start = files.measured(files.start, "start")
    assert (start.values("gsm8k"), start.facts) == ([0.0, 1.0], {"gsm8k": {"recipe": "general_reasoner"}})
    with pytest.raises(BadInput, match=r"gsm8k\.parquet: is missing"):
        files.measured(files.start, experiment.cells[0].name)


def model(folder: Path) -> Path:
    (folder / "config.json").touch()
    return folder


def test_a_cell_keeps_its_number_when_others_are_added(read: Read, tmp_path: Path) -> None:
    numbers = {cell.name: number for number, cell in number_tasks(read(), tmp_path / "out").items()}
    assert sorted(numbers.values()) == [1, 2, 3, 4, 5, 6]
    grown = number_tasks(read(**{"arms:\n": "arms:\n  first: {}\n"}), tmp_path / "out")
    assert {cell.name: number for number, cell in grown.items() if cell.arm != "first"} == numbers
    assert sorted(grown) == list(range(1, 10))
    for number, cell in grown.items():
        prepare(cell)
        assert (tmp_path / f"out/tasks/{number}").resolve() == cell.folder.resolve()


def test_the_budget_is_the_schedules() -> None:
    """The experiment uses the rule by which the loop ends a run."""
    from megatron_pz.experiment import progress

    assert progress.Schedule is Schedule
