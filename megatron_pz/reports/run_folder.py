"""Read the data of a run that a report shows from the run's folder."""

from __future__ import annotations

import filecmp
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from megatron_pz.monitoring.metrics import StepMetrics, read_metrics
from megatron_pz.monitoring.samples import SAMPLES_FILE
from megatron_pz.reports.kept_samples import KeptSamples
from megatron_pz.runtime.errors import BadInput

CONFIG_FILE = "config.yaml"


@dataclass(frozen=True)
class RunFolder:
    """A run, finished or not."""

    name: str
    steps: tuple[StepMetrics, ...]
    settings: dict[str, Any]
    """Value of every setting by ``section.field``; empty if the folder has no configuration."""
    samples: KeptSamples | None
    """None if the folder has no samples."""

    @classmethod
    def open(cls, folder: Path, name: str) -> RunFolder:
        """Read the metrics and the configuration of a run, and index its samples.

        Raises:
            BadInput: the folder is missing or has no metrics, or a file was not written by this program.
        """
        if folder.is_file():
            raise BadInput(f"{folder} is a file: give the --save directory of a run")
        steps = tuple(read_metrics(folder))
        samples = KeptSamples(folder) if (folder / SAMPLES_FILE).exists() else None
        return cls(name, steps, _settings(folder / CONFIG_FILE), samples)

    @property
    def planned(self) -> int | None:
        """Return the configured number of steps, or None if it is unknown."""
        found = self.settings.get("training.train_iters")
        return found if isinstance(found, int) else None

    @property
    def questions(self) -> tuple[str, ...] | None:
        """Return the files or tasks that the questions of an RLVR run come from; None for another run."""
        found = self.settings.get("questions.question_path") or self.settings.get("questions.reasoning_gym_tasks")
        return tuple(map(str, found)) if isinstance(found, list) and found else None

    @property
    def corpus(self) -> tuple[str, ...] | None:
        """Return the names of the corpora, with weights if there are any; None if they are unknown."""
        found = self._data_path()
        return tuple(Path(str(part)).name for part in found) if isinstance(found, list) and found else None

    def has_other_files(self, other: RunFolder) -> bool:
        """Return whether the corpora of two runs differ in their indexes, as far as these are on this machine."""
        pairs = zip(self._data_path() or (), other._data_path() or (), strict=False)
        indexes = [(Path(f"{mine}.idx"), Path(f"{theirs}.idx")) for mine, theirs in pairs if mine != theirs]
        return any(
            mine.is_file() and theirs.is_file() and not filecmp.cmp(mine, theirs, shallow=False)
            for mine, theirs in indexes
        )

    def _data_path(self) -> list[Any] | None:
        found = self.settings.get("data.data_path")
        return found if isinstance(found, list) else None

    def columns(self) -> dict[str, list[float | None]]:
        """Return the values of every metric, one for each step, with five digits; None for missing values."""
        names = sorted({name for step in self.steps for name in step.values})
        return {name: [_number(step.values.get(name, math.nan)) for step in self.steps] for name in names}


def names_of(folders: Sequence[Path]) -> list[str]:
    """Return a name for every folder: the shortest end of its path that is distinct.

    For a folder called ``run``, the name also includes the parent.

    Raises:
        BadInput: a folder is named twice.
    """
    whole = [folder.resolve().parts for folder in folders]
    if len(set(whole)) < len(whole):
        raise BadInput("a run is named twice: give every folder once")
    for length in range(1, max(map(len, whole)) + 1):
        names = ["/".join(parts[-max(length, 2 if parts[-1] == "run" else 1) :]) for parts in whole]
        if len(set(names)) == len(names):
            break
    return names


def require_one_corpus(runs: Sequence[RunFolder]) -> None:
    """Refuse to compare runs of different corpora or questions. A run without a configuration is accepted.

    Corpora are alike if their files have the same names, and the same indexes where these can be read.

    Raises:
        BadInput: the corpora differ; the message names two runs and their corpora.
    """
    asking = [run for run in runs if run.questions is not None]
    for run in asking[1:]:
        if run.questions != asking[0].questions:
            raise _not_alike(asking[0], run, "questions", asking[0].questions, run.questions)
    known = [run for run in runs if run.corpus is not None]
    for run in known[1:]:
        if run.corpus != known[0].corpus or run.has_other_files(known[0]):
            raise _not_alike(known[0], run, "corpus", known[0].corpus, run.corpus)


def _not_alike(
    one: RunFolder, other: RunFolder, words: str, former: Sequence[str] | None, latter: Sequence[str] | None
) -> BadInput:
    theirs = "others of the same names" if former == latter else " ".join(latter or ())
    return BadInput(
        f"{one.name} is of the {words} {' '.join(former or ())}, {other.name} of {theirs}: rewards on different "
        "passages or questions cannot be compared; make a page for each"
    )


def _settings(path: Path) -> dict[str, Any]:
    try:
        sections = yaml.safe_load(path.read_text(encoding="utf-8"))
        plain = json.loads(json.dumps(sections, default=str), parse_constant=lambda _: None)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, RecursionError, yaml.YAMLError):
        raise BadInput(f"{path} is not the configuration of a run; move the file away") from None
    if not isinstance(plain, dict):
        raise BadInput(f"{path} is not the configuration of a run; move the file away")
    return {
        f"{section}.{field}": value
        for section, fields in plain.items()
        if isinstance(fields, dict)
        for field, value in fields.items()
    }


def _number(value: float) -> float | None:
    return float(f"{value:.5g}") if math.isfinite(value) else None
