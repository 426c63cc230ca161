"""Run the supervised cold start, which teaches a small model both answer formats.

    torchrun --nproc-per-node N -m megatron_pz.cold_start --config FILE --hf-model DIR --data-path PREFIX --save OUT

The result is a Hugging Face directory, ``OUT/hf``, to start reinforcement learning from
(:mod:`megatron_pz.run.cold_start`).
"""

from __future__ import annotations

import sys

from megatron_pz.config.parse import parse_run_config
from megatron_pz.run.cold_start import cold_start
from megatron_pz.runtime.errors import exits_with_one_line


@exits_with_one_line
def main() -> None:
    """Run the cold start that the flags ask for."""
    cold_start(parse_run_config(sys.argv[1:], "megatron_pz.cold_start"))


if __name__ == "__main__":
    main()
