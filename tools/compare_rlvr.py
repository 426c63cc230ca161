"""Compare RLVR from two initial models: the held-out questions of runs with identical settings, in pairs.

    python tools/compare_rlvr.py --before RUN [RUN …] --after RUN [RUN …]

``--before`` names the runs from one initial model, one for each seed, ``--after`` those from the other. The accuracy of
a question is its mean over the seeds. An interval covers the choice of questions, but not that of seeds; the
differences of each seed are also printed.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from megatron_pz.config.command_line import Parser
from megatron_pz.config.parse import load_yaml
from megatron_pz.evaluation.statistics import Estimate, estimate, paired_difference
from megatron_pz.reports.run_folder import names_of
from megatron_pz.reports.tables import table
from megatron_pz.run.comparable import require_identical_settings
from megatron_pz.run.evaluation.held_out_questions import HELD_OUT_FILE
from megatron_pz.runtime.errors import BadInput, exits_with_one_line


class HeldOutRecord:
    """The evaluations of one run: the accuracy of every question by iteration."""

    def __init__(self, run: Path) -> None:
        path = run / HELD_OUT_FILE
        try:
            lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
            self.questions = {line["questions"] for line in lines}
            self.accuracy = {int(line["iteration"]): [_share(each) for each in line["accuracy"]] for line in lines}
        except OSError as error:
            raise BadInput(f"{path}: {error.strerror}; give runs of megatron_pz.rlvr with --eval-interval") from None
        except (ValueError, KeyError, TypeError, RecursionError):
            raise BadInput(f"{path} holds a line that megatron_pz.rlvr did not write") from None
        sizes = {len(of_step) for of_step in self.accuracy.values()}
        if 0 in sizes or len(sizes) > 1:
            raise BadInput(f"{path}: its evaluations are not of equally many questions; a line was changed")


def _share(value: Any) -> float:
    if not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise ValueError(f"{value!r} is not a share of right answers")
    return value


def compare(before: Sequence[HeldOutRecord], after: Sequence[HeldOutRecord]) -> list[list[str]]:
    """Return the rows of a table, one for each iteration at which all runs were evaluated.

    Raises:
        BadInput: the runs were asked different questions or different numbers of them, or have no evaluation in common.
    """
    runs = [*before, *after]
    if len({digest for run in runs for digest in run.questions}) != 1:
        raise BadInput("the runs were asked different held-out questions: compare runs on the same files or tasks")
    common = sorted(set.intersection(*(set(run.accuracy) for run in runs)))
    if not common:
        raise BadInput("no iteration at which all of these runs were evaluated")
    if len({len(run.accuracy[common[0]]) for run in runs}) != 1:
        raise BadInput("the runs have accuracies of different numbers of held-out questions: a file was changed")
    return [_row(step, *([run.accuracy[step] for run in each] for each in (before, after))) for step in common]


def _row(step: int, before: list[list[float]], after: list[list[float]]) -> list[str]:
    means = [_over_seeds(each) for each in (before, after)]
    difference = paired_difference(*means)
    seeds = [paired_difference(*pair).mean for pair in zip(before, after, strict=True)]
    return [
        str(step),
        *(_shown(estimate(each)) for each in means),
        f"{_shown(difference, '+')}{' *' if difference.excludes_zero() else ''}",
        ", ".join(f"{each:+.3f}" for each in seeds),
    ]


def _over_seeds(accuracies: list[list[float]]) -> list[float]:
    return [sum(of_question) / len(of_question) for of_question in zip(*accuracies, strict=True)]


def _shown(value: Estimate, sign: str = "") -> str:
    return f"{value.mean:{sign}.3f} ± {value.half_width:.3f}"


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Parse the flags."""
    parser = Parser("Compare RLVR from two initial models on held-out questions.")
    parser.add_argument(
        "--before", type=Path, nargs="+", required=True, help="runs from one initial model, one per seed"
    )
    parser.add_argument(
        "--after", type=Path, nargs="+", required=True, help="runs from the other initial model, in the same order"
    )
    return parser.parse_args(argv)


def require_equal_seeds(before: Sequence[Path], after: Sequence[Path]) -> None:
    """Raise BadInput if the seeds of the two initial models' runs differ."""
    seeds = [[load_yaml(run / "config.yaml").training.seed for run in runs] for runs in (before, after)]
    if seeds[0] != seeds[1]:
        raise BadInput(
            f"--before has the seeds {seeds[0]} and --after {seeds[1]}: give runs of equal seeds, in one order"
        )


@exits_with_one_line
def main(argv: list[str] | None = None) -> None:
    """Print the table. Raise :class:`BadInput` for runs that cannot be compared in pairs."""
    flags = parse(argv)
    if len(flags.before) != len(flags.after):
        raise BadInput(
            f"--before names {len(flags.before)} runs and --after {len(flags.after)}: give pairs, a seed each"
        )
    for runs in (flags.before, flags.after):
        names_of(runs)  # refuses a run that is named twice, which would pass for two seeds
    require_identical_settings([*flags.before, *flags.after])
    require_equal_seeds(flags.before, flags.after)
    rows = compare([HeldOutRecord(run) for run in flags.before], [HeldOutRecord(run) for run in flags.after])
    print(table("Held-out accuracy", ["step", "before", "after", "paired difference", "seed by seed"], rows))
    print("± half-width of a 95 % interval over questions; * marks a difference whose interval excludes zero")


if __name__ == "__main__":
    main()
