"""Report the results of runs: one HTML page, or a table and pictures of evaluations.

    python tools/report.py RUN [RUN …] [--evaluations A.json …] [--output PAGE.html] [--watch SECONDS]

writes one self-contained HTML page: curves of all runs on the same axes, the stored masks with their predictions,
difficulty, evaluations. It opens from a file and needs no network. Repeat the command during a run, or use ``--watch``.

    python tools/report.py --evaluations BEFORE.json … AFTER.json [--run RUN] --output DIR

prints the table and writes ``results.txt`` and ``evaluation.png``, and with ``--run`` also ``curves.png`` and
``report.html``. The evaluations must be of the same passages (tools/evaluate.py), in the order of the report.
"""

from __future__ import annotations

import argparse
import math
import sys
import textwrap
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from megatron_pz.config.command_line import Parser
from megatron_pz.evaluation.benchmarks.scores import ModelScores
from megatron_pz.evaluation.results import Evaluation
from megatron_pz.evaluation.summary import MAIN_MEASURES, compare, rows, summarize
from megatron_pz.monitoring.metrics import read_metrics
from megatron_pz.reports.bars import draw_bars
from megatron_pz.reports.benchmark_tables import benchmark_tables
from megatron_pz.reports.curves import draw_curves
from megatron_pz.reports.evaluation_tables import evaluation_tables
from megatron_pz.reports.run_folder import RunFolder, names_of, require_one_corpus
from megatron_pz.reports.run_page import MAX_MIB, write_run_page
from megatron_pz.reports.tables import table
from megatron_pz.runtime.errors import BadInput, exits_with_one_line
from megatron_pz.runtime.files import write_text_whole

LABEL_WIDTH = 20


@exits_with_one_line
def main(argv: list[str] | None = None) -> None:
    """Run the command line."""
    flags = parse(argv)
    folders = [path for path in flags.evaluations if path.is_dir()]
    models = [ModelScores.load(folder) for folder in folders]
    evaluations = [Evaluation.load(path) for path in flags.evaluations if not path.is_dir()]
    if folders and not flags.runs:
        raise BadInput(f"{folders[0]} is a directory: benchmark results need a RUN whose page shows them")
    if any(len({each.name for each in named}) < len(named) for named in (evaluations, models)):
        raise BadInput("two evaluations have the same name: evaluate again with other --name")
    try:
        text = results(evaluations) if evaluations else ""
    except ValueError as error:
        raise BadInput(
            f"these evaluations cannot be compared ({error}): evaluate all on the same passages, by the same --config"
        ) from None
    if flags.runs:
        tables = joined(evaluation_tables(evaluations), benchmark_tables(models, folders))
        write_page(flags, tables)
        return
    steps = read_metrics(flags.run) if flags.run else []
    try:
        flags.output.mkdir(parents=True, exist_ok=True)
        write_text_whole(flags.output / "results.txt", text + "\n")
        print(text)
        draw_evaluations(evaluations, flags.output / "evaluation.png")
        if flags.run:
            draw_curves(steps, flags.output / "curves.png", title="PretrainZero")
    except OSError as error:
        raise BadInput(f"cannot write to --output {flags.output}: {error.strerror}") from None
    if flags.run:
        tables = evaluation_tables(evaluations)
        make_page([flags.run], names_of([flags.run]), tables, flags.output / "report.html", flags.max_mib)


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Parse the flags of both forms of the command."""
    parser = Parser("Report the results of runs: one HTML page, or a table and pictures of evaluations.")
    parser.add_argument("runs", type=Path, nargs="*", metavar="RUN", help="--save directories of runs, for the page")
    parser.add_argument(
        "--name", nargs="+", help="names of the runs on the page; those of their directories if left out"
    )
    parser.add_argument(
        "--evaluations",
        type=Path,
        nargs="+",
        default=[],
        help="results of tools/evaluate.py, in order: files, and for the page also directories of --benchmarks",
    )
    parser.add_argument("--run", type=Path, help="--save directory of the run, for the pictures")
    parser.add_argument("--output", type=Path, help="the page (report.html in the run's directory), or a directory")
    parser.add_argument(
        "--max-mib", type=float, default=MAX_MIB, help="maximum size of the page, MiB; what exceeds it is sampled"
    )
    parser.add_argument("--watch", type=float, metavar="SECONDS", help="write the page again every SECONDS")
    flags = parser.parse_args(argv)
    if not flags.runs and not flags.evaluations:
        raise BadInput("give the directories of runs for a page, or --evaluations for a table")
    if not flags.runs and flags.output is None:
        raise BadInput("--output is missing: give the directory for the table and the pictures")
    if flags.runs and flags.run:
        raise BadInput("give the directories of runs, or --run for the pictures, not both")
    if flags.name and len(flags.name) != len(flags.runs):
        raise BadInput(f"--name has {len(flags.name)} values for {len(flags.runs)} runs: name each")
    if flags.name and len(set(flags.name)) < len(flags.name):
        raise BadInput("--name: two runs have the same name")
    if not 0 < flags.max_mib < math.inf:
        raise BadInput(f"--max-mib {flags.max_mib:g}: must be above 0")
    if flags.watch is not None and not (flags.runs and flags.watch > 0):
        raise BadInput("--watch needs the directory of a run and a number of seconds above 0")
    return flags


def write_page(flags: argparse.Namespace, tables: dict[str, Any]) -> None:
    """Write the page of the runs; with ``--watch``, repeat until Ctrl-C."""
    page = flags.output
    if page is None:
        page = flags.runs[0] / "report.html" if len(flags.runs) == 1 else Path("report.html")
    if page.is_dir():
        raise BadInput(f"--output {page} is a directory: name the page, such as {page / 'report.html'}")
    names = flags.name or names_of(flags.runs)
    make_page(flags.runs, names, tables, page, flags.max_mib)
    print(f"{page} ({page.stat().st_size / 2**20:.1f} MiB)", flush=True)
    while flags.watch is not None:
        time.sleep(flags.watch)
        make_page(flags.runs, names, tables, page, flags.max_mib, warn=False)


def make_page(
    folders: Sequence[Path],
    names: Sequence[str],
    tables: dict[str, Any],
    path: Path,
    max_mib: float,
    *,
    warn: bool = True,
) -> None:
    """Read the runs and write their page; with ``warn``, warn of runs without samples."""
    runs = [RunFolder.open(folder, name) for folder, name in zip(folders, names, strict=True)]
    try:
        require_one_corpus(runs)
        for folder, run in zip(folders, runs, strict=True):
            if run.samples is None and warn:
                print(f"{folder} has no samples.jsonl: the page shows no masks of it", file=sys.stderr)
        write_run_page(path, runs, tables, title=" against ".join(names), max_mib=max_mib)
    finally:
        for run in runs:
            if run.samples is not None:
                run.samples.close()


def joined(*found: dict[str, Any]) -> dict[str, Any]:
    """Merge the tables and the items of several kinds of evaluations."""
    return {
        "tables": [table for each in found for table in each["tables"]],
        "items": [item for each in found for item in each["items"]],
        "all_items": sum(each["all_items"] for each in found),
    }


def results(evaluations: Sequence[Evaluation]) -> str:
    """Return the table and sentences about the effect of the last training."""
    title = f"{len(evaluations[0].passages)} held-out passages, mean ± 95 % half-width"
    lines = [table(title, ["", *(evaluation.name for evaluation in evaluations)], rows(evaluations)), ""]
    if len(evaluations) > 1:
        lines.append("▲ ▼ higher or lower than in the column to the left: the 95 % interval of the paired difference")
        lines.append("    excludes 0. Intervals are over passages, for one training seed.")
    for before, after in list(pairwise(evaluations))[-1:]:
        lines += ["", f"{before.name} -> {after.name}:"]
        for name, change in compare(before, after).items():
            if name in MAIN_MEASURES and change.difference.units > 1:
                verdict = "beyond its interval" if change.beyond_interval else "within its interval"
                size = f"{change.difference.mean:+.3f} ± {change.difference.half_width:.3f}"
                lines.append(f"  {MAIN_MEASURES[name][0]:34s} {size}   {verdict}")
    return "\n".join(lines)


def draw_evaluations(evaluations: Sequence[Evaluation], path: Path) -> None:
    """Draw the main measures of all evaluations as bars; a measure that was not sampled has no bar."""
    summaries = {evaluation.name: summarize(evaluation) for evaluation in evaluations}
    asked = [name for name in MAIN_MEASURES if any(summary[name].units for summary in summaries.values())]
    labels = [textwrap.fill(MAIN_MEASURES[name][0], LABEL_WIDTH) for name in asked]
    bars = {
        model: [(summary[name].mean, summary[name].half_width) for name in asked]
        for model, summary in summaries.items()
    }
    draw_bars(path, f"{len(evaluations[0].passages)} held-out passages, 95 % intervals", labels, bars)


if __name__ == "__main__":
    main()
