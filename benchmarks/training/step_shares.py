"""Divide the time of a run's steps into engines, passes of the model, and the rest.

    python -m benchmarks.training.step_shares --run FOLDER

FOLDER is the ``--save`` of any run; only its ``metrics.jsonl`` is read. Checkpoints and evaluations are separate,
because their share follows from ``save_interval`` and ``eval_interval``. Within the rollout only calls of vLLM count,
within the update only forward passes, backward passes and optimizer steps; the rest is data, prompts, rewards, packing,
weight sync, logging, and waiting for other ranks. The shares are of wall time within one run, so other load affects all
parts.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.common.cpu import write_result
from megatron_pz.config.command_line import Parser
from megatron_pz.runtime.errors import BadInput, exits_with_one_line

GOAL = 0.05
OCCASIONAL = ("checkpoint", "evaluation")


def shares(steps: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return each part's share of the steps' time without checkpoints and evaluations; ``outside`` is the rest."""

    def total(part: str) -> float:
        return sum(step.get(f"time/{part}", 0.0) for step in steps)

    occasional = {part: total(part) for part in OCCASIONAL}
    stepping = total("iteration") - sum(occasional.values())
    found = {part: total(part) / stepping for part in ("rollout_engines", "update_passes", "sync")}
    found["outside"] = 1 - found["rollout_engines"] - found["update_passes"]
    return found | {part: taken / total("iteration") for part, taken in occasional.items()}


@exits_with_one_line
def main() -> None:
    flags = Parser(__doc__.split("\n")[0])
    flags.add_argument("--run", type=Path, required=True, help="folder of a run (its --save)")
    given = flags.parse_args(sys.argv[1:])
    try:
        lines = (given.run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise BadInput(f"{given.run / 'metrics.jsonl'}: {error.strerror}") from None
    steps = [json.loads(line) for line in lines]
    if not steps or "time/rollout_engines" not in steps[0]:
        raise BadInput(f"{given.run / 'metrics.jsonl'} has no step with the times of engines and passes")
    found = shares(steps)
    figures = {
        "steps": len(steps),
        "median seconds of a step": statistics.median(step["time/iteration"] for step in steps),
        "engines, share": found["rollout_engines"],
        "passes of the model, share": found["update_passes"],
        f"outside rollout and update, share (goal at most {GOAL})": found["outside"],
        "of it weight sync, share": found["sync"],
        **{f"{part}s, share of the whole run": found[part] for part in OCCASIONAL},
    }
    write_result("step_shares", {"run": given.run.resolve().parent.name}, figures)


if __name__ == "__main__":
    main()
