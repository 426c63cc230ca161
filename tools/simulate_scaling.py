"""Simulate how a recipe scales over nodes, by schedule: strong and weak scaling as a table and a picture.

    python tools/simulate_scaling.py --config FILE --gpu H100 --nodes 1,2,4,8,16,32,64 --output DIR [--flags]
    python tools/simulate_scaling.py --config RUN/config.yaml --gpu CPU --gpus-per-node 2 --calibrate RUN --output DIR

Nothing is run. Rates are assumptions, or with ``--calibrate RUN`` those with which the simulation reproduces that run's
times; the picture states which, and shows the run as a star. Weak scaling gives every node the recipe's passages
divided by the first number of nodes. ``--lengths RUN``, ``--mean-response``, ``--sigma``, ``--mean-prompt`` and
``--learned-share`` describe the work of a step; further flags are those of megatron_pz.train. Prints the table and
writes ``scaling_simulated.txt`` and ``scaling_simulated.png``. tools/report_scaling.py compares real runs.
"""

from __future__ import annotations

import shlex
import sys
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from megatron_pz.config.command_line import Parser
from megatron_pz.config.parse import read_run_config
from megatron_pz.config.schema import RunConfig
from megatron_pz.hf.architecture import Architecture
from megatron_pz.planning.step_time.devices import DEVICES, Device, find_device
from megatron_pz.planning.step_time.estimate import Estimate, KnownWork, add_work_flags, estimate
from megatron_pz.planning.step_time.from_run import plan_for, read_run
from megatron_pz.planning.step_time.rollout import Schedule
from megatron_pz.planning.step_time.step import Cluster, simulate_step
from megatron_pz.reports.scaling_study import STRONG, WEAK, MeasuredPoint, SimulatedPoint, draw_study, study_table
from megatron_pz.runtime.errors import BadInput, exits_with_one_line
from megatron_pz.runtime.files import write_text_whole

SHOWN: tuple[Schedule, ...] = ("barrier", "one-queue", "generator-ahead", "rollout-ranks")


@exits_with_one_line
def main(argv: list[str] | None = None) -> None:
    """Run the command line."""
    parser = Parser("Simulate how a recipe scales over nodes. Further flags are those of megatron_pz.train.")
    parser.add_argument("--gpu", required=True, help=f"kind of device: {', '.join(DEVICES)}")
    parser.add_argument("--nodes", default="1,2,4,8,16,32,64", help="numbers of nodes")
    parser.add_argument("--gpus-per-node", type=int, default=8, help="devices of a node")
    parser.add_argument("--output", type=Path, required=True, help="directory for the table and the picture")
    add_work_flags(parser)
    own, flags = parser.parse_known_args(sys.argv[1:] if argv is None else argv)
    nodes = _numbers(own.nodes)
    device, config = find_device(own.gpu), read_run_config(flags, "simulate_scaling.py")
    if own.gpus_per_node < 1:
        raise BadInput("--gpus-per-node must be above 0")
    if not config.model.hf_model:
        raise BadInput("--hf-model is missing: give a directory with the model's config.json")
    arch, known = Architecture.from_hf(config.model.hf_model), KnownWork.of_flags(own)
    basis = estimate(arch, config, device, own.gpus_per_node, own.gpus_per_node, known)
    points = list(_points(arch, config, device, basis, nodes))
    title = f"SIMULATED: {_title(config, basis)}"
    notes = _notes(basis, known)
    command = shlex.join(["python", "tools/simulate_scaling.py", *(sys.argv[1:] if argv is None else argv)])
    text = "\n\n".join([study_table(points, title), "\n".join([notes, *basis.fitted]), command])
    measured = _measured(known.calibrate, own.gpus_per_node) if known.calibrate else None
    wrapped = textwrap.fill(notes, 180)
    try:
        own.output.mkdir(parents=True, exist_ok=True)
        write_text_whole(own.output / "scaling_simulated.txt", text + "\n")
        draw_study(points, measured, title, wrapped, own.output / "scaling_simulated.png")
    except OSError as error:
        raise BadInput(f"cannot write to --output {own.output}: {error.strerror}") from None
    print(text)


def _numbers(text: str) -> list[int]:
    try:
        numbers = sorted({int(word) for word in text.split(",")})
    except ValueError:
        numbers = []
    if not numbers or numbers[0] < 1:
        raise BadInput(f"--nodes {text}: give whole numbers of at least 1, e.g. 1,2,4")
    return numbers


def _points(
    arch: Architecture, config: RunConfig, device: Device, basis: Estimate, nodes: Sequence[int]
) -> Iterator[SimulatedPoint]:
    per_node = basis.cluster.gpus_per_node
    for kind in (STRONG, WEAK):
        for schedule in SHOWN:
            for number in nodes:
                gpus, growth = number * per_node, number / nodes[0]
                passages = round(basis.work.passages * (growth if kind == WEAK else 1))
                work = replace(basis.work, passages=passages)
                plan = plan_for(arch, config, device, gpus)
                if plan.spare < 0:
                    raise BadInput(f"{number} nodes: the layout does not fit (tools/plan_cluster.py --layouts)")
                cluster = Cluster(device, basis.cluster.rates, gpus, per_node)
                time = simulate_step(arch, config, plan, cluster, work, schedule, draws=1)
                speed = time.sampled / time.seconds
                yield SimulatedPoint(kind, schedule, number, gpus, time.seconds, speed, time.idle)


def _title(config: RunConfig, basis: Estimate) -> str:
    game, work = config.game, basis.work
    return (
        f"{Path(config.model.hf_model).name}, {basis.cluster.gpus_per_node} x {basis.cluster.device.name} a node, "
        f"{game.passages_per_step} passages x {game.masks_per_passage} masks x {game.grpo_group_size} answers of "
        f"{work.predictions.mean:.0f} tokens"
    )


def _notes(basis: Estimate, known: KnownWork) -> str:
    rates, device = basis.cluster.rates, basis.cluster.device
    source = (
        f"fitted to the measured run {known.calibrate}" if known.calibrate else "ASSUMED, no run has confirmed them"
    )
    star = "the star is measured" if known.calibrate else "nothing is measured"
    return (
        f"Every line is simulated (megatron_pz/planning/step_time); {star}. Rates are {source}: engines at "
        f"{rates.bandwidth_share:.0%} of {device.bandwidth / 1e12:.3g} TB/s and {rates.token_step_seconds * 1e3:.3g} "
        f"ms a token step, updates at {rates.update_flops_share:.0%} of {device.flops / 1e12:.4g} TFLOP/s. Network: "
        f"{device.node_link * 8 / 1e9:.0f} Gb/s a device, taken as given and not measured. Lengths: {basis.origin}."
    )


def _measured(folder: Path, per_node: int) -> MeasuredPoint:
    run = read_run(folder)
    label = f"measured: {run.processes} x {run.device.name}, {run.config.game.passages_per_step} passages a step"
    return MeasuredPoint(run.processes / per_node, run.sampled_per_second(), label)


if __name__ == "__main__":
    main()
