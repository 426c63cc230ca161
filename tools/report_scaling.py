"""Compare the speed of runs of one recipe on different numbers of processes: a table and a picture.

    python tools/report_scaling.py RUN RUN … --output DIR

The runs are ``--save`` directories, such as those of slurm/scaling.sh. Prints the table and writes ``scaling.txt`` and
``scaling.png``.
"""

from __future__ import annotations

from pathlib import Path

from megatron_pz.config.command_line import Parser
from megatron_pz.reports.scaling import draw_scaling, in_order, read_point, scaling_table
from megatron_pz.runtime.errors import BadInput, exits_with_one_line
from megatron_pz.runtime.files import write_text_whole


@exits_with_one_line
def main(argv: list[str] | None = None) -> None:
    """Run the command line."""
    parser = Parser("Compare the speed of runs of one recipe on different numbers of processes.")
    parser.add_argument("runs", type=Path, nargs="+", help="--save directories")
    parser.add_argument("--warm-up", type=int, default=1, help="steps after each start that do not count")
    parser.add_argument("--output", type=Path, required=True, help="directory for the table and the picture")
    flags = parser.parse_args(argv)
    if flags.warm_up < 0:
        raise BadInput(f"--warm-up {flags.warm_up}: must not be negative")
    points = in_order([read_point(run, flags.warm_up) for run in flags.runs])
    text = scaling_table(points)
    try:
        flags.output.mkdir(parents=True, exist_ok=True)
        write_text_whole(flags.output / "scaling.txt", text + "\n")
        draw_scaling(points, flags.output / "scaling.png")
    except OSError as error:
        raise BadInput(f"cannot write to --output {flags.output}: {error.strerror}") from None
    print(text)


if __name__ == "__main__":
    main()
