"""Put the results of a run together: a table, a picture of the evaluations and one of the run.

    python tools/report.py --evaluations BEFORE.json … AFTER.json [--run RUN] --output DIR

Prints the table and writes ``results.txt`` and ``evaluation.png``, and with ``--run`` also ``curves.png``. The
evaluations must be of the same passages (tools/evaluate.py), in the order in which they are to be read.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from megatron_pz.config.command_line import Parser
from megatron_pz.evaluation.results import Evaluation
from megatron_pz.evaluation.summary import MAIN_MEASURES, compare, rows, summarize
from megatron_pz.monitoring.metrics import read_metrics
from megatron_pz.reports.bars import draw_bars
from megatron_pz.reports.curves import draw_curves
from megatron_pz.reports.tables import table
from megatron_pz.runtime.errors import BadInput, exits_with_one_line

LABEL_WIDTH = 20


@exits_with_one_line
def main(argv: list[str] | None = None) -> None:
    """Command line entry point."""
    parser = Parser("Put the results of a run together.")
    parser.add_argument("--evaluations", type=Path, nargs="+", required=True, help="of tools/evaluate.py, in order")
    parser.add_argument("--run", type=Path, help="the run's --save folder")
    parser.add_argument("--output", type=Path, required=True, help="folder for the report")
    flags = parser.parse_args(argv)
    evaluations = [Evaluation.load(path) for path in flags.evaluations]
    steps = read_metrics(flags.run) if flags.run else []
    if len({evaluation.name for evaluation in evaluations}) < len(evaluations):
        raise BadInput("two evaluations have the same name: evaluate again with other --name")
    try:
        text = results(evaluations)
    except ValueError as error:
        raise BadInput(
            f"these evaluations cannot be compared ({error}): evaluate all on the same passages, by the same --config"
        ) from None
    try:
        flags.output.mkdir(parents=True, exist_ok=True)
        (flags.output / "results.txt").write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise BadInput(f"cannot write to --output {flags.output}: {error.strerror}") from None
    print(text)
    draw_evaluations(evaluations, flags.output / "evaluation.png")
    if flags.run:
        draw_curves(steps, flags.output / "curves.png", title="PretrainZero")


def results(evaluations: Sequence[Evaluation]) -> str:
    """Write the table and, in words, what the last training changed."""
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
