"""Write the comparison of an experiment's arms: ``comparison.txt``, ``comparison.json`` and ``curves.png``."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_pz.evaluation.crossed import CrossedEstimate
from megatron_pz.evaluation.summary import MEASURES
from megatron_pz.experiment.comparison import (
    HEADER,
    Difference,
    Measured,
    conclusion,
    difference_rows,
    differences_of_arms,
    differences_to_start,
    label,
    mean,
    require_same_evaluation,
)
from megatron_pz.experiment.design import Cell, Experiment
from megatron_pz.experiment.progress import START, Evaluations, Training, describe, training_of
from megatron_pz.monitoring.launches import LAUNCHES_FILE, read_launches
from megatron_pz.monitoring.metrics import METRICS_FILE, StepMetrics, read_metrics
from megatron_pz.reports.bands import draw_bands
from megatron_pz.reports.tables import table
from megatron_pz.runtime.errors import BadInput
from megatron_pz.runtime.files import write_text_whole

INTERVALS = """\
± is the half-width of a 95 % interval over other training seeds and other items (passages or questions), by Student's t
with the few degrees of freedom of the seeds. Pairs have the same seed, which draws the same training passages, and the
same items. It does not cover another starting model, corpus, budget or recipe. With one seed, and for the start, it
covers items only."""


@dataclass(frozen=True)
class Found:
    """The results of an experiment that are on disk."""

    trainings: dict[Cell, Training | None]
    results: dict[str, dict[int, Measured]]
    """Results by arm and seed; an arm without results has an empty entry."""
    steps: dict[Cell, list[StepMetrics]]
    start: Measured | None
    missing: dict[Cell, str]
    """Remaining work of each unfinished cell."""


def find(experiment: Experiment, output: Path) -> Found:
    """Read the results of the experiment so far.

    Raises:
        BadInput: a file is damaged, or evaluations asked different questions.
    """
    files = Evaluations(experiment, output)
    trainings = {cell: training_of(cell) for cell in experiment.cells}
    results: dict[str, dict[int, Measured]] = {arm: {} for arm in experiment.arms}
    for cell in experiment.cells:
        if files.of(cell).is_file():
            results[cell.arm][cell.seed] = files.measured(files.of(cell), cell.name)
    start = files.measured(files.start, START) if files.start.is_file() else None
    require_same_evaluation(results, start)
    steps = {cell: read_metrics(cell.folder / "run") for cell in experiment.cells if _has_metrics(cell)}
    left = {cell: describe(cell, trainings[cell], files.of(cell)) for cell in experiment.cells}
    return Found(trainings, results, steps, start, {cell: words for cell, words in left.items() if words})


def _has_metrics(cell: Cell) -> bool:
    return (cell.folder / "run" / METRICS_FILE).is_file()


def write_comparison(experiment: Experiment, output: Path, title: str) -> str:
    """Write the comparison of the results so far into ``output`` and return its text.

    Raises:
        BadInput: no run has begun yet, or as :func:`find`.
    """
    found = find(experiment, output)
    if not any(found.steps.values()):
        raise BadInput(f"--output {output}: no run has done a step yet; nothing can be compared")
    measures = experiment.design.tested
    between = differences_of_arms(found.results, experiment.reference, measures)
    to_start = differences_to_start(found.results, found.start, measures) if found.start else []
    text = "\n".join(_lines(experiment, found, title, between, to_start))
    record = {"experiment": _plain(experiment.design), "runs": _runs(found), "between": between, "to_start": to_start}
    try:
        write_text_whole(output / "comparison.txt", text + "\n")
        write_text_whole(output / "comparison.json", json.dumps(_plain(record), indent=1) + "\n")
        runs = {arm: [found.steps[cell] for cell in found.steps if cell.arm == arm] for arm in experiment.arms}
        drawn = {arm: [steps for steps in of_arm if steps] for arm, of_arm in runs.items()}
        by_compute = experiment.design.equal == "compute"
        draw_bands(
            {arm: of_arm for arm, of_arm in drawn.items() if of_arm},
            output / "curves.png",
            title,
            by_compute=by_compute,
        )
    except OSError as error:
        raise BadInput(f"--output {output}: cannot be written ({error.strerror})") from None
    return text


def _lines(
    experiment: Experiment, found: Found, title: str, between: Sequence[Difference], to_start: Sequence[Difference]
) -> list[str]:
    design, cells = experiment.design, experiment.cells
    bound = f"{design.budget:g} operations" if design.equal == "compute" else f"{design.budget:g} steps"
    evaluated = sum(map(len, found.results.values()))
    lines = [
        title,
        "",
        f"{evaluated} of {len(cells)} runs are evaluated. Every run was to end after the step that completes {bound}.",
    ]
    if found.missing:
        lines += ["Missing:", *(f"  {cell.name}: {words}" for cell, words in found.missing.items())]
    collapses = {cell: each.collapse for cell, each in found.trainings.items() if each and each.collapse}
    lines += ["Signs of collapse:"] if collapses else ["No run that has a checkpoint showed a sign of collapse."]
    lines += [f"  {cell.name}: {signs}" for cell, signs in collapses.items()]
    lines += [
        *_commits(found),
        "",
        table("Work of the runs, mean over seeds (range)", WORK_HEADER, _work(experiment, found)),
    ]
    if not any(found.results.values()):
        return [*lines, "", "No run is evaluated yet, so that nothing can be said of the arms."]
    lines += ["", table("Means on held-out passages", *_means(experiment, found)), "", INTERVALS]
    lines += ["", *_family(f"Differences to {experiment.reference}", between)]
    if to_start:
        lines += ["", *_family("Differences to the model that all runs start from", to_start)]
    return lines


def _family(title: str, differences: Sequence[Difference]) -> list[str]:
    if not differences:
        return [f"{title}: there is no other arm."]
    count = sum(not math.isnan(each.adjusted_p) for each in differences)
    whole = f"{title} (p by Holm over {count} tests)"
    return [table(whole, HEADER, difference_rows(differences)), "", *conclusion(differences)]


def _commits(found: Found) -> list[str]:
    """Name the commits of the code, and whether all runs used the same one."""
    places = {cell: cell.folder / "run" for cell in found.steps if (cell.folder / "run" / LAUNCHES_FILE).is_file()}
    commits = {launch.commit for place in places.values() for launch in read_launches(place) if launch.commit}
    if len(commits) > 1:
        return [f"Caution: the runs were made by {len(commits)} states of the code: {', '.join(sorted(commits))}"]
    return [f"Code: {commit}" for commit in commits]


WORK_HEADER = ["", "seeds", "steps", "10^12 operations", "trained tokens", "sampled tokens", "CPU-seconds"]


def _work(experiment: Experiment, found: Found) -> list[list[str]]:
    rows = []
    for arm in experiment.arms:
        ended = {cell: each for cell, each in found.trainings.items() if cell.arm == arm and each and each.ended}
        compute = [each.compute for each in ended.values()]
        seconds = [
            sum(step.values.get("time/cpu_seconds", math.nan) for step in found.steps.get(cell, [])) for cell in ended
        ]
        columns = [
            ([float(each.iteration) for each in ended.values()], ".0f"),
            ([each.flops / 1e12 for each in compute], ".2f"),
            ([float(each.trained_tokens) for each in compute], ".0f"),
            ([float(each.sampled_tokens) for each in compute], ".0f"),
            (seconds, ".0f"),
        ]
        rows.append([arm, str(len(ended)), *(_mean_and_range(values, form) for values, form in columns)])
    return rows


def _mean_and_range(values: Sequence[float], form: str) -> str:
    if not values:
        return "–"
    average = format(sum(values) / len(values), form)
    low, high = format(min(values), form), format(max(values), form)
    return average if low == high else f"{average} ({low} to {high})"


def _means(experiment: Experiment, found: Found) -> tuple[list[str], list[list[str]]]:
    columns = {arm: list(of_arm.values()) for arm, of_arm in found.results.items()}
    header = ["", *(["start"] if found.start else []), *(f"{arm} ({len(of_arm)})" for arm, of_arm in columns.items())]
    models = [*([[found.start]] if found.start else []), *columns.values()]
    rows = []
    benchmarks = experiment.design.benchmarks
    for measure in (*MEASURES, *(benchmarks.names if benchmarks else ())):
        estimates = [mean(each, measure) for each in models]
        known = [each for each in estimates if each is not None]
        if known and not (measure.startswith("fault_") and all(each.mean == 0 for each in known)):
            rows.append([label(measure), *map(_cell, estimates)])
    return header, rows


def _cell(estimate: CrossedEstimate | None) -> str:
    if estimate is None:
        return "–"
    return f"{estimate.mean:.3f}" + ("" if math.isnan(estimate.half_width) else f" ± {estimate.half_width:.3f}")


def _runs(found: Found) -> list[dict[str, Any]]:
    """Describe every run for ``comparison.json``; ``left`` is empty for one that is done."""
    return [
        {"arm": cell.arm, "seed": cell.seed, "training": training, "left": found.missing.get(cell, "")}
        for cell, training in found.trainings.items()
    ]


def _plain(value: Any) -> Any:
    """Return the value in a form that JSON can represent, with null for NaN."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {each.name: _plain(getattr(value, each.name)) for each in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
