"""Measure rollout ranks: a weight transfer against a copy of its bytes, and the overlap of both sides of a run.

    python -m megatron_pz.launch --nproc-per-node 2 benchmarks.rollout.rollout_ranks --hf-model DIR [--precision fp32]
    python -m benchmarks.rollout.rollout_ranks --run SAVE

The first form has a trainer's policy in rank 0 and an engine in rank 1. A transfer goes from the policy's parameters to
an engine that can sample, without its answer to the probes. The copy is of the same tensors, in rank 0, alternating
with the transfers. The measures are CPU-seconds of both ranks together and wall time, which needs a core for each rank.
``over TCP`` sends the bytes as to another node.

The second form reads ``ahead/overlap`` of a run with ``--rollout-ranks``, from its second step on.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch

from benchmarks.common.cpu import require_positive, write_result
from megatron_pz.config.command_line import Parser
from megatron_pz.config.schema import ModelConfig, OptimizerConfig, ParallelConfig, RolloutConfig
from megatron_pz.monitoring.metrics import read_metrics
from megatron_pz.rollout.engine import VllmEngine
from megatron_pz.rollout.ranks.controller import CLOSE, RolloutController
from megatron_pz.rollout.ranks.host_weights import ReceivedWeights
from megatron_pz.rollout.ranks.rendezvous import RendezvousClient
from megatron_pz.rollout.weight_sync import load_weights
from megatron_pz.runtime.errors import BadInput, exits_with_one_line
from megatron_pz.trainer.policy import Policy
from megatron_pz.trainer.topology import Topology, meet_rollout_ranks, open_job_store

GOAL_TRANSFER, GOAL_OVERLAP = 12.0, 0.8
MINUTES = timedelta(minutes=10)


def serve(hf_model: str, precision: str) -> None:
    """Receive weights until the end; answer each transfer with the CPU-seconds that it took on this rank."""
    store = open_job_store(MINUTES)
    client = RendezvousClient(store, 0)
    topology = meet_rollout_ranks(ParallelConfig(), client.store, 0, 1)
    rollout = RolloutConfig(256, 64, rollout_dtype="float32" if precision == "fp32" else "bfloat16")
    with VllmEngine(hf_model, rollout, seed=0, colocated=True, read_weights=False) as engine:
        connection = client.connect(lambda: sys.exit(1))
        weights = ReceivedWeights(connection)
        while (command := connection.recv())[0] != CLOSE:
            weights.expect(command[2])
            start = time.process_time()
            load_weights(engine, weights.stream())
            connection.send(time.process_time() - start)
    topology.close()


class Sides:
    """The measurements of rank 0, alternating: CPU-seconds of both ranks, and wall seconds."""

    def __init__(self, policy: Policy, controller: RolloutController) -> None:
        self.policy, self.controller = policy, controller
        sources = [tensor.clone() for _, tensor in policy.weights()]
        self.pairs = [(source, torch.empty_like(source)) for source in sources]
        self.bytes = sum(source.numel() * source.dtype.itemsize for source in sources)
        self.processors: dict[str, list[float]] = {}
        self.clock: dict[str, list[float]] = {}

    def copy(self) -> float:
        """Copy the bytes once."""
        for source, target in self.pairs:
            target.copy_(source)
        return 0.0

    def transfer(self, *, local: bool) -> float:
        """Load the policy's weights into the engine; return the CPU-seconds of its rank."""
        for channel in self.controller._channels:
            channel.local = local
        (seconds,) = self.controller.load("", self.policy.weights(), None)
        return float(seconds)

    def take(self, name: str) -> None:
        """Measure one side once."""
        clock, own = time.perf_counter(), time.process_time()
        others = self.copy() if name == "copy" else self.transfer(local=name == "shared memory")
        self.processors.setdefault(name, []).append(time.process_time() - own + others)
        self.clock.setdefault(name, []).append(time.perf_counter() - clock)


def measure(hf_model: str, precision: str, repeats: int) -> dict[str, Any]:
    """Return the figures of rank 0."""
    topology = Topology.start(ParallelConfig(), 1, rollout_ranks=1)
    model = ModelConfig(hf_model=hf_model, bf16=precision == "bf16")
    policy = Policy(model, ParallelConfig(), OptimizerConfig(), topology)
    controller = RolloutController(topology.store, 1, 1, 0, lambda *_: nullcontext())
    sides = Sides(policy, controller)
    names = ("copy", "shared memory", "over TCP")
    for turn in range(repeats + 1):
        for name in names:
            sides.take(name)
        if turn == 0:  # the first call touches new memory
            sides.processors.clear()
            sides.clock.clear()
    controller.close()
    topology.close()
    figures: dict[str, Any] = {"MiB of weights": sides.bytes / 2**20}
    for unit, taken in (("CPU-s", sides.processors), ("wall s", sides.clock)):
        figures |= {f"{name}, {unit}": statistics.median(taken[name]) for name in names}
        for name in names[1:]:
            goal = f" (goal at most {GOAL_TRANSFER:g})" if name == "shared memory" else ""
            ratios = [one / copy for one, copy in zip(taken[name], taken["copy"], strict=True)]
            figures[f"{name} / copy, {unit}, median of turns{goal}"] = statistics.median(ratios)
    return figures


def overlap(run: Path) -> dict[str, Any]:
    """Return the share of the shorter side that overlapped with the other, over a run's steps."""
    steps = [step.values for step in read_metrics(run) if "ahead/overlap" in step.values]
    shares = [values["ahead/overlap"] for values in steps[1:]]
    if not shares:
        raise BadInput(f"--run {run}: no step after the first was sampled beside an update; give one of rollout ranks")
    return {
        "steps": len(shares),
        f"both at work, share of the shorter side, mean (goal at least {GOAL_OVERLAP:g})": statistics.mean(shares),
        "smallest": min(shares),
        "update, s": statistics.mean(values["time/update"] for values in steps[1:]),
        "the step's wait for the rollout ranks, s": statistics.mean(values["time/rollout"] for values in steps[1:]),
        "sync with its check, s": statistics.mean(values["time/sync"] for values in steps[1:]),
    }


@exits_with_one_line
def main() -> None:
    flags = Parser(__doc__.split("\n")[0])
    flags.add_argument("--hf-model", default="")
    flags.add_argument("--run", type=Path, help="directory of a run with rollout ranks")
    flags.add_argument("--precision", choices=["bf16", "fp32"], default="fp32")
    flags.add_argument("--repeats", type=int, default=7)
    given = flags.parse_args(sys.argv[1:])
    require_positive(given, "repeats")
    torch.set_num_threads(1)
    if given.run:
        write_result("rollout_ranks_overlap", {"run": given.run.name}, overlap(given.run))
    elif not given.hf_model:
        raise BadInput("--hf-model is missing: give the directory of a checkpoint, or --run")
    elif os.environ.get("RANK") == "1":
        serve(given.hf_model, given.precision)
    else:
        settings = {name: value for name, value in vars(given).items() if name != "run"}
        write_result(
            f"rollout_ranks_{given.precision}", settings, measure(given.hf_model, given.precision, given.repeats)
        )


if __name__ == "__main__":
    main()
