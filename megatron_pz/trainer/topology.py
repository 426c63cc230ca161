"""Start the process groups of a run, and tell a process its place in them."""

from __future__ import annotations

import math
import os
import random
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

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


@dataclass(frozen=True)
class Topology:
    """This rank's place in the parallel groups of the run.

    Experts have groups of their own over the same ranks, which only Megatron-Core uses.

    :meth:`start` makes the process groups, :meth:`close` destroys them. The other methods are collectives, which all
    ranks call in the same order. An exception on one rank must end its process: the launcher then ends the others, and
    a collective that waits for a rank that is gone fails after ``distributed_timeout_minutes`` at the latest.
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

    @classmethod
    def start(cls, parallel: ParallelConfig, seed: int) -> Topology:
        """Join the process group that torchrun's environment describes; without one, be a run of one rank.

        NCCL where there is CUDA, gloo elsewhere. Seeds Python, NumPy, torch and Megatron-Core's generators as
        Megatron-LM does: by ``seed`` and pipeline stage, and by tensor parallel rank for what tensor parallelism draws.

        Raises BadInput on every rank, before anything is started, if the number of ranks does not fit the layout.
        """
        world_size = int(os.environ.get("WORLD_SIZE", "1"))
        _refuse_world_size(world_size, parallel)
        timeout = timedelta(minutes=parallel.distributed_timeout_minutes)
        device = _own_device()
        backend = "nccl" if device.type == "cuda" else "gloo"
        if world_size == 1:
            dist.init_process_group(backend, timeout=timeout, store=_store_of_one_rank(), rank=0, world_size=1)
        else:
            _meet(backend, timeout)
        return cls.lay_out(parallel, seed, device)

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
    def is_first_stage(self) -> bool:
        """Return whether this rank holds the embedding."""
        return self.pipeline_parallel_rank == 0

    @property
    def is_last_stage(self) -> bool:
        """Return whether this rank holds the output layer, and so the log-probabilities and the loss."""
        return self.pipeline_parallel_rank == self.pipeline_parallel_size - 1

    def all_gather_object(self, value: Anything) -> list[Anything]:
        """Gather every rank's ``value`` (anything that pickles), in the order of ranks, on every rank."""
        values: list = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values

    def broadcast_object(self, value: Anything, source: int = 0) -> Anything:
        """Return the ``value`` of rank ``source`` on every rank."""
        holder = [value]
        dist.broadcast_object_list(holder, src=source)
        return holder[0]

    def any_rank(self, flag: bool) -> bool:
        """Return whether ``flag`` is true on at least one rank."""
        raised = torch.tensor(int(flag), device=self.device)
        dist.all_reduce(raised, op=dist.ReduceOp.MAX)
        return bool(raised.item())

    @property
    def store(self) -> dist.Store:
        """The key-value store of the rendezvous."""
        return _get_default_store()

    def barrier(self) -> None:
        """Wait until every rank has called this."""
        dist.barrier()

    def close(self) -> None:
        """Destroy the process groups at the end of a run. Shut down rollout engines of this process first."""
        dist.barrier()
        parallel_state.destroy_model_parallel()
        dist.destroy_process_group()
        if self.world_size == 1:  # a command that this process starts later must not take its rendezvous for its own
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


def _meet(backend: str, timeout: timedelta) -> None:
    """Wait for all ranks, as torchrun's environment describes them. Raises BadInput when some do not come."""
    try:
        dist.init_process_group(backend, timeout=timeout)
    except dist.DistError as error:
        where = ":".join(os.environ.get(name, "?") for name in ("MASTER_ADDR", "MASTER_PORT"))
        raise BadInput(
            f"rank {os.environ.get('RANK', '?')} did not meet all {os.environ.get('WORLD_SIZE', '?')} ranks at {where} "
            f"within {timeout.total_seconds():g} s ({' '.join(str(error).split())[:200]}): "
            "see that every node runs and reaches that address"
        ) from None


def _own_device() -> torch.device:
    if not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    torch.cuda.set_device(device)
    return device


def _store_of_one_rank() -> dist.Store:
    """Make the store of a run of one rank, on a port that the system picks, without a launcher.

    Also set the variables that torchrun sets, which a vLLM engine in this process reads.
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
