"""Read the data of a run that a report shows from the run's folder."""

from __future__ import annotations

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
        steps = tuple(read_metrics(folder))
        samples = KeptSamples(folder) if (folder / SAMPLES_FILE).exists() else None
        return cls(name, steps, _settings(folder / CONFIG_FILE), samples)

    @property
    def planned(self) -> int | None:
        """Return the configured number of steps, or None if it is unknown."""
        found = self.settings.get("training.train_iters")
        return found if isinstance(found, int) else None

    @property
    def corpus(self) -> tuple[str, ...] | None:
        """Return the names of the corpora, with weights if there are any; None if they are unknown."""
        found = self.settings.get("data.data_path")
        return tuple(Path(str(part)).name for part in found) if isinstance(found, list) and found else None

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
    """Refuse to compare runs of different corpora. A run without a configuration is accepted.

    Raises:
        BadInput: the corpora differ; the message names two runs and their corpora.
    """
    known = [run for run in runs if run.corpus is not None]
    for run in known[1:]:
        if run.corpus != known[0].corpus:
            raise BadInput(
                f"{known[0].name} is of the corpus {' '.join(known[0].corpus or ())}, {run.name} of "
                f"{' '.join(run.corpus or ())}: rewards on different passages cannot be compared; make a page for each"
            )


def _settings(path: Path) -> dict[str, Any]:
    try:
        sections = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, yaml.YAMLError):
        raise BadInput(f"{path} is not the configuration of a run; move the file away") from None
    if not isinstance(sections, dict):
        raise BadInput(f"{path} is not the configuration of a run; move the file away")
    plain = json.loads(json.dumps(sections, default=str), parse_constant=lambda _: None)
    return {
        f"{section}.{field}": value
        for section, fields in plain.items()
        if isinstance(fields, dict)
        for field, value in fields.items()
    }


def _number(value: float) -> float | None:
    return float(f"{value:.5g}") if math.isfinite(value) else None
