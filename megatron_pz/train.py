"""Train by PretrainZero.

    python -m megatron_pz.train --config FILE [--flags]                              one process
    torchrun --nproc-per-node N -m megatron_pz.train --config FILE [--flags]         N processes

There is one process for each device. Each holds its shard of the Megatron policy and a vLLM engine of its own, or one
that it shares with neighbouring ranks (``rollout_tensor_parallel_size``). With ``rollout_ranks`` the last processes
hold only engines, and the others hold the trainer. The run directory (``--save``) receives the resolved configuration,
checkpoints, metrics and samples; ``--load`` with the same directory resumes the run.
"""

from __future__ import annotations

import os
import sys

from megatron_pz.config.parse import parse_run_config
from megatron_pz.run.objective import Schedule
from megatron_pz.run.pretrain_zero import PretrainZeroObjective
from megatron_pz.run.rollout_rank import is_rollout_rank, serve_rollouts
from megatron_pz.run.run import run
from megatron_pz.runtime.errors import exits_with_one_line


@exits_with_one_line
def main() -> None:
    """Train. Exit with 0 when all steps are done, with 3 after a signal and with 4 after a collapse."""
    config = parse_run_config(sys.argv[1:], "megatron_pz.train")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    ranks = config.rollout.rollout_ranks
    if is_rollout_rank(ranks):
        serve_rollouts(config)
    else:
        run(config, Schedule.from_config(config.training), PretrainZeroObjective, ranks)


if __name__ == "__main__":
    main()
