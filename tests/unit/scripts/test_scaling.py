"""slurm/scaling.sh: its submissions, runs and refusals. tests/system/ runs it with the real trainer."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]

# Replaces sbatch, and the interpreter of a recipe: records its arguments and the number of processes.
NOTING = """
import os, sys
with open(os.environ["NOTES"], "a") as notes:
    notes.write(os.environ.get("NPROC_PER_NODE", "-") + " " + repr(sys.argv[1:]) + "\\n")
if sys.argv[0].endswith("sbatch"):
    with open(os.environ["NOTES"]) as notes:
        print(700 + len(notes.readlines()), "cluster", sep=";")
"""


class Machine:
    """Runs the script with the recording program as sbatch and as recipe, and returns its records."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.notes = folder, folder / "notes"
        self.notes.touch()
        program = folder / "sbatch"
        program.write_text(f"#!{sys.executable}\n{NOTING}")
        program.chmod(0o755)
        self.recipe = folder / "recipe.sh"
        self.recipe.write_text(f'exec {program} "$@"\n')
        kept = {name: value for name, value in os.environ.items() if name != "NPROC_PER_NODE"}
        self.env = kept | {"PATH": f"{folder}:{os.environ['PATH']}", "NOTES": str(self.notes), "PYTHON": "true"}

    def run(self, *flags: str, **variables: str) -> tuple[int, str]:
        done = subprocess.run(
            ["bash", ROOT / "slurm/scaling.sh", *flags],
            env=self.env | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
            check=False,
        )
        return done.returncode, done.stdout

    def noted(self) -> list[str]:
        return self.notes.read_text().splitlines()


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_a_job_is_submitted_for_every_number_of_nodes(machine: Machine) -> None:
    study = machine.folder / "study"
    flags = ["--nodes", "1,4", "--output", str(study), "--passages-each", "16", "--sbatch-flags", "--partition=gpu"]
    code, output = machine.run(*flags, "--", "--micro-batch-tokens", "8192")
    assert code == 0, output
    *submitted, last = machine.noted()
    for nodes, noted in zip((1, 4), submitted, strict=True):
        sbatch = ["--parsable", f"--job-name=scaling-{nodes}", f"--nodes={nodes}", "--time=1:00:00", "--no-requeue"]
        sbatch += [f"--output={study}/{nodes}.log", "--partition=gpu"]
        run = ["--save", f"{study}/{nodes}", "--save-interval", "0", "--train-iters", "6"]
        more = ["--passages-per-step", str(16 * nodes), "--micro-batch-tokens", "8192"]
        assert noted == f"- {[*sbatch, 'slurm/pz_qwen3_4b.sh', *run, *more]}"
    report = ["--dependency=afterany:701:702", "--job-name=scaling-report", f"--output={study}/report.log"]
    report += ["--partition=gpu", "slurm/report_scaling.sh", f"{study}/1", f"{study}/4", "--output", str(study)]
    assert last == f"- {report}"


def test_without_slurm_the_runs_follow_each_other(machine: Machine) -> None:
    study = str(machine.folder / "study")
    flags = ["--processes", "1,2", "--output", study, "--recipe", str(machine.recipe), "--steps", "3"]
    code, output = machine.run(*flags)
    assert code == 0, output
    assert machine.noted() == [
        f"{size} {['--save', f'{study}/{size}', '--save-interval', '0', '--train-iters', '3']}" for size in (1, 2)
    ]


def test_print_shows_what_would_run(machine: Machine) -> None:
    code, output = machine.run("--nodes", "1,2", "--output", "runs/study", "--print", PATH=os.environ["PATH"])
    assert code == 0, output
    assert [shlex.split(line)[0] for line in output.splitlines()] == ["sbatch"] * 3
    assert machine.noted() == []


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--output o", "which sizes?"),
        ("--nodes 1,2", "--output is missing"),
        ("--nodes 1,,2 --output o", "give whole numbers"),
        ("--nodes 2,2 --output o", "names a size twice"),
        ("--nodes 1 --processes 2 --output o", "give one of --nodes and --processes"),
        ("--nodes 1,2 --output o --steps 1", "give at least 2"),
        ("--nodes 1,2 --output o --passages-each many", "give a whole number"),
        ("--nodes 1,2 --output o --recipe nowhere.sh", "nowhere.sh: no such file"),
        ("--nodes 1,2 --output o --train-iters 3", "flags of the training come behind --"),
        ("--nodes", "needs a value"),
    ],
)
def test_a_wrong_flag_is_one_clear_line_and_starts_nothing(machine: Machine, flags: str, words: str) -> None:
    code, output = machine.run(*flags.split())
    (line,) = output.splitlines()
    assert code == 2 and line.startswith("error: ") and words in line
    assert machine.noted() == []


def test_a_run_that_is_there_is_not_overwritten(machine: Machine) -> None:
    (machine.folder / "study" / "2").mkdir(parents=True)
    code, output = machine.run("--nodes", "1,2", "--output", str(machine.folder / "study"))
    assert (code, machine.noted()) == (2, [])
    assert "holds 2 already" in output


def test_nodes_without_slurm_are_refused(machine: Machine) -> None:
    tools = machine.folder / "tools"
    tools.mkdir()
    for name in ("bash", "dirname", "sort", "uniq"):
        (tools / name).symlink_to(str(shutil.which(name)))
    code, output = machine.run("--nodes", "1,2", "--output", str(machine.folder / "study"), PATH=str(tools))
    assert (code, output) == (2, "error: no sbatch here: --nodes needs Slurm, --processes does not\n")
