r"""Run the paper's baselines without reinforcement learning.

    torchrun --nproc-per-node N -m megatron_pz.baselines --objective continue_pt --config FILE [--flags]

``--objective`` is ``continue_pt`` or ``sft_mask`` (:mod:`megatron_pz.run.baselines`). Optimizer, schedule, packing,
checkpoints and the account of the compute are those of ``megatron_pz.train``. The result is a Hugging Face directory,
``<save>/hf``.
"""

from __future__ import annotations

import sys

from megatron_pz.config.parse import parse_run_config
from megatron_pz.run.baselines import baseline
from megatron_pz.runtime.errors import exits_with_one_line


@exits_with_one_line
def main() -> None:
    """Run the baseline that the flags ask for; exit codes are those of ``megatron_pz.train``."""
    baseline(parse_run_config(sys.argv[1:], "megatron_pz.baselines"))


if __name__ == "__main__":
    main()
