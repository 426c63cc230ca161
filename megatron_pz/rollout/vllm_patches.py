"""Shield the trainer from process-wide state that vLLM changes."""

from __future__ import annotations

import functools
import gc
import importlib.util
import logging
import os
import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.distributed as dist

if TYPE_CHECKING:
    from vllm import LLM


@contextmanager
def preserved_rng() -> Iterator[None]:
    """Restore the state of Python's, NumPy's, torch's and every CUDA device's generator after the block.

    Starting an engine seeds all of them, and its sampler draws from torch's generator even for requests with seeds.
    """
    python_state = random.getstate()
    numpy_state = np.random.get_state()
    torch_state = torch.get_rng_state()
    cuda_states = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    try:
        yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        torch.set_rng_state(torch_state)
        if cuda_states:
            torch.cuda.set_rng_state_all(cuda_states)


@contextmanager
def preserved_environment(*names: str) -> Iterator[None]:
    """Restore the values of these environment variables after the block.

    vLLM's CPU platform preloads libraries into all later child processes (``LD_PRELOAD``) and overwrites the launcher's
    ``LOCAL_WORLD_SIZE`` with the engine's.
    """
    before = {name: os.environ.get(name) for name in names}
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def collection_paused() -> Iterator[None]:
    """Pause automatic garbage collection, whose passes over a million live objects take a quarter of a start."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@functools.cache
def import_vllm() -> type[LLM]:
    """Import vLLM, exclude the objects of the import from garbage collection, and return ``LLM``.

    These objects live as long as the process. Only the first call freezes objects, because the remains of a closed
    engine must stay collectable.
    """
    gc.collect()
    from vllm import LLM

    gc.freeze()
    return LLM


@contextmanager
def import_warnings_silenced() -> Iterator[None]:
    """Hide the warnings of vLLM's import and start about the absence of Triton and about old names of torch."""
    torch_log = logging.getLogger("torch._library.triton")
    torch_log.addFilter(_nothing)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        torch_log.removeFilter(_nothing)


def _nothing(record: logging.LogRecord) -> bool:
    return False


@contextmanager
def default_process_group_kept(*, keep: bool) -> Iterator[None]:
    """Make ``destroy_process_group()`` without a group a no-op within the block, if ``keep``.

    vLLM's shutdown ends with that call and has no setting to prevent it. It suits an engine that is alone in its
    process; in the trainer's process it would destroy the trainer's groups. vLLM names its own groups in its calls, and
    these are destroyed as intended.
    """
    destroy = dist.destroy_process_group

    def destroy_named(group: dist.ProcessGroup | None = None) -> None:
        if group is not None:
            destroy(group)

    if keep:
        dist.destroy_process_group = destroy_named
    try:
        yield
    finally:
        dist.destroy_process_group = destroy


@contextmanager
def engine_groups_kept(*, keep: bool) -> Iterator[None]:
    """Prevent an engine's shutdown within the block from destroying vLLM's own process groups, if ``keep``.

    These groups are globals of the process, which a second engine joins. The shutdown of the first engine destroys
    them, without a setting to prevent it, and the second fails with "pipeline model parallel group is not initialized".
    """
    from vllm.v1.engine import core

    destroy = core.cleanup_dist_env_and_memory
    if keep:
        core.cleanup_dist_env_and_memory = gc.collect
    try:
        yield
    finally:
        core.cleanup_dist_env_and_memory = destroy


@contextmanager
def experts_on_all_ranks() -> Iterator[None]:
    """Make each rank of an engine that starts within the block collect the expert ids of its requests.

    vLLM 0.32 collects them only on the first tensor parallel rank, because its own scheduler reads no other rank's
    output. With an external launcher every rank has a scheduler, which then lacks the ids ("auxiliary output worker
    output is missing"). This does nothing in releases that collect ids elsewhere, such as 0.24.
    """
    if importlib.util.find_spec("vllm.distributed.aux_output_connector") is None:
        yield
        return
    worker: Any = importlib.import_module("vllm.distributed.aux_output_connector.worker")
    own_group = worker.get_tp_group
    worker.get_tp_group = lambda: SimpleNamespace(is_first_rank=True)
    try:
        yield
    finally:
        worker.get_tp_group = own_group


def forget_model(model: torch.nn.Module) -> None:
    """Drop every reference to a vLLM model, so that its memory is freed with its engine; for ``LLM.apply_model``."""
    forget_compiled(model)
    forget_reloads(model)


def forget_reloads(model: torch.nn.Module) -> None:
    """Drop vLLM's records of how the model's layers are reloaded.

    The records are kept as long as the layer lives; after the first reload they hold a reference to the layer.
    """
    from vllm.model_executor.model_loader.reload.layerwise import LAYERWISE_INFO

    for module in model.modules():
        LAYERWISE_INFO.pop(module, None)


def forget_compiled(model: torch.nn.Module) -> None:
    """Remove the hooks of a compiled vLLM model from torch's compiler.

    vLLM removes hooks only when the LLMEngine is deleted, after the shutdown, which then finds the memory in use. If a
    compiled class inherits from another one (Qwen3 from Qwen2), vLLM removes only one of the two hooks.
    """
    from torch._dynamo import convert_frame

    own = set(map(id, model.modules()))
    hooks = convert_frame._bytecode_hooks
    for key in [key for key, hook in hooks.items() if id(getattr(hook, "__self__", None)) in own]:
        del hooks[key]


def release_device_memory(*, last: bool) -> None:
    """Return a closed engine's GPU memory to the driver, because its successor takes a share of the free memory.

    Args:
        last: no engine of the process is left. The next engine then gets a new memory pool for its CUDA graphs, because
            torch refuses a pool whose graphs are all deleted ("use_count > 0 INTERNAL ASSERT FAILED").
    """
    from vllm.device_allocator.cumem import CuMemAllocator
    from vllm.platforms import current_platform

    gc.collect()
    if last:
        type(current_platform)._global_graph_pool = None
        if CuMemAllocator.instance is not None:
            release_pools(CuMemAllocator.instance.allocator_and_pools)
    torch.cuda.empty_cache()


def release_pools(by_tag: dict[str, Any]) -> None:
    """Delete the memory pools of vLLM's sleep mode, and then the allocators, through which the pools free memory.

    vLLM 0.32 does this in an engine's shutdown. vLLM 0.24 keeps the pools until the process ends, so that no other
    engine can start; the allocators may then be deleted first, which aborts the process.

    Args:
        by_tag: (pool, allocator), or a list of such pairs; empty afterwards.
    """
    held = [pair for entry in by_tag.values() for pair in (entry if isinstance(entry, list) else [entry])]
    by_tag.clear()
    pools, allocators = [pool for pool, _ in held], [allocator for _, allocator in held]
    held.clear()
    pools.clear()
    gc.collect()
    allocators.clear()
