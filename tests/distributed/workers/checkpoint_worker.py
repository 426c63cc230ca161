"""Train a tiny model for a few steps with saves or loads, and print digests of its complete state.

``checkpoint_worker.py TASK FOLDER [flags]`` under torchrun or on forked ranks. Each task runs once for each way of
optimizing (:data:`VARIANTS`), in a sub-folder of that name, and prints lines ``REPORT {json}``.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import signal
import threading
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from unittest import mock

import torch

from megatron_pz.checkpoint import checkpoint_files
from megatron_pz.checkpoint.checkpoint_files import latest_iteration
from megatron_pz.checkpoint.loader import load_model_weights
from megatron_pz.checkpoint.rng_state import restore_rng_state
from megatron_pz.checkpoint.writer import CheckpointWriteFailed
from megatron_pz.config.schema import ParallelConfig
from megatron_pz.run.signals import StopRequest
from megatron_pz.runtime.errors import exits_with_one_line
from megatron_pz.trainer.topology import Topology
from tests.distributed.workers.tiny_gpt import VARIANTS, Trainee


def _looking_at_all_files_is_rank_0s(rank: int) -> AbstractContextManager[object]:
    """Check that only rank 0 looks up all files; hundreds of ranks would query the sizes of as many files each."""
    forbidden = AssertionError("rank 0 is to look for all")
    return mock.patch.object(checkpoint_files, "read_header", side_effect=forbidden) if rank else nullcontext()


def _bytes_read() -> int:
    """Return the bytes that this process has read from files and pipes."""
    return int(Path("/proc/self/io").read_text().split()[1])


# ---- tasks -----------------------------------------------------------------------------------------------------------


def straight(trainee: Trainee) -> None:
    """Train four uninterrupted steps, with a checkpoint after two that is not read: saving must not affect training."""
    losses = trainee.train(range(2))
    trainee.save(2)
    losses += trainee.train(range(2, 4))
    trainee.report(losses=losses, **trainee.digests())
    trainee.folder = trainee.folder.with_name(f"{trainee.variant}-end")
    trainee.save(4)


def resume(trainee: Trainee) -> None:
    """Train steps three and four from the checkpoint after two, in a process that started from other weights."""
    before = _bytes_read()
    with _looking_at_all_files_is_rank_0s(trainee.topology.rank):
        loaded = trainee.load()
    read = _bytes_read() - before
    restore_rng_state(loaded.per_rank)
    inner = trainee.optimizer.chained_optimizers[0].optimizer
    steps = [state["step"] for state in inner.state.values()]
    trainee.report(
        common=loaded.common,
        iteration=loaded.iteration,
        read=read,
        adam_steps=sorted({step.item() for step in steps}),
        steps_shared=len(steps) - len({step.data_ptr() for step in steps}),
        losses=trainee.train(range(2, 4)),
        **trainee.digests(),
    )


def resume_elsewhere(trainee: Trainee) -> None:
    """Resume in another layout, where the generators of the ranks that wrote are used only to draw the data."""
    loaded = trainee.load()
    assert loaded.per_rank is None
    states = torch.load(trainee.folder / "iter_0000002" / "rank_00000.pt")
    torch.set_rng_state(states["torch"])
    random.setstate(states["python"])
    losses = trainee.train(range(2, 4))
    topology = trainee.topology
    layout = [topology.tensor_parallel_size, topology.pipeline_parallel_size, topology.data_parallel_size]
    trainee.folder = trainee.folder.with_name(f"{trainee.variant}-moved-{'-'.join(map(str, layout))}")
    trainee.save(4)
    trainee.report(iteration=loaded.iteration, common=loaded.common, losses=losses)


def ends(trainee: Trainee) -> None:
    """Report the difference of the master weights after four steps, uninterrupted and in two layouts, relative to the
    largest, and the weights with and without their optimizer."""
    trainee.folder = trainee.folder.with_name(f"{trainee.variant}-end")
    trainee.load()
    whole = trainee.masters()
    for folder in sorted(trainee.folder.parent.glob(f"{trainee.variant}-moved-*")):
        trainee.folder = folder
        trainee.load()
        distance = max(float((a - b).abs().max()) for a, b in zip(whole, trainee.masters(), strict=True))
        weights = trainee.digests()["weights"]
        for weight in trainee.chunks[0].parameters():
            weight.data.zero_()
        load_model_weights(folder, trainee.chunks)
        trainee.report(
            layout=folder.name,
            difference=distance / max(float(each.abs().max()) for each in whole),
            weights=weights,
            weights_alone=trainee.digests()["weights"],
        )


def contents(trainee: Trainee) -> None:
    """Report the contents of the checkpoint and of the copy beside it, as loaded in this layout."""
    for folder in (trainee.folder, trainee.folder.with_name("copy")):
        trainee.folder = folder
        loaded = trainee.load()
        trainee.report(own_state=loaded.per_rank is not None, common=loaded.common, **trainee.digests())


def copy(trainee: Trainee) -> None:
    """Save to the folder ``copy`` the state loaded from it, or first from the variant, to move it between layouts."""
    target = trainee.folder.with_name("copy")
    if target.exists():
        trainee.folder = target
    loaded = trainee.load()
    trainee.folder = target
    trainee.save(loaded.iteration)


def fail_to_write(trainee: Trainee) -> None:
    """Write a good checkpoint after step 1, let that of step 2 fail in every way, and write that of step 3."""
    trainee.train(range(1))
    trainee.save(1)
    before = trainee.digests()
    trainee.train(range(1, 2))

    def attempt(name: str) -> None:
        try:
            trainee.save(2)
            outcome = "saved"
        except CheckpointWriteFailed as error:
            outcome = str(error)
        found = sorted(path.name for path in trainee.folder.iterdir())
        trainee.report(failure=name, outcome=outcome, found=found)
        trainee.topology.barrier()  # otherwise rank 0's next attempt would be found in this one

    last = trainee.topology.world_size - 1
    for rank, most_bytes in ((0, 1000), (0, 25_000), (last, 25_000)):
        with _file_size_limit(most_bytes if trainee.topology.rank == rank else None):
            attempt(f"files of rank {rank} end after {most_bytes} bytes")
    full = OSError(28, "No space left on device")
    for name in (
        "megatron.core.dist_checkpointing.serialization.save_config",
        "megatron_pz.checkpoint.checkpoint_files.flush",
    ):
        if trainee.topology.rank == 0:
            with mock.patch(name, side_effect=full):
                attempt(name)
        else:
            attempt(name)
    trainee.load(1)
    trainee.report(same_as_before=all(trainee.digests()[kind] == before[kind] for kind in ("weights", "masters")))
    trainee.save(3)
    trainee.report(latest=latest_iteration(trainee.folder))


def write_on_full_disk(trainee: Trainee) -> None:
    """Save until the folder's file system is full."""
    trainee.train(range(1))
    for iteration in range(1, 100):
        trainee.save(iteration)


def until_stopped(trainee: Trainee) -> None:
    """Train until a signal requests the end, then write a checkpoint."""
    with StopRequest() as stop:
        for iteration in range(1, 100_000):
            trainee.train(range(iteration - 1, iteration))
            if stop.requested(trainee.topology):
                break
            trainee.report(iteration=iteration, pid=os.getpid())
        trainee.save(iteration)
    trainee.report(stopped=iteration, caught=stop.signal.name if stop.signal else None)


def stuck_after_signal(trainee: Trainee) -> None:
    """Receive the first signal and never reach the end of the step."""
    with StopRequest() as stop:
        trainee.report(iteration=1, pid=os.getpid())
        while stop.signal is None:
            signal.pause()
        trainee.report(caught=stop.signal.name)
        threading.Event().wait()


class _file_size_limit:  # noqa: N801 -- used as a function
    """Limits the size of files that this process can write in the block, for a real system error on one rank."""

    def __init__(self, most_bytes: int | None) -> None:
        self.most_bytes = most_bytes

    def __enter__(self) -> None:
        self.before = resource.getrlimit(resource.RLIMIT_FSIZE)
        if self.most_bytes is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.most_bytes, self.before[1]))

    def __exit__(self, *_: object) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, self.before)


TASKS = {
    task.__name__: task
    for task in (
        straight,
        resume,
        resume_elsewhere,
        ends,
        contents,
        copy,
        fail_to_write,
        write_on_full_disk,
        until_stopped,
        stuck_after_signal,
    )
}


@exits_with_one_line
def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tp", type=int, default=1)
    parser.add_argument("--pp", type=int, default=1)
    parser.add_argument("--ep", type=int, default=1)
    parser.add_argument("--experts", type=int, help="a mixture of so many in every layer")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--only", choices=VARIANTS)
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    layout = ParallelConfig(
        options.tp, options.pp, expert_model_parallel_size=options.ep, distributed_timeout_minutes=1
    )
    topology = Topology.start(layout, options.seed)
    for variant in [options.only] if options.only else VARIANTS:
        TASKS[options.task](Trainee(options, topology, variant))
    topology.close()


if __name__ == "__main__":
    main()
