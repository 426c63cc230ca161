"""Read an experiment from its YAML file: arms (sets of settings), seeds, a budget that all runs share, the evaluation.

    config: ../quickstart/config.yaml     # recipe of all runs, relative to this file
    equal: compute                        # or: steps
    budget: 2.0e+13                       # operations as the metric compute/flops counts them, or steps
    seeds: [1, 2, 3]
    arms:                                 # the first one is the reference, unless `reference` names another
      PretrainZero: {mask_strategy: active}
      random spans: {mask_strategy: random_span}
    grid: {lr: [4.0e-5, 8.0e-5]}          # optional: every arm with every value
    settings: {precision: bf16}           # optional: in place of the recipe's, in all runs
    evaluation: {passages: 100}           # optional: counts of tools/evaluate.py
    measures: [repeated_accuracy]         # optional: the measures that are compared
    benchmarks: {names: [gsm8k], questions: 200}    # optional: asked of every run and compared, too

Settings are fields of :mod:`megatron_pz.config.schema`, whose names occur in one section only.
"""

from __future__ import annotations

import copy
import dataclasses
import difflib
import itertools
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError

from megatron_pz.config.parse import config_of_sections, read_yaml_text
from megatron_pz.config.precision import with_precision
from megatron_pz.config.schema import NonNegativeInt, PositiveFloat, PositiveInt, RunConfig, Seed
from megatron_pz.config.validate import check
from megatron_pz.evaluation.benchmarks.prompts import PromptFormat
from megatron_pz.evaluation.summary import MEASURES
from megatron_pz.runtime.errors import BadInput

SECTION_OF = {
    each.name: section.name
    for section in dataclasses.fields(RunConfig)
    for each in dataclasses.fields(get_type_hints(RunConfig)[section.name])
}
"""Section of every setting."""
OF_THE_EXPERIMENT = ("seed", "train_iters", "train_flops", "save", "load")
"""Settings that the experiment itself gives its runs."""
ENDLESS = 1_000_000
"""Steps of a run that its operations end."""


@dataclass(frozen=True)
class EvaluationCounts:
    """Counts of the evaluation after a run's last step, named as the flags of tools/evaluate.py."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    passages: PositiveInt = 200
    masks_per_passage: PositiveInt = 2
    predictions_per_mask: PositiveInt = 8
    samples_per_repeated_word: NonNegativeInt = 4
    samples_per_once_word: NonNegativeInt = 0


@dataclass(frozen=True)
class Benchmarks:
    """Benchmarks that every run is also evaluated on, named as the flags of tools/evaluate.py."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    names: tuple[str, ...]
    recipe: str = "general_reasoner"
    prompt_format: PromptFormat = "recipe"
    questions: NonNegativeInt = 0
    max_tokens: NonNegativeInt = 0


@dataclass(frozen=True)
class Design:
    """The content of an experiment's file."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    config: str
    """Recipe of all runs, relative to the experiment's file."""
    arms: Mapping[str, Mapping[str, Any]]
    seeds: tuple[Seed, ...]
    equal: Literal["compute", "steps"]
    budget: PositiveFloat
    """Operations or steps of every run."""
    grid: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    evaluation: EvaluationCounts = EvaluationCounts()
    reference: str = ""
    """Arm that all others are compared with; empty: the first."""
    measures: tuple[str, ...] = ("repeated_accuracy", "valid_masks", "generator_reward")
    """Measures whose differences are tested: names of :mod:`megatron_pz.evaluation.summary`."""
    benchmarks: Benchmarks | None = None
    """Benchmarks whose differences are tested with the measures."""

    @property
    def tested(self) -> tuple[str, ...]:
        """Return the names of all measures and benchmarks whose differences are tested."""
        return self.measures + (self.benchmarks.names if self.benchmarks else ())


@dataclass(frozen=True)
class Cell:
    """One run of an experiment."""

    arm: str
    seed: int
    folder: Path
    config: RunConfig
    """Complete but for ``save``."""

    @property
    def name(self) -> str:
        """Return the name of the run in messages."""
        return f"{self.arm}, seed {self.seed}"


@dataclass(frozen=True)
class Experiment:
    """A design and the runs that it asks for."""

    design: Design
    cells: tuple[Cell, ...]
    """Seed by seed, so that an unfinished experiment has whole seeds."""
    common: RunConfig
    """The settings that all runs share; every run is evaluated by its rules and limits."""
    benchmark_data: Path | None
    """Folder with the files of the benchmarks."""

    @property
    def arms(self) -> list[str]:
        """Return the names of the arms in the order of the file."""
        return list(dict.fromkeys(cell.arm for cell in self.cells))

    @property
    def reference(self) -> str:
        """Return the name of the arm that all others are compared with."""
        return self.design.reference or self.arms[0]


def read_experiment(
    path: Path, output: Path, inputs: Mapping[str, Any], benchmark_data: Path | None = None
) -> Experiment:
    """Read an experiment whose runs go to ``output/cells``.

    Args:
        inputs: settings of this machine in place of the file's, such as ``hf_model`` and ``data_path``.

    Raises:
        BadInput: the file is invalid; the message names the fault in one line.
    """
    design = _read_design(path)
    recipe = path.parent / design.config
    sections = _sections(recipe)
    settings = {**design.settings, **inputs} | _budget(design)
    common = _config(path, sections, settings)
    arms = _crossed(path, design)
    if design.reference and design.reference not in arms:
        raise BadInput(f"{path}: reference {design.reference!r} is none of the arms {', '.join(arms)}")
    if design.benchmarks and (paths := [arm for arm in arms if "/" in arm]):
        raise BadInput(f"{path}: arm {paths[0]!r}: its answers get a folder of this name, so it cannot have a /")
    folders = {arm: output.absolute() / "cells" / _folder_name(arm) for arm in arms}
    if len({str(folder).lower() for folder in folders.values()}) < len(arms):
        raise BadInput(f"{path}: two arms would share a folder: {', '.join(arms)}; name them more differently")
    cells = tuple(
        Cell(arm, seed, folders[arm] / f"seed-{seed}", _config(path, sections, settings | own | {"seed": seed}))
        for seed in design.seeds
        for arm, own in arms.items()
    )
    for cell in cells:
        _check(path, cell)
    if design.benchmarks and benchmark_data is None:
        raise BadInput(f"{path}: it asks {', '.join(design.benchmarks.names)}: give their folder as --benchmark-data")
    return Experiment(design, cells, common, benchmark_data)


def _read_design(path: Path) -> Design:
    content = read_yaml_text(path)
    try:
        design = TypeAdapter(Design).validate_python(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        got = repr(first["input"])
        raise BadInput(f"{path}: {where}: {first['msg']} (got {got[:80]}{'…' if len(got) > 80 else ''})") from None
    lists: dict[str, Collection[Any]] = {"arms": design.arms, "seeds": design.seeds, "measures": design.measures}
    if design.benchmarks:
        lists["benchmarks.names"] = design.benchmarks.names
    for name, values in lists.items():
        if not values or len(set(values)) < len(values):
            raise BadInput(f"{path}: {name}: give at least one, each once")
    for measure in design.measures:
        if measure not in MEASURES:
            raise BadInput(f"{path}: measures: unknown {measure!r}{_nearest(measure, MEASURES)}")
    if design.equal == "steps" and not design.budget.is_integer():
        raise BadInput(f"{path}: budget {design.budget:g}: with equal: steps give a whole number")
    if "" in (arm.strip() for arm in design.arms):
        raise BadInput(f"{path}: arms: one has no name")
    for name, values in design.grid.items():
        if isinstance(values, str):
            raise BadInput(f"{path}: grid: {name} is {values!r}, not a list of values")
    for settings in (design.settings, design.grid, *design.arms.values()):
        for name in settings:
            if name in OF_THE_EXPERIMENT:
                raise BadInput(f"{path}: {name} is set by the experiment (seeds, equal, budget); leave it out")
            if name not in SECTION_OF:
                raise BadInput(f"{path}: unknown setting {name!r}{_nearest(name, SECTION_OF)}")
    return design


def _nearest(word: str, known: Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _sections(recipe: Path) -> dict[str, Any]:
    sections = read_yaml_text(recipe)
    config_of_sections(recipe, sections)  # errors in the recipe itself are reported as such
    return sections


def _budget(design: Design) -> dict[str, Any]:
    if design.equal == "compute":
        return {"train_flops": repr(design.budget), "train_iters": str(ENDLESS)}
    return {"train_flops": "0", "train_iters": str(int(design.budget))}


def _crossed(path: Path, design: Design) -> dict[str, dict[str, Any]]:
    """Return the settings of every arm crossed with the grid; arm names contain the grid values."""
    crossed = {}
    for arm, own in design.arms.items():
        for values in itertools.product(*design.grid.values()):
            chosen = dict(zip(design.grid, values, strict=True))
            name = ", ".join([arm, *(f"{setting} {value}" for setting, value in chosen.items())])
            if both := own.keys() & chosen.keys():
                raise BadInput(f"{path}: {min(both)} is a setting of the arm {arm!r} and of the grid; give it once")
            if name in crossed:
                raise BadInput(f"{path}: two arms are called {name!r}")
            crossed[name] = {**own, **chosen}
    if not crossed:
        raise BadInput(f"{path}: grid: give at least one value of every setting")
    return crossed


def _config(path: Path, sections: Mapping[str, Any], settings: Mapping[str, Any]) -> RunConfig:
    content = copy.deepcopy(dict(sections))
    for name, value in settings.items():
        section = content.setdefault(SECTION_OF[name], {})
        if section is None:
            section = content[SECTION_OF[name]] = {}
        section[name] = value
    config = config_of_sections(path, content)
    precision = config.model.precision
    if precision == "auto":
        raise BadInput(
            f"{path}: precision auto is measured anew by every run, so that runs could differ: give bf16 or fp32 in "
            "settings, or as --precision"
        )
    return config if precision == "custom" else with_precision(config, precision)


def _check(path: Path, cell: Cell) -> None:
    training = dataclasses.replace(cell.config.training, save=str(cell.folder))
    try:
        check(dataclasses.replace(cell.config, training=training))
    except BadInput as error:
        raise BadInput(f"{path}: {cell.name}: {error}") from None
    if not training.save_interval:
        raise BadInput(f"{path}: save_interval 0: a run is evaluated by its checkpoint; give at least 1")
    if cell.config.game.policy_sharing == "separate":
        raise BadInput(
            f"{path}: {cell.name}: policy_sharing separate makes two models, and one is evaluated; use shared"
        )


def _folder_name(arm: str) -> str:
    return re.sub(r"[^A-Za-z0-9.=-]+", "_", arm).strip("_.") or "arm"
