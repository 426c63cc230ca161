"""Does a recipe fit on the GPUs of a cluster? What each needs, worked out without one, and without the weights.

    python tools/plan_cluster.py --config examples/qwen3_4b/config.yaml --gpus 16 --gpu-memory 80 [--flags]

Of the model's folder only config.json is read. Further flags are those of megatron_pz.train: try other layouts with
them. Exit code 1 where the run does not fit. The figures are arithmetic (megatron_pz/planning/memory.py says what is
in it); no GPU has confirmed them yet.
"""

from __future__ import annotations

import sys

from megatron_pz.config.command_line import Parser
from megatron_pz.config.parse import read_run_config
from megatron_pz.config.schema import RunConfig
from megatron_pz.hf.architecture import Architecture
from megatron_pz.planning.memory import GIB, MemoryPlan, data_parallel_sizes, plan_memory
from megatron_pz.reports.tables import table
from megatron_pz.runtime.errors import BadInput, exits_with_one_line


@exits_with_one_line
def main(argv: list[str] | None = None) -> None:
    """Command line entry point."""
    parser = Parser("Does a recipe fit on the GPUs of a cluster? Further flags are those of megatron_pz.train.")
    parser.add_argument("--gpus", type=int, required=True, help="of all nodes together")
    parser.add_argument("--gpu-memory", type=float, required=True, help="of one, in GiB")
    own, flags = parser.parse_known_args(sys.argv[1:] if argv is None else argv)
    if own.gpus < 1 or own.gpu_memory <= 0:
        raise BadInput("--gpus and --gpu-memory must be above 0")
    config = read_run_config(flags, "plan_cluster.py")
    if not config.model.hf_model:
        raise BadInput("--hf-model is missing: give a folder with the model's config.json")
    plan = plan_memory(Architecture.from_hf(config.model.hf_model), config, own.gpus, own.gpu_memory)
    print(describe(plan, config, own.gpus))
    if plan.spare < 0:
        raise SystemExit(1)


def describe(plan: MemoryPlan, config: RunConfig, gpus: int) -> str:
    """The table and, in words, what follows from it."""
    parallel, rollout = config.parallel, config.rollout
    rows = [
        [name, *(f"{getattr(stage, field) / GIB:.1f}" for stage in plan.stages)]
        for name, field in (
            ("trainer: weights", "weights"),
            ("trainer: gradients", "gradients"),
            ("trainer: optimizer", "optimizer"),
            (f"trainer: activations of {config.training.micro_batch_tokens:,} tokens", "activations"),
            ("trainer: log-probabilities", "log_probs"),
        )
    ]
    rows.append(["engine: weights", *[f"{plan.engine.weights / GIB:.1f}"] * len(plan.stages)])
    rows.append(["engine: keys and values", *[f"{plan.engine.cache / GIB:.1f}"] * len(plan.stages)])
    ranks = data_parallel_sizes(parallel, gpus)[0] // parallel.context_parallel_size
    title = (
        f"{gpus} GPUs of {plan.card / GIB:g} GiB: tensor {parallel.tensor_model_parallel_size} x pipeline "
        f"{parallel.pipeline_model_parallel_size} x context {parallel.context_parallel_size}, {ranks} data-parallel"
    )
    stages = ["GiB on a GPU"] if len(plan.stages) == 1 else [f"stage {number}" for number in range(len(plan.stages))]
    longest = rollout.max_prompt_length + rollout.max_response_length
    fit = plan.engine.cache_tokens // longest
    verdict = f"fits, {plan.spare / GIB:.1f} GiB to spare" if plan.spare >= 0 else f"lacks {-plan.spare / GIB:.1f} GiB"
    return "\n".join(
        [
            title,
            table("", ["", *stages], rows),
            "",
            f"while the trainer works {plan.updating() / GIB:.1f} GiB"
            f"{' (engines asleep)' if plan.sleeps else ''}, while the engines sample {plan.sampling() / GIB:.1f} GiB"
            f"{' (optimizer put aside)' if plan.offloads else ''}: {verdict}",
            f"keys and values of {plan.engine.cache_tokens:,} tokens: {fit} sequences of full length ({longest:,}) at "
            f"once, {rollout.rollout_max_num_seqs} at most",
            "of a node's own memory, while a checkpoint is written or read: "
            f"{plan.checkpoint_host / GIB:.1f} GiB for each of its processes",
        ]
    )


if __name__ == "__main__":
    main()
