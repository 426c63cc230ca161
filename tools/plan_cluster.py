"""Determine whether a recipe fits on the GPUs of a cluster, which parallel layouts fit, and how long a step takes.

    python tools/plan_cluster.py --config examples/qwen3_4b/config.yaml --gpu H100 --gpus 16 [--flags]
    python tools/plan_cluster.py --config examples/qwen3_8b/config.yaml --gpu H100 --gpus 64 --layouts
    python tools/plan_cluster.py --config examples/qwen3_4b/config.yaml --gpu H100 --gpus 64 --calibrate runs/qwen3_4b

Only config.json of the model's directory is read. Further flags are those of megatron_pz.train. With ``--layouts``
every layout is judged: those that fit are listed, fastest first, then each reason why others do not. The exit code is 1
if the recipe, or with ``--layouts`` every layout, does not fit. Memory is computed by arithmetic
(megatron_pz/planning/memory.py lists the terms), and time by a simulation (megatron_pz/planning/step_time). No GPU has
confirmed them yet; with ``--calibrate`` the simulation takes its rates from a run. ``--gpu-memory`` without ``--gpu``
judges only memory.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import replace

from megatron_pz.config.command_line import Parser
from megatron_pz.config.parse import read_run_config
from megatron_pz.config.schema import RunConfig
from megatron_pz.hf.architecture import Architecture
from megatron_pz.planning.layouts import Layout, judge_layouts
from megatron_pz.planning.memory import GIB, MemoryPlan, data_parallel_sizes, plan_memory, trainer_gpus
from megatron_pz.planning.step_time.devices import DEVICES, find_device
from megatron_pz.planning.step_time.estimate import Estimate, KnownWork, add_work_flags, estimate
from megatron_pz.planning.step_time.lengths import Lengths
from megatron_pz.planning.step_time.rollout import SCHEDULES, Schedule, schedule_of
from megatron_pz.planning.step_time.step import StepTime
from megatron_pz.reports.tables import table
from megatron_pz.runtime.errors import BadInput, exits_with_one_line

_SHOWN = 12
"""Layouts in the table."""


@exits_with_one_line
def main(argv: list[str] | None = None) -> None:
    """Run the command line."""
    own, flags = _parser().parse_known_args(sys.argv[1:] if argv is None else argv)
    device = find_device(own.gpu) if own.gpu else None
    if device is not None and device.name == "CPU":
        raise BadInput("--gpu CPU: the memory of hosts is not planned; tools/simulate_scaling.py --gpu CPU tells times")
    memory = own.gpu_memory
    if memory is None:
        if device is None:
            raise BadInput("give --gpu NAME, or --gpu-memory GIB for a verdict on memory alone")
        memory = device.memory_gib
    if own.gpus < 1 or not 0 < memory < math.inf or own.gpus_per_node < 1:
        raise BadInput("--gpus, --gpu-memory and --gpus-per-node must be above 0")
    config = read_run_config(flags, "plan_cluster.py")
    if not config.model.hf_model:
        raise BadInput("--hf-model is missing: give a directory with the model's config.json")
    arch = Architecture.from_hf(config.model.hf_model)
    known = KnownWork.of_flags(own)
    if device is None and known != KnownWork():
        raise BadInput("flags about time need --gpu NAME")
    timing = estimate(arch, config, device, own.gpus, own.gpus_per_node, known) if device else None
    schedule = own.schedule or schedule_of(config)
    if own.layouts:
        layouts = judge_layouts(arch, config, own.gpus, memory, own.gpus_per_node)
        times = timing.of_layouts(layouts, schedule) if timing else {}
        layouts.sort(key=lambda layout: _slower(layout, times))
        print(describe_layouts(layouts, own.gpus, memory, times, schedule))
        fits = not layouts[0].refusal
        chosen, plan = replace(config, parallel=layouts[0].parallel), layouts[0].plan
    else:
        chosen, plan = config, plan_memory(arch, config, own.gpus, memory)
        print(describe(plan, config, own.gpus))
        fits = plan.spare >= 0
        if not fits:
            best = judge_layouts(arch, config, own.gpus, memory, own.gpus_per_node)[0]
            print(f"a layout that fits: {best.flags}" if not best.refusal else "no layout fits: take more GPUs")
    if not fits or plan is None:
        raise SystemExit(1)
    if timing:
        print("\n" + describe_time(timing, timing.of_schedules(chosen, plan)))


def _slower(layout: Layout, times: Mapping[str, StepTime]) -> float:
    """Return the sort key of a layout by time. Differences below 3 %, the simulation's resolution, are ignored."""
    if layout.name not in times:
        return math.inf
    fastest = min(time.seconds for time in times.values())
    return math.floor(math.log(times[layout.name].seconds / fastest) / math.log(1.03))


def _parser() -> Parser:
    parser = Parser(
        "Plan a recipe on a cluster: memory, layouts and step time. Further flags are those of megatron_pz.train."
    )
    parser.add_argument("--gpus", type=int, required=True, help="number of GPUs of all nodes together")
    parser.add_argument("--gpu", default="", help=f"kind of GPU, for memory and time: {', '.join(DEVICES)}")
    parser.add_argument("--gpu-memory", type=float, help="memory of one GPU in GiB (default: that of --gpu)")
    parser.add_argument("--gpus-per-node", type=int, default=8, help="tensor parallel ranks share a node")
    parser.add_argument("--layouts", action="store_true", help="judge every layout instead of the recipe's")
    parser.add_argument("--schedule", choices=SCHEDULES, help="schedule that --layouts times (default: the recipe's)")
    add_work_flags(parser)
    return parser


def describe(plan: MemoryPlan, config: RunConfig, gpus: int) -> str:
    """Return the table of a plan and sentences with the conclusion."""
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
    ranks = data_parallel_sizes(parallel, trainer_gpus(config, gpus))[0] // parallel.context_parallel_size
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


def describe_layouts(
    layouts: list[Layout], gpus: int, card_gib: float, times: Mapping[str, StepTime], schedule: Schedule
) -> str:
    """Return the table of the layouts that fit, in the order to try them, and the reasons why the others do not."""
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
        row = [str(len(rows) + 1), *map(str, counts), *(f"{size / GIB:.1f}" for size in memory)]
        if layout.name in times:
            time = times[layout.name]
            row += [f"{value:.1f}" for value in (time.seconds, time.rollout, time.update)]
        rows.append(row)
    header = ["", "tensor", "pipeline", "context", "experts", "data", "training GiB", "sampling GiB", "free GiB"]
    header += ["step s", "rollout s", "update s"] if times else []
    order = (
        f"fastest first, below 3 % by rule (simulated, {schedule})" if times else "in the order to try them (by rule)"
    )
    title = f"layouts that fit on {gpus} GPUs of {card_gib:g} GiB, {order}"
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


def describe_time(timing: Estimate, times: list[StepTime]) -> str:
    """Return the table of the schedules' times, fastest first, and the assumptions."""
    cluster, work, steps = timing.cluster, timing.work, timing.config.training.train_iters
    device, rates = cluster.device, cluster.rates
    all_learned = work.generator_learned == work.predictor_learned == 1
    rows = []
    for time in times:
        name = time.schedule + (f", {time.rollout_gpus} of {time.gpus}" if time.schedule == "rollout-ranks" else "")
        parts = (time.seconds, time.rollout, time.update, time.sync, time.rest, time.tail)
        hours = steps * time.seconds / 3600
        rest = (f"{time.idle:.0%}", f"{time.tokens_per_gpu:,.0f}", f"{hours:,.0f}", f"{hours * time.gpus:,.0f}")
        rows.append([name, *(f"{part:.1f}" for part in parts), *rest])
    header = ["schedule", "step s", "rollout s", "update s", "sync s", "rest s", "tail s", "idle", "tokens/s/GPU"]
    header += [f"{steps} steps, h", "GPU-h"]
    masks = work.passages * work.masks_per_passage
    predicted = round(masks * work.predicted_share)
    proposals = f"{masks} proposals of {_length(work.proposals)}, " if work.proposals else ""
    own = schedule_of(timing.config)
    today = next((time for time in times if time.schedule == own), times[0])
    cost = steps * today.tail / 3600 * today.gpus
    notes = [
        f"{device.name}: engines at {rates.bandwidth_share:.0%} of {device.bandwidth / 1e12:.3g} TB/s and "
        f"{rates.token_step_seconds * 1e3:.3g} ms a token step, updates at {rates.update_flops_share:.0%} of "
        f"{device.flops / 1e12:.4g} TFLOP/s ({device.source})",
        f"{proposals}{predicted} x {work.group_size} predictions of {_length(work.predictions)}, prompts of "
        f"{work.predictor_prompt:.0f} ({timing.origin})",
        f"groups learned from: generator {work.generator_learned:.0%}, predictor {work.predictor_learned:.0%}"
        f"{' (an upper bound: those with equal rewards drop out)' if all_learned else ''}",
        f"the tail, in which the last 10 % of the responses end, takes {today.tail:.1f} s with {today.schedule}: "
        f"{cost:,.0f} GPU-hours of the run",
        *(f"{name}: {words}" for name, words in SCHEDULES.items()),
    ]
    title = f"time of a step, simulated and not measured; the fastest first; these settings choose {own}"
    return "\n".join([*timing.fitted, table(title, header, rows), "", *notes])


def _length(lengths: Lengths) -> str:
    return f"{lengths.mean:.0f} tokens (sigma {lengths.sigma:.2f}, limit {lengths.cap})"


def _some(names: list[str]) -> str:
    """Return the first of several layouts with the number of the others."""
    return names[0] + (f", and {len(names) - 1} more" if len(names) > 1 else "")


if __name__ == "__main__":
    main()
