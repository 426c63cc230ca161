"""Tell whether a recipe fits on the GPUs of a cluster, and which parallel layouts would.

    python tools/plan_cluster.py --config examples/qwen3_4b/config.yaml --gpus 16 --gpu-memory 80 [--flags]
    python tools/plan_cluster.py --config examples/qwen3_8b/config.yaml --gpus 64 --gpu-memory 80 --layouts

Of the model's directory only config.json is read. Further flags are those of megatron_pz.train. With ``--layouts``
every layout is judged: those that fit are listed in the order to try them, then each reason why others do not. Exit
code 1 where the recipe, or with ``--layouts`` every layout, does not fit. The figures are arithmetic
(megatron_pz/planning/memory.py says what is counted); no GPU has confirmed them yet.
"""

from __future__ import annotations

import sys

from megatron_pz.config.command_line import Parser
from megatron_pz.config.parse import read_run_config
from megatron_pz.config.schema import RunConfig
from megatron_pz.hf.architecture import Architecture
from megatron_pz.planning.layouts import Layout, judge_layouts
from megatron_pz.planning.memory import GIB, MemoryPlan, data_parallel_sizes, plan_memory
from megatron_pz.reports.tables import table
from megatron_pz.runtime.errors import BadInput, exits_with_one_line

_SHOWN = 12
"""Layouts in the table."""


@exits_with_one_line
def main(argv: list[str] | None = None) -> None:
    """Command line entry point."""
    parser = Parser("Does a recipe fit on the GPUs of a cluster? Further flags are those of megatron_pz.train.")
    parser.add_argument("--gpus", type=int, required=True, help="of all nodes together")
    parser.add_argument("--gpu-memory", type=float, required=True, help="of one, in GiB")
    parser.add_argument("--gpus-per-node", type=int, default=8, help="tensor parallel ranks share a node (default: 8)")
    parser.add_argument("--layouts", action="store_true", help="judge every layout, not the recipe's own alone")
    own, flags = parser.parse_known_args(sys.argv[1:] if argv is None else argv)
    if own.gpus < 1 or own.gpu_memory <= 0 or own.gpus_per_node < 1:
        raise BadInput("--gpus, --gpu-memory and --gpus-per-node must be above 0")
    config = read_run_config(flags, "plan_cluster.py")
    if not config.model.hf_model:
        raise BadInput("--hf-model is missing: give a folder with the model's config.json")
    arch = Architecture.from_hf(config.model.hf_model)
    if own.layouts:
        layouts = judge_layouts(arch, config, own.gpus, own.gpu_memory, own.gpus_per_node)
        print(describe_layouts(layouts, own.gpus, own.gpu_memory))
        fits = not layouts[0].refusal
    else:
        plan = plan_memory(arch, config, own.gpus, own.gpu_memory)
        print(describe(plan, config, own.gpus))
        fits = plan.spare >= 0
        if not fits:
            best = judge_layouts(arch, config, own.gpus, own.gpu_memory, own.gpus_per_node)[0]
            print(f"a layout that fits: {best.flags}" if not best.refusal else "no layout fits: take more GPUs")
    if not fits:
        raise SystemExit(1)


def describe(plan: MemoryPlan, config: RunConfig, gpus: int) -> str:
    """Return the table of a plan and, in words, what follows from it."""
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
        f"{gpus} GPUs of {plan.gpu_memory / GIB:g} GiB: tensor {parallel.tensor_model_parallel_size} x pipeline "
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
            f"{' (optimizer offloaded)' if plan.offloads else ''}: {verdict}",
            f"keys and values of {plan.engine.cache_tokens:,} tokens: {fit} sequences of full length ({longest:,}) at "
            f"once, {rollout.rollout_max_num_seqs} at most",
            "of a node's own memory, while a checkpoint is written or read: "
            f"{plan.checkpoint_host / GIB:.1f} GiB for each of its processes",
        ]
    )


def describe_layouts(layouts: list[Layout], gpus: int, card_gib: float) -> str:
    """Return the table of the layouts that fit, in the order to try them, and below it why each other one does not."""
    rows: list[list[str]] = []
    for layout in layouts:
        if layout.refusal or layout.plan is None:
            continue
        copies = gpus // layout.gpus_of_a_copy
        sizes = layout.parallel
        counts = (
            sizes.tensor_model_parallel_size,
            sizes.pipeline_model_parallel_size,
            sizes.context_parallel_size,
            sizes.expert_model_parallel_size,
            copies,
        )
        memory = (layout.plan.updating(), layout.plan.sampling(), layout.plan.spare)
        rows.append([str(len(rows) + 1), *map(str, counts), *(f"{size / GIB:.1f}" for size in memory)])
    header = ["", "tensor", "pipeline", "context", "experts", "data", "training GiB", "sampling GiB", "free GiB"]
    title = f"layouts that fit on {gpus} GPUs of {card_gib:g} GiB, in the order to try them (by rule, not measured)"
    reasons: dict[str, list[str]] = {}
    for layout in layouts:
        if layout.refusal:
            reasons.setdefault(layout.refusal, []).append(layout.name)
    refused = [f"  {reason}: {_some(names)}" for reason, names in reasons.items()]
    best = [f"the first one's flags: {layouts[0].flags}"] if rows else ["no layout fits: take more GPUs"]
    shown = [table(title, header, rows[:_SHOWN]), ""] if rows else []
    if len(rows) > _SHOWN:
        shown.insert(1, f"and {len(rows) - _SHOWN} more that fit")
    return "\n".join([*shown, *best, "", "others do not fit:", *refused])


def _some(names: list[str]) -> str:
    """Return the first of several layouts with the number of the others."""
    return names[0] + (f", and {len(names) - 1} more" if len(names) > 1 else "")


if __name__ == "__main__":
    main()
