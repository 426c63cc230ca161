"""Run without a model: an all-reduce changes a number in every step, with this project's own stop and watchdog.

It reads the flags of ``megatron_pz.train`` and writes the same files, so that the cluster's scripts treat it like
a training run, and a step takes STEP_SECONDS instead of minutes. ``STUCK=RANK:ITERATION`` makes one rank wait forever.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import torch
import torch.distributed as dist

from megatron_pz.config.parse import parse_run_config
from megatron_pz.run.directory_lock import claim_run_directory
from megatron_pz.run.signals import StopRequest
from megatron_pz.runtime.errors import BadInput, exits_with_one_line
from megatron_pz.runtime.watchdog import Watchdog

MODULUS = 1_000_003


def any_rank(flag: bool) -> bool:
    votes = torch.tensor([int(flag)])
    dist.all_reduce(votes)
    return bool(votes.item())


def save_checkpoint(folder: Path, iteration: int, value: int) -> None:
    (folder / "value.json").write_text(json.dumps(value))
    tracker = folder / "latest_checkpointed_iteration.txt"
    tracker.with_suffix(".new").write_text(f"{iteration}\n")
    tracker.with_suffix(".new").rename(tracker)


@exits_with_one_line
def main() -> None:
    config = parse_run_config(sys.argv[1:], "megatron_pz.train")
    training = config.training
    folder, step_seconds = Path(training.save), float(os.environ.get("STEP_SECONDS", "0.1"))
    stuck = os.environ.get("STUCK", "")
    with Watchdog(float(os.environ.get("HEARTBEAT_SECONDS", "60"))) as watchdog:
        dist.init_process_group("gloo")
        rank = dist.get_rank()
        store = dist.distributed_c10d._get_default_store()
        watchdog.watch(rank, dist.get_world_size(), store)
        for prefix in config.data.data_path:
            if not Path(f"{prefix}.idx").is_file():
                raise BadInput(f"--data-path {prefix}: no such dataset on {os.environ.get('SLURMD_NODENAME')}")
        claim = claim_run_directory(training.save, training.load)
        first, value = 1, training.seed
        if training.load:
            first += int((folder / "latest_checkpointed_iteration.txt").read_text())
            value = json.loads((folder / "value.json").read_text())
        if rank == 0:
            (folder / "config.yaml").write_text(f"model: {{hf_model: {config.model.hf_model}}}\n")
        host = os.environ.get("SLURMD_NODENAME", "")
        (folder / f"rank-{rank}").write_text(f"{os.getpid()} {host} {os.environ.get('SLURM_RESTART_COUNT', '0')}")
        stopping = False
        with StopRequest() as stop:
            for iteration in range(first, training.train_iters + 1):
                watchdog.step(f"iteration {iteration}")
                if stuck == f"{rank}:{iteration}":
                    time.sleep(600)
                time.sleep(step_seconds)
                drawn = torch.tensor([value * (rank + 2) % MODULUS + iteration])
                dist.all_reduce(drawn)
                value = int(drawn.item()) % MODULUS
                stopping = stop.requested(SimpleNamespace(any_rank=any_rank))  # type: ignore[arg-type]
                last = iteration == training.train_iters
                if rank == 0:
                    with (folder / "metrics.jsonl").open("a") as log:
                        log.write(json.dumps({"iteration": iteration, "value": value}) + "\n")
                    print(f"iteration {iteration}", flush=True)
                    if stopping or last or iteration % training.save_interval == 0:
                        save_checkpoint(folder, iteration, value)
                if stopping and not last:
                    break
                stopping = False
        dist.barrier()
        claim.release()
        watchdog.stop()
        dist.destroy_process_group()
    if stopping:
        raise SystemExit(3)


if __name__ == "__main__":
    main()
