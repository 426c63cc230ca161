"""Run an experiment's cells on this machine one after another, or submit them to Slurm as an array.

Every part is a separate command, as a user would type it: ``slurm/launch.sh`` for the training, which resumes a run
automatically, ``tools/convert_checkpoint.py`` and ``tools/evaluate.py``.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from types import FrameType

from megatron_pz.cluster.worker import die_with_the_launcher
from megatron_pz.experiment.design import Cell, Experiment
from megatron_pz.experiment.progress import CONFIG, START, Evaluations, describe, number_tasks, prepare, training_of
from megatron_pz.runtime.errors import LAUNCHER_VARIABLE, BadInput, ExpectedFailure
from megatron_pz.runtime.files import claimed_directory

ROOT = Path(__file__).resolve().parents[2]
DONE, FAILED, REFUSED, STOPPED, COLLAPSED, INTERRUPTED = 0, 1, 2, 3, 4, 130
"""Exit codes of slurm/launch.sh (docs/cluster.md)."""
OF_A_LAUNCH = ("RANK", "LOCAL_", "GROUP_", "WORLD_SIZE", "MASTER_", "TORCHELASTIC_", LAUNCHER_VARIABLE)
OF_A_JOB = ("SLURM_JOB_ID", "MODULE", "CONFIG", "SAVE", "MODEL", "DATA_PATH", "NODE_LOGS", "RECIPE_SCRIPT")
"""Variables of the process that runs the experiment, by prefix and by name, which its commands must not inherit."""
OF_ONE_PROCESS = ("NPROC_PER_NODE", "OMP_NUM_THREADS")
"""Variables that slurm/experiment.sh sets for that process alone; its commands use the whole node."""
COMMAND_MARK = "\n$ "
"""Prefix of a command in a log."""


class Interrupted(ExpectedFailure):
    """A signal ended the experiment; running the same command again continues it."""

    exit_code = STOPPED


class Children:
    """Runs commands one at a time, with their output in a log. Signals are forwarded, so that a command can save first.

    The kernel kills the running command when this process dies.
    """

    def __init__(self) -> None:
        self._child: subprocess.Popen[bytes] | None = None
        self.signalled = self._told = False

    def __enter__(self) -> Children:
        self._previous = {each: signal.signal(each, self._pass_on) for each in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def run(self, log: Path, command: Sequence[str], variables: Mapping[str, str] | None = None) -> int:
        """Run a command in the checkout's root and return its exit code.

        Raises:
            Interrupted: a signal arrived before the command started or while it ran.
        """
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as file:
            file.write(f"{COMMAND_MARK}{shlex.join(command)}\n".encode())
            file.flush()
            if not self.signalled:
                # In its own session, the command does not get Ctrl-C directly; this process forwards it.
                self._child = subprocess.Popen(
                    command,
                    cwd=ROOT,
                    env=environment() | dict(variables or {}),
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    preexec_fn=partial(die_with_the_launcher, os.getpid()),
                )
                code = self._wait(self._child)
        if self.signalled:
            raise Interrupted("stopped by a signal; the same command continues it")
        return code

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        again, self.signalled = self.signalled, True
        if self._child is not None and self._child.poll() is None:
            os.killpg(self._child.pid, signal.SIGKILL) if again else self._tell(self._child)

    def _wait(self, child: subprocess.Popen[bytes]) -> int:
        if self.signalled:  # the signal arrived while the command was being started
            self._tell(child)
        return child.wait()

    def _tell(self, child: subprocess.Popen[bytes]) -> None:
        """Ask the command to end, at most once."""
        told, self._told = self._told, True
        if not told:
            child.send_signal(signal.SIGTERM)


def environment() -> dict[str, str]:
    """Return the environment of a command on this machine alone, without the variables of a job or launcher."""
    dropped = OF_A_JOB + (OF_ONE_PROCESS if LAUNCHER_VARIABLE in os.environ else ())
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(OF_A_LAUNCH) and name not in dropped
    }
    return {"ACTIVATE": "none", "PYTHON": sys.executable} | kept


def run_cells(experiment: Experiment, output: Path, *, train: bool = True) -> list[str]:
    """Train and evaluate the unfinished cells, seed by seed; return a line for each command that failed.

    Without ``train``, only cells that are already trained are evaluated.

    Raises:
        BadInput: a cell was begun with other settings, its command refuses its input, or benchmarks cannot be read.
        Interrupted: a signal arrived.
    """
    evaluations, failures = Evaluations(experiment, output), list[str]()
    evaluations.require_questions()
    with claimed_directory(output, "--output"), Children() as children:
        for cell in experiment.cells:
            prepare(cell)
        for seed in experiment.design.seeds:
            of_seed = [cell for cell in experiment.cells if cell.seed == seed]
            for cell in of_seed if train else ():
                failures += _train(children, experiment, cell)
            failures += _evaluate(children, experiment, of_seed, evaluations)
    return failures


def _train(children: Children, experiment: Experiment, cell: Cell) -> list[str]:
    training = training_of(cell)
    if training is not None and training.ended:
        return []
    number = experiment.cells.index(cell) + 1
    _say(f"[{number}/{len(experiment.cells)}] {cell.name}: training, {cell.folder / 'log.txt'}")
    started = time.monotonic()
    variables = {"CONFIG": str(cell.folder / CONFIG)}
    command = ["bash", "slurm/launch.sh", "--save", str(cell.folder / "run")]
    code = children.run(cell.folder / "log.txt", command, variables)
    training = training_of(cell)
    if code in (DONE, COLLAPSED) and training is not None and training.ended:
        how = f"; {training.collapse}" if training.collapse else ""
        used = f"{training.iteration} steps, {training.compute.flops:.3g} operations"
        _say(f"    {used} in {time.monotonic() - started:.0f} s{how}")
        return []
    return [_failure(f"{cell.name}: training", code, cell.folder / "log.txt")]


def _evaluate(children: Children, experiment: Experiment, cells: Sequence[Cell], evaluations: Evaluations) -> list[str]:
    """Export the trained cells and evaluate them in one engine; include the starting model in the first call."""
    hf_model, failures = experiment.common.model.hf_model, list[str]()
    names, models, files, exported = list[str](), list[str](), list[Path](), list[Path]()
    if not evaluations.start.is_file():
        names, models, files = [START], [hf_model], [evaluations.start]
    for cell in cells:
        training, model = training_of(cell), cell.folder / "model"
        if training is None or not training.ended or evaluations.of(cell).is_file():
            continue
        log = cell.folder / "log.txt"
        if not model.is_dir():
            _say(f"{cell.name}: export")
            partial_model = cell.folder / "model.partial"
            shutil.rmtree(partial_model, ignore_errors=True)
            command = [sys.executable, "tools/convert_checkpoint.py", "megatron-to-hf", "--hf-model", hf_model]
            command += ["--load", str(cell.folder / "run"), "--save", str(partial_model)]
            if code := children.run(log, command):
                failures.append(_failure(f"{cell.name}: export", code, log))
                continue
            partial_model.replace(model)
        names.append(cell.name)
        models.append(str(model))
        files.append(evaluations.of(cell))
        exported.append(model)
    if not files:
        return failures
    _say(f"evaluation of {'; '.join(names)}")
    partials = [path.with_suffix(".partial") for path in files]
    command = ["bash", "slurm/launch.sh", *evaluations.flags(), "--hf-model", *models, "--name", *names]
    log = evaluations.output / "log.txt"
    code = children.run(log, [*command, "--output", *map(str, partials)], {"MODULE": "tools.evaluate"})
    if code:
        return [*failures, _failure("evaluation", code, log)]
    for part, path in zip(partials, files, strict=True):
        part.replace(path)
    for model in exported:
        shutil.rmtree(model)
    return failures


def _failure(what: str, code: int, log: Path) -> str:
    """Return the line for a failed command, with the last error in its log.

    Raises:
        BadInput: the command refused its input, so that every other cell's command would fail too.
    """
    printed = log.read_text(errors="replace").rpartition(COMMAND_MARK)[2]
    errors = [line for line in printed.splitlines() if line.startswith("error: ")]
    line = (
        f"{what} ended with code {code} ({errors[-1].removeprefix('error: ') if errors else 'no reason given'}): {log}"
    )
    if code == REFUSED:
        raise BadInput(line)
    return line


def _say(line: str) -> None:
    print(line, flush=True)


def submit(
    experiment: Experiment, output: Path, script: str, sbatch_flags: Sequence[str], again: Sequence[str]
) -> None:
    """Submit the untrained cells as a job array, and a dependent job that evaluates and compares all cells.

    Args:
        script: the recipe's script for sbatch, such as slurm/pz_qwen3_4b.sh.
        sbatch_flags: flags of sbatch for the array.
        again: the flags with which ``slurm/experiment.sh`` calls this program for the comparison.

    Raises:
        BadInput: sbatch or the script is missing, sbatch refuses, benchmarks cannot be read, or the folder cannot be
            written or is in use.
    """
    if not (ROOT / script).is_file():
        raise BadInput(f"--sbatch {script}: no such file under {ROOT}")
    if shutil.which("sbatch") is None:
        raise BadInput("--sbatch: there is no sbatch here; leave it out to run one after another on this machine")
    Evaluations(experiment, output).require_questions()
    with claimed_directory(output, "--output"):
        for cell in experiment.cells:
            prepare(cell)
        tasks = number_tasks(experiment, output)
    left = [number for number, cell in tasks.items() if (found := training_of(cell)) is None or not found.ended]
    folder = output.absolute()
    dependency = []
    if left:
        flags = ["--parsable", f"--array={','.join(map(str, left))}", f"--output={folder}/%x-%A_%a.out", *sbatch_flags]
        run = ["--config", f"{folder}/tasks/{{task}}/{CONFIG}", "--save", f"{folder}/tasks/{{task}}/run"]
        array = _sbatch([*flags, script, *run])
        _say(f"{len(left)} of {len(tasks)} cells: job array {array}")
        dependency = [f"--dependency=afterany:{array}"]
    comparison = _sbatch(["--parsable", *dependency, f"--output={folder}/%x-%j.out", "slurm/experiment.sh", *again])
    _say(f"evaluation and comparison: job {comparison}")


def _sbatch(flags: Sequence[str]) -> str:
    done = subprocess.run(["sbatch", *flags], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BadInput(f"sbatch {shlex.join(flags)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout.strip().partition(";")[0]


def left_to_do(experiment: Experiment, evaluations: Evaluations) -> dict[Cell, str]:
    """Describe the remaining work of every unfinished cell."""
    found = {cell: describe(cell, training_of(cell), evaluations.of(cell)) for cell in experiment.cells}
    return {cell: words for cell, words in found.items() if words}
