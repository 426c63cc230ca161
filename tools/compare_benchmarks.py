"""Compare models whose benchmark answers tools/evaluate.py has stored, each with the previous one.

    python tools/compare_benchmarks.py RESULTS/BASE OTHER_RESULTS/TRAINED [MODEL_FOLDER …] [--output FILE.json]

Questions are compared in pairs. Results with different recipes, settings or data are refused.
"""

from __future__ import annotations

from pathlib import Path

from megatron_pz.config.command_line import Parser
from megatron_pz.evaluation.benchmarks.comparison import compare_in_turn, save_comparisons
from megatron_pz.evaluation.benchmarks.scores import ModelScores
from megatron_pz.reports.benchmark_text import results_text
from megatron_pz.runtime.errors import BadInput, exits_with_one_line


@exits_with_one_line
def main(argv: list[str] | None = None) -> None:
    """Run the command line. Raise :class:`BadInput` for directories without results or that cannot be compared."""
    parser = Parser("Compare models whose benchmark answers tools/evaluate.py has kept.")
    parser.add_argument("folders", type=Path, nargs="+", help="two or more models' directories in --results, in order")
    parser.add_argument("--output", type=Path, help="JSON file for the comparisons")
    flags = parser.parse_args(argv)
    if len(flags.folders) < 2:
        raise BadInput("one directory was given: name at least two models' directories")
    models = [ModelScores.load(folder) for folder in flags.folders]
    comparisons = compare_in_turn(models, flags.folders)
    if flags.output:
        save_comparisons(comparisons, flags.output)
    print(results_text(models, comparisons))


if __name__ == "__main__":
    main()
