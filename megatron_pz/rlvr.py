"""Train by reinforcement learning with verifiable rewards: question answering on the loop of ``megatron_pz.train``.

    torchrun --nproc-per-node N -m megatron_pz.rlvr --config FILE --hf-model DIR --save DIR [--flags]

Questions come from files (``--question-path``) or are generated (``--reasoning-gym-tasks``). Optimizer, packing,
checkpoints, logs, signals and exit codes are those of ``megatron_pz.train``.
"""

from __future__ import annotations

import os
import sys

from megatron_pz.config.parse import parse_run_config
from megatron_pz.run.objective import Schedule
from megatron_pz.run.rlvr import RlvrObjective
from megatron_pz.run.run import run
from megatron_pz.runtime.errors import exits_with_one_line


@exits_with_one_line
def main() -> None:
    """Train. Exit codes are those of ``megatron_pz.train``."""
    config = parse_run_config(sys.argv[1:], "megatron_pz.rlvr")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    run(config, Schedule.from_config(config.training), RlvrObjective)


if __name__ == "__main__":
    main()
