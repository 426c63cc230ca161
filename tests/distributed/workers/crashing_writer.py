"""Train and save on ranks that are killed at a chosen point of a save, and resume from the remaining files."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from megatron_pz.checkpoint import checkpoint_files, sharded_state
from megatron_pz.checkpoint import writer as writing
from megatron_pz.checkpoint.checkpoint_files import Retention
from megatron_pz.checkpoint.rng_state import collect_rng_state, restore_rng_state
from megatron_pz.checkpoint.sharded_state import ModelState
from megatron_pz.checkpoint.writer import CheckpointWriter
from megatron_pz.config.schema import ParallelConfig
from megatron_pz.trainer.topology import Topology
from tests.distributed.workers.tiny_gpt import Trainee

VARIANT = "bf16-distributed"
LAST_STEP = 4

PLACES: dict[str, tuple[str, int, bool]] = {
    # Points of the kill: (function, number of the call, after the call instead of before)
    "before the first file": ("stage_tensors", 1, False),
    "before the tensors": ("write", 1, False),
    "in the middle of a file": ("_write_item", 5, True),
    "after the tensors": ("write", 1, True),
    "before the index": ("seal", 1, False),
    "after the index": ("seal", 1, True),
    "while the folder is flushed": ("flush", 4, True),
    "before the rename": ("replace", 1, False),
    "between the rename and the record of the latest": ("replace", 1, True),
    "after the record": ("replace", 2, True),
    "an old one hidden": ("replace", 3, True),
    "an old one half deleted": ("rmtree", 2, False),  # the first call is for the replaced directory
}
"""The places of a save, in order; at the last four the new checkpoint has its name."""

OWNERS: dict[str, tuple[Any, str]] = {
    "stage_tensors": (writing, "stage_tensors"),
    "write": (sharded_state.StagedTensors, "write"),
    "_write_item": (torch.distributed.checkpoint.filesystem, "_write_item"),
    "seal": (sharded_state.StagedTensors, "seal"),
    "flush": (checkpoint_files, "flush"),
    "replace": (os, "replace"),
    "rmtree": (shutil, "rmtree"),
}


def trainee(folder: Path, seed: int) -> Trainee:
    """Return a model on this rank in a new process group. Two ranks share every layer, so that both have to write."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    options = argparse.Namespace(folder=folder, seed=seed, tp=int(os.environ["WORLD_SIZE"]), pp=1, ep=1, experts=None)
    topology = Topology.start(ParallelConfig(options.tp, options.pp, distributed_timeout_minutes=1), seed)
    return Trainee(options, topology, VARIANT)


def writer(trained: Trainee, asynchronous: bool) -> CheckpointWriter:
    """Return a writer that keeps only the newest checkpoint."""
    retention = Retention(keep_last=1)
    parts = {"": ModelState(trained.chunks, trained.optimizer)}
    return CheckpointWriter(trained.folder, parts, asynchronous=asynchronous, retention=retention)


def save(checkpoints: CheckpointWriter, iteration: int) -> None:
    checkpoints.save(iteration, common={"cursor": 12 * iteration}, per_rank=collect_rng_state())


def straight(folder: Path) -> None:
    """Run all steps without a checkpoint."""
    trained = trainee(folder, seed=7)
    losses = trained.train(range(LAST_STEP))
    trained.report(losses=losses, **trained.digests())
    trained.topology.close()


def killed(folder: Path, asynchronous: bool, place: str, victim: int) -> None:
    """Write a checkpoint after step 1, and kill one rank while that of step 2 is written."""
    trained = trainee(folder, seed=7)
    checkpoints = writer(trained, asynchronous)
    trained.train(range(1))
    save(checkpoints, 1)
    checkpoints.wait()
    trained.train(range(1, 2))
    name, call, after = PLACES[place]
    if trained.topology.rank == victim:
        owner, attribute = OWNERS[name]
        mock.patch.object(owner, attribute, _deadly(getattr(owner, attribute), call, after)).start()
    save(checkpoints, 2)
    trained.train(range(2, 3))
    checkpoints.wait()


def resumed(folder: Path, asynchronous: bool) -> None:
    """Resume from the latest checkpoint up to the last step, and write a checkpoint."""
    trained = trainee(folder, seed=8)
    loaded = trained.load()
    restore_rng_state(loaded.per_rank)
    losses = trained.train(range(loaded.iteration, LAST_STEP))
    checkpoints = writer(trained, asynchronous)
    save(checkpoints, LAST_STEP)
    checkpoints.wait()
    trained.report(iteration=loaded.iteration, common=loaded.common, losses=losses, **trained.digests())
    trained.topology.close()


def _deadly(function: Callable[..., Any], call: int, after: bool) -> Callable[..., Any]:
    calls = 0

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call and not after:
            if function is shutil.rmtree:
                next(path for path in Path(args[0]).rglob("*") if path.is_file()).unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        result = function(*args, **kwargs)
        if calls == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    return wrapped
