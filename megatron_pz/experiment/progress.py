"""Store the progress of an experiment on disk, and determine which earlier results are still valid.

    OUTPUT/start/evaluation-KEY.json        the model that all runs start from
    OUTPUT/benchmarks-KEY/NAME/             answers of each model to the benchmarks, if the experiment has any
    OUTPUT/common.yaml                      settings that all runs share, used for every evaluation
    OUTPUT/cells/ARM/seed-N/config.yaml     resolved settings of the run
                            run/            its --save directory
                            trained.json    written from its last checkpoint, once the run has ended
                            model/          its weights for the evaluation, deleted after it
                            evaluation-KEY.json
                            log.txt         output of all of these commands
    OUTPUT/tasks/N                          the same folder by its number in a Slurm array

KEY is a hash of the evaluation's settings and data. After a change of either, every run is evaluated again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter, ValidationError

from megatron_pz.checkpoint.checkpoint_files import folder_of, latest_iteration, read_header
from megatron_pz.evaluation.benchmarks.prompts import BenchmarkSettings, load_questions
from megatron_pz.evaluation.benchmarks.scores import strata
from megatron_pz.evaluation.benchmarks.store import AnswerStore, read_facts
from megatron_pz.evaluation.results import Evaluation, rules_of
from megatron_pz.experiment.comparison import Measured
from megatron_pz.experiment.design import Cell, Experiment
from megatron_pz.monitoring.collapse import COUNT, first_collapse
from megatron_pz.monitoring.compute import ComputeUsed
from megatron_pz.monitoring.metrics import METRICS_FILE, read_metrics
from megatron_pz.run.objective import Schedule
from megatron_pz.run.run_directory import changed_settings, write_config
from megatron_pz.runtime.errors import BadInput
from megatron_pz.runtime.files import write_text_whole

CONFIG, TRAINED = "config.yaml", "trained.json"
START = "start"
"""Name of the model that all runs start from."""


@dataclass(frozen=True)
class Training:
    """The progress of a run at its newest checkpoint."""

    iteration: int
    compute: ComputeUsed
    ended: bool
    """Whether the run has ended, by its budget or by a configured stop after a collapse."""
    collapse: str
    """Signs of the first collapse, with their evidence; empty without a collapse."""

    def save(self, path: Path) -> None:
        """Write the record of a run that has ended. Raise BadInput if that fails."""
        try:
            write_text_whole(path, json.dumps(dataclasses.asdict(self), indent=1) + "\n")
        except OSError as error:
            raise BadInput(f"{path}: cannot be written ({error.strerror})") from None

    @classmethod
    def load(cls, path: Path) -> Training:
        """Read the file of :meth:`save`. Raise BadInput for any other content."""
        try:
            return TypeAdapter(cls).validate_json(path.read_bytes())
        except OSError as error:
            fault = error.strerror
        except ValidationError as error:
            fault = error.errors()[0]["msg"]
        raise BadInput(f"{path} cannot be read ({fault}): delete it, and it is made from the checkpoint")


def prepare(cell: Cell) -> None:
    """Write the cell's settings, or require that they equal those of its first step.

    A run that ended before its first step, for example by refusing its input, may restart with other settings.

    Raises:
        BadInput: the cell was begun with other settings, which the message names, or its folder cannot be written.
    """
    path = cell.folder / CONFIG
    config = dataclasses.replace(
        cell.config, training=dataclasses.replace(cell.config.training, save=str(cell.folder / "run"))
    )
    changes = changed_settings(path, config)
    if changes and has_begun(cell):
        listed = ", ".join(f"{name} was {before!r} and is {now!r}" for name, (before, now) in changes.items())
        raise BadInput(
            f"{cell.folder} was begun with other settings ({listed}): change them back, give another --output, or "
            "delete that folder to run it anew; new arms and seeds can be added at any time"
        )
    if changes or not path.exists():
        try:
            cell.folder.mkdir(parents=True, exist_ok=True)
            write_config(config, path)
        except OSError as error:
            raise BadInput(f"{cell.folder}: cannot be written ({error.strerror})") from None


def has_begun(cell: Cell) -> bool:
    """Return whether the cell's run has completed a step or saved a checkpoint."""
    run = cell.folder / "run"
    return (run / METRICS_FILE).is_file() or (cell.folder / TRAINED).is_file() or latest_iteration(run) is not None


def training_of(cell: Cell) -> Training | None:
    """Return the progress of the cell's run; None without a checkpoint.

    The first call after the end of a run stores the answer in ``trained.json``, so that the checkpoint may be deleted
    after the evaluation.

    Raises:
        BadInput: the checkpoint or the metrics are damaged.
    """
    record, run = cell.folder / TRAINED, cell.folder / "run"
    if record.is_file():
        return Training.load(record)
    iteration = latest_iteration(run)
    if iteration is None:
        return None
    try:
        compute = ComputeUsed(**read_header(folder_of(run, iteration))["common"]["work"])
    except (KeyError, TypeError):
        raise BadInput(
            f"{folder_of(run, iteration)}: is not a checkpoint of a run; delete {run} to run it anew"
        ) from None
    steps = [step for step in read_metrics(run) if step.iteration <= iteration]
    collapse = cell.config.collapse
    stopped = bool(collapse.stop_on_collapse and steps and steps[-1].values.get(COUNT, 0.0) > 0)
    ended = stopped or Schedule.from_config(cell.config.training).is_over(iteration, compute)
    signs = "; ".join(map(str, first_collapse(steps, collapse)))
    found = Training(iteration, compute, ended, signs)
    if ended:
        found.save(record)
    return found


def describe(cell: Cell, training: Training | None, evaluation: Path) -> str:
    """Return a short description of a cell's remaining work; empty if it is done."""
    if training is None:
        return "begun, without a checkpoint" if has_begun(cell) else "not begun"
    if not training.ended:
        return f"begun, at step {training.iteration}"
    return "" if evaluation.is_file() else "trained, not evaluated"


class Evaluations:
    """The evaluation of all runs of an experiment, and the files of its results."""

    def __init__(self, experiment: Experiment, output: Path) -> None:
        self.counts, self.output, self.common = experiment.design.evaluation, output.absolute(), experiment.common
        self.benchmarks, self.benchmark_data = experiment.design.benchmarks, experiment.benchmark_data
        rollout = self.common.rollout
        decisive: Mapping[str, Any] = {
            "counts": dataclasses.asdict(self.counts),
            "rules": rules_of(self.common.game),
            "words": [self.common.data.min_passage_words, self.common.data.max_passage_words],
            "limits": [
                rollout.max_prompt_length,
                rollout.max_response_length,
                rollout.generator_max_response_length,
            ],
            "data": list(self.common.data.valid_data_path),
        }
        if self.benchmarks:
            decisive = {**decisive, "benchmarks": dataclasses.asdict(self.benchmarks)}
        self.key = hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:8]

    def require_questions(self) -> None:
        """Read the benchmarks' questions, so that errors in them are reported before hours of training.

        Raises:
            BadInput: an unknown benchmark or recipe, or files that cannot be used.
        """
        if self.benchmarks and self.benchmark_data:
            own = self.benchmarks
            settings = BenchmarkSettings(own.recipe, own.prompt_format, own.questions, own.max_tokens)
            load_questions(own.names, self.benchmark_data, settings)

    @property
    def start(self) -> Path:
        """Return the result file of the model that all runs start from."""
        return self.output / "start" / f"evaluation-{self.key}.json"

    def of(self, cell: Cell) -> Path:
        """Return the result file of a run."""
        return cell.folder / f"evaluation-{self.key}.json"

    def measured(self, file: Path, name: str) -> Measured:
        """Read the results of the model of this name: its evaluation, and its accuracy on every benchmark question.

        Raises:
            BadInput: a file is damaged.
        """
        evaluation, store = Evaluation.load(file), AnswerStore(self.output / f"benchmarks-{self.key}" / name)
        names = self.benchmarks.names if self.benchmarks else ()
        accuracies = {each: np.concatenate([*strata(store.read(each)).values()]) for each in names}
        return Measured(evaluation, accuracies, {each: read_facts(store.folder, each) for each in names})

    def flags(self) -> list[str]:
        """Write the settings of the evaluation and return the flags of tools/evaluate.py that all calls share."""
        self.output.mkdir(parents=True, exist_ok=True)
        write_config(self.common, self.output / "common.yaml")
        flags = ["--config", str(self.output / "common.yaml")]
        flags += ["--valid-data-path", *self.common.data.valid_data_path]
        for name, count in dataclasses.asdict(self.counts).items():
            flags += [f"--{name.replace('_', '-')}", str(count)]
        if self.benchmarks:
            flags += ["--benchmarks", ",".join(self.benchmarks.names), "--data", str(self.benchmark_data)]
            flags += ["--results", str(self.output / f"benchmarks-{self.key}"), "--recipe", self.benchmarks.recipe]
            flags += ["--prompt-format", self.benchmarks.prompt_format]
            flags += ["--questions", str(self.benchmarks.questions), "--max-tokens", str(self.benchmarks.max_tokens)]
        return flags


def number_tasks(experiment: Experiment, output: Path) -> dict[int, Cell]:
    """Link ``output/tasks/N`` to the folder of each cell and return the cells by N.

    A cell keeps its number, because queued jobs may refer to it.
    """
    tasks = output.absolute() / "tasks"
    tasks.mkdir(parents=True, exist_ok=True)
    known = {link.resolve(): int(link.name) for link in tasks.iterdir() if link.is_symlink() and link.name.isdecimal()}
    following = max(known.values(), default=0) + 1
    numbered = {}
    for cell in experiment.cells:
        number = known.get(cell.folder.resolve())
        if number is None:
            number, following = following, following + 1
            (tasks / str(number)).symlink_to(os.path.relpath(cell.folder, tasks))
        numbered[number] = cell
    return numbered
