"""Measure the saving of shared-prompt packing in an update, compared with the padding of other GRPO trainers.

    python -m benchmarks.training.shared_prompt_packing --hf-model DIR [--precision bf16|fp32] [--groups 2]

Both sides have the same policy, loss and optimizer step, and compute log-probabilities only for the response tokens.
All responses have one length, the best case for padding. The measure is CPU-seconds on one thread. The
log-probabilities of both sides are also compared.
"""

from __future__ import annotations

import sys
from functools import partial

import torch

from benchmarks.common.cpu import compared, require_positive, write_result
from benchmarks.gpu.update_rate import random_groups
from benchmarks.training.padded import one_row_each, padded_batch, padded_policy
from megatron_pz.config.command_line import Parser
from megatron_pz.config.schema import GrpoConfig, ModelConfig, OptimizerConfig, ParallelConfig
from megatron_pz.rl.losses import policy_loss
from megatron_pz.rl.packing import LossWeighting
from megatron_pz.run.precision import fastest_precision
from megatron_pz.runtime.errors import exits_with_one_line
from megatron_pz.trainer.policy import Policy
from megatron_pz.trainer.topology import Topology

SAMPLES = 8
SHAPES = {(300, 60): 2.5, (200, 24): 3.5}
"""Prompt and response tokens, and the target of the ratio."""


@exits_with_one_line
def main() -> None:
    flags = Parser(__doc__.split("\n")[0])
    flags.add_argument("--hf-model", required=True)
    flags.add_argument("--precision", choices=["bf16", "fp32"], default=fastest_precision())
    flags.add_argument("--groups", type=int, default=2, help="groups of 8 samples in an update")
    flags.add_argument("--repeats", type=int, default=2)
    given = flags.parse_args(sys.argv[1:])
    require_positive(given, "groups", "repeats")
    torch.set_num_threads(1)
    topology = Topology.start(ParallelConfig(), seed=1)
    model = ModelConfig(hf_model=given.hf_model, bf16=given.precision == "bf16")
    policy = Policy(model, ParallelConfig(), OptimizerConfig(lr=1e-9), topology)
    loss = partial(policy_loss, grpo=GrpoConfig(mismatch_correction="off"))
    figures: dict[str, float] = {}
    for (prompt, response), goal in SHAPES.items():
        groups = random_groups(
            policy.architecture.vocab_size, prompt=prompt, response=response, responses=SAMPLES, count=given.groups
        )
        weighting = LossWeighting.of(groups, "sequence_mean", max_response_length=response)
        packed = one_row_each(policy, groups, weighting)
        padded = [padded_batch(group, row) for group, row in zip(groups, packed, strict=True)]

        def update_padded(padded: list = padded) -> None:
            with padded_policy(policy, SAMPLES):
                policy.update(padded, loss, 1e-9)

        def update_packed(packed: list = packed) -> None:
            policy.update(packed, loss, 1e-9)

        with padded_policy(policy, SAMPLES):
            expected = policy.log_probs(padded)
        apart = [(one - other).abs() for one, other in zip(policy.log_probs(packed), expected, strict=True)]
        seconds = compared({"padded": update_padded, "packed": update_packed}, repeats=given.repeats)
        step = compared({"step": policy.optimizer.step}, repeats=1)["step"]
        name = f"{prompt}+{response}"
        figures |= {f"{name} {side}, CPU-s an update": value for side, value in seconds.items()}
        figures[f"{name} of which the optimizer's step"] = step
        figures[f"{name} packed against padded (goal {goal})"] = seconds["padded"] / seconds["packed"]
        figures[f"{name} |log p packed - log p padded|, mean"] = float(torch.cat(apart).mean())
    write_result(f"shared_prompt_packing_{given.precision}", vars(given), figures)
    topology.close()


if __name__ == "__main__":
    main()
