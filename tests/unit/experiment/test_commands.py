"""The commands of an experiment: their environment, signals and failures, and the requests to Slurm."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from megatron_pz.experiment.commands import Children, Interrupted, environment, run_cells, submit
from megatron_pz.experiment.design import Experiment
from megatron_pz.experiment.progress import Evaluations
from megatron_pz.runtime.errors import BadInput
from tests.unit.experiment.conftest import checkpoint, evaluation
from tools import run_experiment

Read = Callable[..., Experiment]

LAUNCH = r"""
# Stands for bash slurm/launch.sh: notes its flags; as training it ends with the code of CODES for its folder, and as
# evaluation it writes what it was given to write.
import os, sys
from pathlib import Path
words = sys.argv[1:]
module = os.environ.get("MODULE", "megatron_pz.train")
with open(os.environ["NOTES"], "a") as notes:
    notes.write(module + " " + repr(words) + "\n")
if module == "tools.evaluate":
    for file in words[words.index("--output") + 1 :]:
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        Path(file).write_bytes(Path(os.environ["RESULT"]).read_bytes())
else:
    run = Path(words[words.index("--save") + 1])
    code = dict(each.split("=") for each in os.environ["CODES"].split()).get(run.parts[-3] + "/" + run.parts[-2], "0")
    print("error: the reason" if code not in ("0", "137") else "trained")
    if code == "0":
        for folder in ("iter_0000001",):
            (run / folder).mkdir(parents=True)
            (run / folder / "run_state.json").write_text('{"files": {}, "common": {"work": {"flops": 10.0}}}')
        (run / "latest_checkpointed_iteration.txt").write_text("1")
        (run / "metrics.jsonl").write_text('{"iteration": 1, "compute/flops": 10.0}\n')
    sys.exit(int(code))
"""


@pytest.fixture
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the file in which imitations of bash and Python record their commands."""
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "launch.py").write_text(LAUNCH)
    bash = programs / "bash"
    bash.write_text(f'#!/bin/sh\nshift\nexec {sys.executable} -IS {programs / "launch.py"} "$@"\n')
    python = programs / "python"  # tools/convert_checkpoint.py makes the model's folder
    python.write_text('#!/bin/sh\necho "convert $*" >>"$NOTES"\nfor last; do :; done\nmkdir -p "$last"\n')
    for program in (bash, python):
        program.chmod(0o755)
    evaluation("any", [0.5]).save(tmp_path / "result.json")
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("NOTES", str(tmp_path / "notes"))
    monkeypatch.setenv("RESULT", str(tmp_path / "result.json"))
    monkeypatch.setenv("CODES", "")
    (tmp_path / "notes").touch()
    return tmp_path / "notes"


def test_cells_are_trained_exported_and_evaluated_seed_by_seed(read: Read, notes: Path, tmp_path: Path) -> None:
    experiment = read()
    assert run_cells(experiment, tmp_path / "out") == []
    said = [line.split()[0] for line in notes.read_text().splitlines()]
    assert said == ["megatron_pz.train", "megatron_pz.train", "convert", "convert", "tools.evaluate"] * 3
    evaluations = [line for line in notes.read_text().splitlines() if line.startswith("tools.evaluate")]
    assert "'--name', 'start', 'active, seed 1', 'random spans, seed 1'" in evaluations[0]
    assert "'--name', 'active, seed 2', 'random spans, seed 2'" in evaluations[1], "the start only once"
    assert not list((tmp_path / "out").rglob("model")), "exported models go once they are evaluated"
    notes.write_text("")
    assert run_cells(experiment, tmp_path / "out") == []
    assert notes.read_text() == "", "what is done is not done again"


def test_a_failed_cell_is_named_and_the_others_go_on(
    read: Read, notes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CODES", "active/seed-2=1")
    experiment = read()
    (failure,) = run_cells(experiment, tmp_path / "out")
    log = tmp_path / "out/cells/active/seed-2/log.txt"
    assert failure == f"active, seed 2: training ended with code 1 (the reason): {log}"
    files = Evaluations(experiment, tmp_path / "out")
    assert [files.of(cell).is_file() for cell in experiment.cells] == [True, True, False, True, True, True]


def test_a_failure_is_not_explained_by_an_earlier_command(
    read: Read, notes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = read()
    monkeypatch.setenv("CODES", "active/seed-2=1")
    run_cells(experiment, tmp_path / "out")
    monkeypatch.setenv("CODES", "active/seed-2=137")
    (failure,) = run_cells(experiment, tmp_path / "out")
    assert "training ended with code 137 (no reason given)" in failure


def test_bad_input_of_a_cell_ends_the_experiment(
    read: Read, notes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CODES", "random_spans/seed-1=2")
    with pytest.raises(BadInput, match=r"random spans, seed 1: training ended with code 2 \(the reason\)"):
        run_cells(read(), tmp_path / "out")
    assert len(notes.read_text().splitlines()) == 2


@pytest.mark.parametrize(
    ("benchmarks", "words"),
    [
        ("{names: [gsm9k]}", "no benchmark 'gsm9k'"),
        ("{names: [gsm8k], recipe: author}", "no recipe 'author'"),
        ("{names: [gsm8k]}", "benchmarks/gsm8k: no folder with the files of gsm8k"),
    ],
)
def test_benchmarks_that_cannot_be_asked_are_refused_before_any_training(
    benchmarks: str, words: str, read: Read, notes: Path, tmp_path: Path
) -> None:
    experiment = read(**{"measures:": f"benchmarks: {benchmarks}\nmeasures:"})
    with pytest.raises(BadInput, match=words):
        run_cells(experiment, tmp_path / "out")
    assert notes.read_text() == ""


def test_without_training_only_what_is_trained_is_evaluated(read: Read, notes: Path, tmp_path: Path) -> None:
    experiment = read()
    checkpoint(experiment.cells[3], [10.0])
    checkpoint(experiment.cells[4], [4.0])
    assert run_cells(experiment, tmp_path / "out", train=False) == []
    lines = notes.read_text().splitlines()
    assert [line.split()[0] for line in lines] == ["tools.evaluate", "convert", "tools.evaluate"]
    assert "'--name', 'random spans, seed 2'" in lines[-1]


def test_a_command_knows_nothing_of_the_job_that_the_experiment_runs_in(monkeypatch: pytest.MonkeyPatch) -> None:
    job = {"SLURM_JOB_ID": "7", "RANK": "0", "MASTER_ADDR": "node", "MODULE": "tools.run_experiment", "LOCAL_RANK": "0"}
    for name, value in {**job, "NPROC_PER_NODE": "4", "SLURM_GPUS_ON_NODE": "8"}.items():
        monkeypatch.setenv(name, value)
    found = environment()
    assert not job.keys() & found.keys()
    assert (found["NPROC_PER_NODE"], found["SLURM_GPUS_ON_NODE"], found["ACTIVATE"]) == ("4", "8", "none")
    monkeypatch.setenv("MEGATRON_PZ_LAUNCHER", "123")
    assert "NPROC_PER_NODE" not in environment(), "slurm/experiment.sh means one process of its own"


def test_a_signal_is_passed_on_and_ends_the_experiment_after_its_command(tmp_path: Path) -> None:
    """The command catches SIGTERM and saves, as a run does. No further command is started."""
    ready, saved = tmp_path / "ready", tmp_path / "saved"
    command = ["sh", "-c", f"trap 'touch {saved}; exit 3' TERM; touch {ready}; while :; do sleep 0.05; done"]

    def interrupt() -> None:
        while not ready.exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    with Children() as children:
        threading.Thread(target=interrupt).start()
        with pytest.raises(Interrupted):
            children.run(tmp_path / "log.txt", command)
        assert saved.exists()
        with pytest.raises(Interrupted):
            children.run(tmp_path / "log.txt", ["touch", str(tmp_path / "never")])
    assert not (tmp_path / "never").exists()
    assert Interrupted.exit_code == 3


def test_a_signal_while_a_command_is_started_reaches_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The signal arrives before the call that starts the command has returned."""
    saved, start = tmp_path / "saved", subprocess.Popen

    def signalled(*words: Any, **options: Any) -> subprocess.Popen[bytes]:
        child = start(*words, **options)
        while not (tmp_path / "ready").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)
        return child

    monkeypatch.setattr(subprocess, "Popen", signalled)
    loop = "for i in 1 2 3 4 5 6 7 8 9 10; do sleep 0.05; done"
    command = ["sh", "-c", f"trap 'touch {saved}; exit 3' TERM; touch {tmp_path / 'ready'}; {loop}"]
    with Children() as children, pytest.raises(Interrupted):
        children.run(tmp_path / "log.txt", command)
    assert saved.exists()


def test_a_folder_that_cannot_be_written_is_one_line(read: Read, notes: Path, tmp_path: Path) -> None:
    experiment = read()
    experiment.cells[0].folder.parent.mkdir(parents=True)
    experiment.cells[0].folder.touch()
    with pytest.raises(BadInput, match=r"cells/active/seed-1: cannot be written \(File exists\)"):
        run_cells(experiment, tmp_path / "out")
    (tmp_path / "file").touch()
    with pytest.raises(BadInput, match=r"--output .*file/out: cannot be written"):
        run_cells(experiment, tmp_path / "file/out")


def test_two_calls_do_not_share_a_folder(read: Read, notes: Path, tmp_path: Path) -> None:
    import fcntl

    (tmp_path / "out").mkdir()
    with (tmp_path / "out/.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(BadInput, match="in use by a call that is still alive"):
            run_cells(read(), tmp_path / "out")


def test_slurm_gets_an_array_of_what_is_left_and_a_job_behind_it(
    read: Read, notes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sbatch = tmp_path / "programs/sbatch"
    sbatch.write_text('#!/bin/sh\necho "$*" >>"$NOTES"\necho "70$(wc -l <"$NOTES");cluster"\n')
    sbatch.chmod(0o755)
    experiment, out = read(), tmp_path / "out"
    checkpoint(experiment.cells[1], [10.0])
    submit(experiment, out, "slurm/pz_qwen3_4b.sh", ["--nodes=1"], ["experiment.yaml", "--no-training"])
    array, comparison = notes.read_text().splitlines()
    assert array == (
        f"--parsable --array=1,3,4,5,6 --output={out}/%x-%A_%a.out --nodes=1 slurm/pz_qwen3_4b.sh "
        f"--config {out}/tasks/{{task}}/config.yaml --save {out}/tasks/{{task}}/run"
    )
    assert comparison == (
        f"--parsable --dependency=afterany:701 --output={out}/%x-%j.out slurm/experiment.sh experiment.yaml "
        "--no-training"
    )
    assert "5 of 6 cells: job array 701" in capsys.readouterr().out
    assert (out / "tasks/3/config.yaml").is_file()
    with pytest.raises(BadInput, match=r"--sbatch slurm/none\.sh: no such file"):
        submit(experiment, out, "slurm/none.sh", [], [])


def test_flags_of_sbatch_are_words_as_in_a_shell() -> None:
    command = ["experiment.yaml", "--output", "out", "--sbatch", "slurm/pz_qwen3_4b.sh"]
    flags = run_experiment.parse([*command, "--sbatch-flags=--comment='two words'"])
    assert flags.sbatch_flags == ["--comment=two words"]
    with pytest.raises(BadInput, match="--sbatch-flags --comment='two: No closing quotation"):
        run_experiment.parse([*command, "--sbatch-flags=--comment='two"])


def test_an_array_task_trains_its_cell(read: Read, tmp_path: Path) -> None:
    """This checks the settings that slurm/launch.sh resolves for task 4 of such an array."""
    from megatron_pz.cluster.job_settings import resolve
    from megatron_pz.experiment.progress import number_tasks, prepare

    experiment, out = read(), tmp_path / "out"
    for cell in experiment.cells:
        prepare(cell)
    number_tasks(experiment, out)
    job = {"CONFIG": "examples/qwen3_4b/config.yaml", "SLURM_ARRAY_TASK_ID": "4", "SLURM_ARRAY_TASK_COUNT": "6"}
    flags = ["--config", f"{out}/tasks/{{task}}/config.yaml", "--save", f"{out}/tasks/{{task}}/run"]
    settings = resolve(job, flags)
    assert (settings.config.training.seed, settings.config.game.mask_strategy) == (2, "random_span")
    assert Path(settings.save).parent.resolve() == experiment.cells[3].folder
