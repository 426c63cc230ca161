"""Run a grid of trainings with equal compute or equal steps, evaluate every run equally, and compare the arms.

    python tools/run_experiment.py EXPERIMENT.yaml --output DIR [--hf-model DIR] [--data-path PREFIX …]
        [--valid-data-path PREFIX …] [--precision bf16]         one run after another on this machine
    python tools/run_experiment.py EXPERIMENT.yaml --output DIR … --sbatch slurm/pz_qwen3_4b.sh
                                                                a Slurm array, and a job that compares its runs
    python tools/run_experiment.py EXPERIMENT.yaml --output DIR … --list | --compare
                                                                list the remaining work; compare the results so far

After an interruption or a kill, the same command continues without repeating finished work.
``megatron_pz/experiment/design.py`` describes the file. Exit codes: 0 all runs are done, 1 some failed (the others are
still compared), 2 bad input, 3 stopped by a signal.
"""

from __future__ import annotations

import argparse
import os
import shlex
from pathlib import Path
from typing import Any

from megatron_pz.config.command_line import Parser
from megatron_pz.experiment.commands import left_to_do, run_cells, submit
from megatron_pz.experiment.design import Experiment, read_experiment
from megatron_pz.experiment.progress import Evaluations
from megatron_pz.experiment.report import write_comparison
from megatron_pz.reports.tables import table
from megatron_pz.runtime.errors import BadInput, ExpectedFailure, exits_with_one_line


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Parse the flags."""
    parser = Parser("Run a grid of trainings, evaluate every run alike, and compare the arms.")
    parser.add_argument("experiment", type=Path, help="the experiment's YAML file")
    parser.add_argument("--output", type=Path, required=True, help="directory of a new or unfinished experiment")
    parser.add_argument("--hf-model", type=Path, help="the model that all runs start from; default: the recipe's")
    parser.add_argument("--data-path", nargs="+", help="passages to train on; default: the recipe's")
    parser.add_argument("--valid-data-path", nargs="+", help="held-out passages; default: the recipe's")
    parser.add_argument(
        "--precision", choices=["bf16", "fp32"], help="precision of all runs (default: the file's or the recipe's)"
    )
    parser.add_argument("--benchmark-data", type=Path, help="directory of the benchmarks, if the experiment asks any")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--list", action="store_true", help="only list the remaining work")
    mode.add_argument("--compare", action="store_true", help="only compare what is there")
    mode.add_argument("--no-training", action="store_true", help="only evaluate and compare the trained runs")
    mode.add_argument("--sbatch", metavar="SCRIPT", help="submit the runs as an array of this script of slurm/")
    parser.add_argument("--sbatch-flags", default="", help='sbatch flags of the array, e.g. "--nodes=1 --time=4:00:00"')
    flags = parser.parse_args(argv)
    if flags.sbatch_flags and not flags.sbatch:
        raise BadInput("--sbatch-flags: give --sbatch, too")
    try:
        flags.sbatch_flags = shlex.split(flags.sbatch_flags)
    except ValueError as error:
        raise BadInput(f"--sbatch-flags {flags.sbatch_flags}: {error}") from None
    return flags


def inputs(flags: argparse.Namespace) -> dict[str, Any]:
    """Return the settings of this machine, with absolute paths, because runs start in other directories."""
    found: dict[str, Any] = {}
    if flags.hf_model:
        found["hf_model"] = str(flags.hf_model.absolute())
    if flags.precision:
        found["precision"] = flags.precision
    for name in ("data_path", "valid_data_path"):
        if words := getattr(flags, name):
            found[name] = [str(Path(word).absolute()) if Path(f"{word}.idx").is_file() else word for word in words]
    return found


def again(flags: argparse.Namespace) -> list[str]:
    """Return the flags with which another process evaluates and compares the same experiment."""
    words = [str(flags.experiment.absolute()), "--output", str(flags.output.absolute()), "--no-training"]
    for name, value in inputs(flags).items():
        words += [f"--{name.replace('_', '-')}", *([value] if isinstance(value, str) else value)]
    if flags.benchmark_data:
        words += ["--benchmark-data", str(flags.benchmark_data.absolute())]
    return words


def show(experiment: Experiment, output: Path) -> None:
    """Print a table of all runs and the remaining work of each."""
    left = left_to_do(experiment, Evaluations(experiment, output))
    rows = [[str(number), cell.name, left.get(cell, "done")] for number, cell in enumerate(experiment.cells, 1)]
    print(table(f"{len(rows) - len(left)} of {len(rows)} runs are done", ["", "run", ""], rows))


@exits_with_one_line
def main(argv: list[str] | None = None) -> None:
    """Run the command line."""
    if int(os.environ.get("RANK", "0")) > 0:  # one process starts the commands, which use the whole node
        return
    flags = parse(argv)
    data = flags.benchmark_data and flags.benchmark_data.absolute()
    experiment = read_experiment(flags.experiment, flags.output, inputs(flags), data)
    if not experiment.common.data.valid_data_path:
        raise BadInput("--valid-data-path is missing: every run is evaluated on held-out passages")
    if flags.list:
        show(experiment, flags.output)
        return
    if flags.sbatch:
        submit(experiment, flags.output, flags.sbatch, flags.sbatch_flags, again(flags))
        return
    failures = [] if flags.compare else run_cells(experiment, flags.output, train=not flags.no_training)
    title = f"Experiment {flags.experiment.resolve().parent.name}/{flags.experiment.name}"
    print(write_comparison(experiment, flags.output, title))
    print(f"\n{flags.output}: comparison.txt, comparison.json, curves.png")
    if failures:
        raise ExpectedFailure("; ".join(failures))


if __name__ == "__main__":
    main()
