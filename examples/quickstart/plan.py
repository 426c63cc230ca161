"""Print at the start of the quickstart its precision and its estimated time on this machine.

    python examples/quickstart/plan.py --steps 17 --processes 1

Prints the plan to standard error and the precision, ``bf16`` or ``fp32``, to standard output.
"""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import dataclass

from megatron_pz.run.precision import fastest_precision, why_fastest
from megatron_pz.runtime.matrix_speed import matrix_speed


@dataclass(frozen=True)
class Work:
    """The cost of a phase, with SmolLM2-135M and the settings of ``config.yaml``."""

    teraflops: float
    """Matrix products in 10^12 operations; this machine's measured rate gives their time."""
    cpu_seconds: float
    """All other work, divided among the cores: a value between those of two AMD EPYCs. One of the fourth generation
    needs up to a fifth less, one of the third (2.45 GHz) up to a fifth more."""

    def seconds(self, gigaflops: float, cores: int) -> float:
        """Return the time at a rate of ``gigaflops`` on all cores together."""
        return 1000 * self.teraflops / gigaflops + self.cpu_seconds / cores


COLD_START = Work(teraflops=40 * 1.2, cpu_seconds=40 * 8.0)
STEP = Work(teraflops=3.75, cpu_seconds=33.0)
"""One step of PretrainZero: 48 proposals, 8 predictions of each different mask, one update. It takes 33.6 seconds on
two idle cores of the newer EPYC at 91 GFLOP/s each (float32, AVX2) and 42 on two of the older at 81."""
EVALUATION = Work(teraflops=11.4, cpu_seconds=58.0)
"""One model on 160 passages: about 32,000 prompt tokens and 18,000 sampled ones. The CPU-seconds were measured on a
Xeon (48) and scaled as the step's; they were not fitted."""
START_UP_SECONDS = 120.0
"""Imports, three engines, passages, export, report: on one core."""


def minutes(steps: int, gigaflops: float, cores: int) -> dict[str, float]:
    """Return the minutes of each part of a first call, after the downloads."""
    parts = {
        "cold start": COLD_START.seconds(gigaflops, cores),
        "evaluations": 3 * EVALUATION.seconds(gigaflops, cores),
        f"{steps} steps of PretrainZero": steps * STEP.seconds(gigaflops, cores),
        "start-up and export": START_UP_SECONDS,
    }
    return {name: seconds / 60 for name, seconds in parts.items()}


def main() -> None:
    """Print plan and precision."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--processes", type=int, required=True)
    given = parser.parse_args()
    precision = fastest_precision()
    cores = min(len(os.sched_getaffinity(0)), given.processes * int(os.environ.get("OMP_NUM_THREADS", "1")))
    parts = minutes(given.steps, matrix_speed().of(precision) * cores, cores)
    whole = ", ".join(f"{name} {part:.0f}" for name, part in parts.items())
    name = {"bf16": "bfloat16", "fp32": "float32"}[precision]
    print(f"computing in {name} ({why_fastest()})", file=sys.stderr)
    print(
        f"about {sum(parts.values()):.0f} minutes on {cores} idle core{'s' if cores > 1 else ''} ({whole}); "
        "what an earlier call has kept is not done again",
        file=sys.stderr,
    )
    print(precision)


if __name__ == "__main__":
    main()
