"""Start the process groups of a run, and describe the position of a process in them."""

from __future__ import annotations

import math
import os
import pickle
import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from megatron.core import parallel_state, tensor_parallel
from torch.distributed.distributed_c10d import _get_default_store

from megatron_pz.config.schema import ParallelConfig
from megatron_pz.config.validate_parallel import expert_tensor_parallel_size
from megatron_pz.runtime.errors import BadInput

Anything = TypeVar("Anything")


RENDEZVOUS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""Variables by which a launcher tells a process its place; a run of one rank sets them itself."""


_STORE_WAIT = timedelta(minutes=1)
"""Timeout of one wait for a key of the store. Waits are repeated, because the watchdog detects the death of rank 0."""


@dataclass(frozen=True)
class Topology:
    """This rank's place in the parallel groups of the run.

    Experts have separate groups over the same ranks, which only Megatron-Core uses.

    :meth:`start` makes the process groups, :meth:`close` destroys them. The other methods are collectives, which all
    ranks call in the same order. An exception on one rank must end its process: the launcher then ends the others, and
    a collective that waits for a dead rank fails after ``distributed_timeout_minutes`` at the latest.
    """

    rank: int
    world_size: int
    tensor_parallel_rank: int
    tensor_parallel_size: int
    pipeline_parallel_rank: int
    pipeline_parallel_size: int
    data_parallel_rank: int
    """Ranks that differ in it hold the same weights and get different packed sequences."""
    data_parallel_size: int
    context_parallel_rank: int
    """Ranks that differ in it hold the same weights and share the tokens of the same packed sequences."""
    context_parallel_size: int
    device: torch.device
    rollout_ranks: int = 0
    """Ranks of the job that follow these and hold only engines; they have process groups of their own."""
    job_store: dist.Store | None = None
    """The store of all processes of the job, if there are rollout ranks."""

    @classmethod
    def start(cls, parallel: ParallelConfig, seed: int, rollout_ranks: int = 0) -> Topology:
        """Join the process group that torchrun's environment describes, or start a run of one rank without it.

        The backend is NCCL with CUDA, otherwise gloo. Seed Python's, NumPy's, torch's and Megatron-Core's generators
        as Megatron-LM does: by ``seed`` and pipeline stage, and by tensor parallel rank for draws within tensor
        parallel regions. The last ``rollout_ranks`` processes of the job do not belong to the group
        (:func:`meet_rollout_ranks`).

        Raises BadInput on every rank, before anything is started, if the number of ranks does not fit the layout.
        """
        world_size = trainer_ranks(rollout_ranks)
        _refuse_world_size(world_size, parallel)
        timeout = timedelta(minutes=parallel.distributed_timeout_minutes)
        device = _own_device()
        store = open_job_store(timeout) if rollout_ranks else None
        if store is not None:
            own = dist.PrefixStore("trainer", store)
            _meet(device, timeout, store=own, rank=int(os.environ["RANK"]), world_size=world_size)
        elif world_size == 1:
            _meet(device, timeout, store=_store_of_one_rank(), rank=0, world_size=1)
        else:
            _meet(device, timeout)
        return replace(cls.lay_out(parallel, seed, device), rollout_ranks=rollout_ranks, job_store=store)

    @classmethod
    def lay_out(cls, parallel: ParallelConfig, seed: int, device: torch.device) -> Topology:
        """Make a layout's groups over an existing process group and seed the generators."""
        _start_model_parallel(parallel)
        _seed_generators(seed)
        return cls(
            rank=dist.get_rank(),
            world_size=dist.get_world_size(),
            tensor_parallel_rank=parallel_state.get_tensor_model_parallel_rank(),
            tensor_parallel_size=parallel.tensor_model_parallel_size,
            pipeline_parallel_rank=parallel_state.get_pipeline_model_parallel_rank(),
            pipeline_parallel_size=parallel.pipeline_model_parallel_size,
            data_parallel_rank=parallel_state.get_data_parallel_rank(),
            data_parallel_size=parallel_state.get_data_parallel_world_size(),
            context_parallel_rank=parallel_state.get_context_parallel_rank(),
            context_parallel_size=parallel.context_parallel_size,
            device=device,
        )

    @property
    def is_last_stage(self) -> bool:
        """Return whether this rank holds the output layer and therefore computes log-probabilities and the loss."""
        return self.pipeline_parallel_rank == self.pipeline_parallel_size - 1

    def all_gather_object(self, value: Anything) -> list[Anything]:
        """Gather every rank's ``value`` (any picklable object), in the order of ranks, on every rank."""
        values: list = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values

    def all_to_all_object(self, values: Sequence[Anything]) -> list[Anything]:
        """Send ``values[r]`` (any picklable object) to each rank r; return the objects sent to this rank."""
        if self.world_size == 1:
            return list(values)
        pickled = [pickle.dumps(value, pickle.HIGHEST_PROTOCOL) for value in values]
        sizes = torch.tensor([len(part) for part in pickled], device=self.device)
        their_sizes = torch.empty_like(sizes)
        dist.all_to_all_single(their_sizes, sizes)
        counts = their_sizes.tolist()
        outgoing = torch.frombuffer(bytearray().join(pickled), dtype=torch.uint8).to(self.device)
        incoming = outgoing.new_empty(sum(counts))
        dist.all_to_all_single(incoming, outgoing, counts, sizes.tolist())
        return [pickle.loads(part.numpy()) for part in incoming.cpu().split(counts)]

    def broadcast_object(self, value: Anything, source: int = 0) -> Anything:
        """Return the ``value`` of rank ``source`` on every rank."""
        holder = [value]
        dist.broadcast_object_list(holder, src=source)
        return holder[0]

    def broadcast_when_done(self, work: Callable[[], Anything], name: str) -> Anything:
        """Return on every rank the result of ``work`` on rank 0, which may exceed the timeout of collectives.

        The other ranks wait at the store until it is done. ``name`` must be different in every call.
        """
        store = dist.PrefixStore("done", self.store)
        value: Any = None
        if self.rank == 0:
            value = work()
            store.set(name, "")
        else:
            while True:
                with suppress(dist.DistStoreError):  # the timeout has expired
                    store.wait([name], _STORE_WAIT)
                    break
        return self.broadcast_object(value)

    def any_rank(self, flag: bool) -> bool:
        """Return whether ``flag`` is true on at least one rank."""
        raised = torch.tensor(int(flag), device=self.device)
        dist.all_reduce(raised, op=dist.ReduceOp.MAX)
        return bool(raised.item())

    @property
    def job_size(self) -> int:
        """Return the number of processes of the job, including rollout ranks."""
        return self.world_size + self.rollout_ranks

    @property
    def store(self) -> dist.Store:
        """Return the key-value store of the rendezvous, which all processes of the job share."""
        return self.job_store or _get_default_store()

    def barrier(self) -> None:
        """Wait until every rank has called this."""
        dist.barrier()

    def close(self) -> None:
        """Destroy the process groups at the end of a run. Shut down rollout engines of this process first."""
        dist.barrier()
        parallel_state.destroy_model_parallel()
        dist.destroy_process_group()
        if self.world_size == 1:  # commands that this process starts later must not use its rendezvous
            for name in RENDEZVOUS:
                os.environ.pop(name, None)


def _start_model_parallel(parallel: ParallelConfig) -> None:
    chunks = parallel.virtual_pipeline_model_parallel_size
    parallel_state.initialize_model_parallel(
        parallel.tensor_model_parallel_size,
        parallel.pipeline_model_parallel_size,
        chunks if chunks > 1 else None,
        context_parallel_size=parallel.context_parallel_size,
        expert_model_parallel_size=parallel.expert_model_parallel_size,
        expert_tensor_parallel_size=expert_tensor_parallel_size(parallel),
        distributed_timeout_minutes=parallel.distributed_timeout_minutes,
    )


def _refuse_world_size(world_size: int, parallel: ParallelConfig) -> None:
    stages = parallel.pipeline_model_parallel_size
    layouts = {
        "": {
            "--tensor-model-parallel-size": parallel.tensor_model_parallel_size,
            "--context-parallel-size": parallel.context_parallel_size,
            "--pipeline-model-parallel-size": stages,
        },
        " for the experts": {
            "--expert-tensor-parallel-size": expert_tensor_parallel_size(parallel),
            "--expert-model-parallel-size": parallel.expert_model_parallel_size,
            "--pipeline-model-parallel-size": stages,
        },
    }
    for whose, sizes in layouts.items():
        needed = math.prod(sizes.values())
        if world_size % needed:
            product = " x ".join(f"{name} {size}" for name, size in sizes.items())
            raise BadInput(
                f"{world_size} processes cannot be laid out as {product}{whose}: start a multiple of {needed} processes"
            )


def trainer_ranks(rollout_ranks: int) -> int:
    """Return the number of processes that hold the trainer. Raise BadInput if there would be none."""
    job = int(os.environ.get("WORLD_SIZE", "1"))
    if job <= rollout_ranks:
        raise BadInput(
            f"--rollout-ranks {rollout_ranks}: {job} process{'es' * (job > 1)} leave none for the trainer; start at "
            f"least {rollout_ranks + 1}"
        )
    return job - rollout_ranks


def meet_rollout_ranks(config: ParallelConfig, store: dist.Store, rank: int, world_size: int) -> Topology:
    """Join the process group of the rollout ranks, which is independent of the trainer and its layout.

    vLLM reads this rank and the size of the group from the environment.

    Args:
        store: a store for only these ranks and this round of their rendezvous; restarted ranks use another name.
    """
    device = _own_device()
    timeout = timedelta(minutes=config.distributed_timeout_minutes)
    _meet(device, timeout, store=store, rank=rank, world_size=world_size)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world_size)}
    return Topology(rank, world_size, 0, 1, 0, 1, rank, world_size, 0, 1, device)


def open_job_store(timeout: timedelta) -> dist.Store:
    """Connect to the store in which all processes of the job meet. Raise BadInput without a launcher."""
    if missing := [name for name in RENDEZVOUS if name not in os.environ and not name.startswith("LOCAL")]:
        raise BadInput(f"{missing[0]} is not set: start the processes by megatron_pz.launch or torchrun")
    store: dist.Store = next(iter(dist.rendezvous("env://", timeout=timeout)))[0]
    return store


def _meet(device: torch.device, timeout: timedelta, **group: Any) -> None:
    """Wait for all ranks of a group, or of torchrun's environment if no group is given.

    The backend is NCCL on a GPU, otherwise gloo. Raises BadInput if a rank does not join.
    """
    try:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timeout, **group)
    except dist.DistError as error:
        where = ":".join(os.environ.get(name, "?") for name in ("MASTER_ADDR", "MASTER_PORT"))
        world_size = group.get("world_size", os.environ.get("WORLD_SIZE", "?"))
        raise BadInput(
            f"rank {os.environ.get('RANK', '?')} did not meet all {world_size} ranks at {where} "
            f"within {timeout.total_seconds():g} s ({' '.join(str(error).split())[:200]}): "
            "make sure that every node runs and reaches that address"
        ) from None


def _own_device() -> torch.device:
    if not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    torch.cuda.set_device(device)
    return device


def _store_of_one_rank() -> dist.Store:
    """Make the store of a run of one rank without a launcher, on a port that the system picks.

    Also set torchrun's variables, which a vLLM engine in this process reads.
    """
    store = dist.TCPStore("127.0.0.1", 0, world_size=1, is_master=True)
    os.environ |= dict(zip(RENDEZVOUS, ("0", "1", "0", "1", "127.0.0.1", str(store.port)), strict=True))
    return store


def _seed_generators(seed: int) -> None:
    # The offset between pipeline stages is Megatron-LM's (megatron/training/initialize.py).
    stage_seed = seed + 100 * parallel_state.get_pipeline_model_parallel_rank()
    random.seed(stage_seed)
    np.random.seed(stage_seed)
    torch.manual_seed(stage_seed)
    tensor_parallel.model_parallel_cuda_manual_seed(stage_seed)
