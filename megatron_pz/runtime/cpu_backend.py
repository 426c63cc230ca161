"""Run Megatron-Core without a CUDA device: tensors on the CPU, collectives through gloo.

Megatron-Core assumes CUDA: it uses ``torch.cuda.current_device()``, ``device="cuda"`` and
``.type() == "torch.cuda.FloatTensor"``. :func:`install` maps these to the CPU, but only inside ``megatron.core``, whose
module-level name ``torch`` becomes a proxy. Other modules use torch unchanged. Replacing torch's factory functions for
the whole process would silently break ``with torch.device("meta")``, and with it Hugging Face's ``from_pretrained``.

This module adapts the device and never the algorithm: modules, schedules and optimizer are Megatron-Core's own.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib.abc
import importlib.machinery
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from megatron_pz.runtime.gloo_device import share_gloo_device

CPU = torch.device("cpu")
_SCOPE = "megatron.core"
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # from glibc's malloc.h
_LARGEST_INT = 2**31 - 1
_FACTORIES = ("zeros", "ones", "empty", "full", "tensor", "arange", "empty_like", "zeros_like")
_installed = False


def install() -> None:
    """Adapt Megatron-Core to the CPU, and silence its usual warnings. A second call does nothing.

    If CUDA is available, only the warnings are silenced.

    Call this before ``megatron.core`` is imported (the packages of ``megatron_pz`` that import it do). Modules of
    Megatron-Core that are already imported are adapted too.
    """
    global _installed
    if _installed:
        return
    _installed = True
    _silence()
    if torch.cuda.is_available():
        return
    # Megatron-Core warns under tensor and sequence parallelism if this is not set, on any device.
    os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "1")
    _keep_freed_memory()
    _bound_kernel_caches()
    separate_compiled_code()
    share_gloo_device()
    _answer_tensor_questions()
    sys.meta_path.insert(0, _AdaptingFinder())
    for module in [m for name, m in sys.modules.items() if _in_scope(name) and isinstance(m, ModuleType)]:
        _adapt(module)


def separate_compiled_code() -> None:
    """Use a separate cache of torch.compile for each instruction set.

    The cache of torch 2.13 gives a process with AVX2 the graphs that were compiled for AVX-512, which then compute
    wrong numbers; vLLM compiles the lookup in a vocabulary that is divided among ranks. This happens if a cache is used
    on different processors, as in an image or a shared home directory.
    """
    instructions = torch.backends.cpu.get_cpu_capability().lower().replace(" ", "_")
    default = Path(tempfile.gettempdir()) / f"torchinductor_{os.getuid()}"
    folder = Path(os.environ.get("TORCHINDUCTOR_CACHE_DIR") or default)
    if folder.name != instructions:  # a parent process may have set it
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder / instructions)


def _in_scope(module_name: str) -> bool:
    return module_name == _SCOPE or module_name.startswith(f"{_SCOPE}.")


class _Proxy(ModuleType):
    """Overrides some names of a module and forwards all others to the real one."""

    def __init__(self, real: ModuleType, **own: Any) -> None:
        super().__init__(real.__name__)
        self.__dict__.update(own, _real=real)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_real"], name)


class _FinishedStream:
    """Replaces a CUDA stream or event. Work on the CPU is done when its call returns, so every method is a no-op."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __getattr__(self, name: str) -> Callable[..., _FinishedStream]:
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *args, **kwargs: self


def _on_cpu(factory: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    @functools.wraps(factory)
    def made_on_cpu(*args: Any, **kwargs: Any) -> torch.Tensor:
        if str(kwargs.get("device")).startswith("cuda"):
            kwargs["device"] = CPU
        kwargs.pop("pin_memory", None)  # pinning needs an accelerator
        return factory(*args, **kwargs)

    return made_on_cpu


def _torch_for_megatron() -> _Proxy:
    def compile_nothing(function: Callable | None = None, **_: Any) -> Callable:
        return function if function is not None else lambda decorated: decorated

    cuda = _Proxy(
        torch.cuda,
        current_device=lambda: CPU,  # used only as device=…
        set_device=lambda *_: None,
        synchronize=lambda *_, **__: None,
        Stream=_FinishedStream,
        Event=_FinishedStream,
        current_stream=_FinishedStream,
        default_stream=_FinishedStream,
        stream=lambda *_: contextlib.nullcontext(),
        get_rng_state=lambda *_, **__: torch.get_rng_state(),
        set_rng_state=lambda state, *_, **__: torch.set_rng_state(state),
        manual_seed=torch.manual_seed,
    )
    factories = {name: _on_cpu(getattr(torch, name)) for name in _FACTORIES}
    return _Proxy(torch, cuda=cuda, compile=compile_nothing, **factories)


_TORCH = _torch_for_megatron()


def _silence() -> None:
    """Ignore warnings that users cannot act on: missing optional libraries, Megatron-Core's own deprecated calls."""
    warnings.filterwarnings("ignore", message=r"(Transformer Engine and )?Apex (is|are) not installed")
    warnings.filterwarnings("ignore", message=r"full scope is deprecated", module=r"megatron\.core")
    for category in (FutureWarning, DeprecationWarning):
        warnings.filterwarnings("ignore", category=category, module=r"megatron\.core")
    # 0.19 warns at every load that common.pt, which we write for earlier releases, is deprecated.
    logging.getLogger("megatron.core.dist_checkpointing.strategies.common").setLevel(logging.ERROR)


def _keep_freed_memory() -> None:
    """Make glibc keep the blocks of freed tensors for the next ones.

    By default glibc returns large blocks to the system, and new ones are mapped page by page at their first use: a
    zeroed tensor of 113 MB takes 30 ms in new pages and 4 ms in old ones. Settings in the environment take precedence.
    """
    if "GLIBC_TUNABLES" in os.environ or any(name.startswith("MALLOC_") for name in os.environ):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries do not have this
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, _LARGEST_INT)
        mallopt(M_TRIM_THRESHOLD, _LARGEST_INT)


def release_freed_memory() -> None:
    """Return the pages of freed tensors to the system, which :func:`install` keeps for the next ones.

    Blocks of many sizes fragment the kept memory, so that a process grows by tens of MB per step. This does nothing if
    CUDA is available.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
    if trim is not None and not torch.cuda.is_available():
        trim(0)


def _bound_kernel_caches() -> None:
    """Limit the kernel caches of oneDNN and of torch's layer above it to 128 entries each instead of 1024.

    They compile a bfloat16 product for every shape, 0.5 to 1 MB each, and micro-batches differ in their tokens: by
    default a process grows by up to 100 MB per step. A micro-batch needs about 30 entries. Settings in the environment
    take precedence. Both libraries read these variables at their first product.
    """
    for variable in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
        os.environ.setdefault(variable, "128")


def _answer_tensor_questions() -> None:
    """Replace ``Tensor.cuda``, ``Module.cuda`` and ``Tensor.type``, which are methods that a proxy cannot intercept.

    The first two could only raise on this machine. ``type`` returns ``torch.cuda.*`` to Megatron's optimizers, which
    distinguish parameters by that string, and the real type to other callers.
    """
    torch.Tensor.cuda = lambda self, *_, **__: self
    torch.nn.Module.cuda = lambda self, *_, **__: self
    plain_type = torch.Tensor.type

    @functools.wraps(plain_type)
    def scoped_type(self: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        answer = plain_type(self, *args, **kwargs)
        asked_by = sys._getframe(1).f_globals.get("__name__", "")
        if isinstance(answer, str) and asked_by.startswith(f"{_SCOPE}.optimizer"):
            return answer.replace("torch.", "torch.cuda.", 1)
        return answer

    torch.Tensor.type = scoped_type


def _adapt(module: ModuleType) -> None:
    """Give an imported module of Megatron-Core its own torch and the patch that it needs."""
    names = vars(module)
    if names.get("torch") is torch:
        names["torch"] = _TORCH
    for name, value in list(names.items()):
        # Restore the plain functions that jit_fuser compiled before install() was called.
        original = getattr(value, "_torchdynamo_orig_callable", None)
        if original is not None:
            names[name] = original
    patch = _PATCHES.get(module.__name__)
    if patch is not None:
        patch(module)


class _AdaptingFinder(importlib.abc.MetaPathFinder):
    """Adapts every module of Megatron-Core as soon as its body has run."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if not _in_scope(name):
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is None or spec.loader is None:
            return spec
        run_body = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            run_body(module)
            _adapt(module)

        spec.loader.exec_module = exec_module
        return spec


def _patch_jit(module: ModuleType) -> None:
    module.disable_jit_fuser()  # jit_fuser is torch.compile, which would run a C++ compiler for each small function


def _patch_random(module: ModuleType) -> None:
    # These two use torch.cuda's internals, which only queue work for an initialization of CUDA that never happens.
    module._get_cuda_rng_state = lambda *_, **__: torch.get_rng_state()
    module._set_cuda_rng_state = lambda state, *_, **__: torch.set_rng_state(state)


def _patch_distributed_optimizer(module: ModuleType) -> None:
    """Correct two faults that occur without Transformer Engine and Apex, when the optimizer is torch's own Adam.

    Torch's Adam has a tensor ``step`` for every parameter, whereas fused Adams have one number in the parameter group.

    - The loaders that reshard omit ``step``, and ``_set_main_param_and_optimizer_states`` requires it: KeyError.
    - ``load_state_dict`` gives all parameters the same ``step`` tensor. Adam adds 1 to it once for each of them, so
      that after a resume the bias correction is silently wrong.
    """
    optimizer = module.DistributedOptimizer
    plain_set = optimizer._set_main_param_and_optimizer_states
    plain_load = optimizer.load_state_dict

    @functools.wraps(plain_set)
    def set_states(self: Any, model_param: torch.Tensor, tensors: dict[str, torch.Tensor]) -> None:
        group, order = self.model_param_group_index_map[model_param]
        state = self.optimizer.state[self.optimizer.param_groups[group]["params"][order]]
        own_step = {"step": state["step"]} if "step" in state else {}
        plain_set(self, model_param, {**own_step, **tensors})

    @functools.wraps(plain_load)
    def load_state_dict(self: Any, state_dict: dict[str, Any]) -> None:
        plain_load(self, state_dict)
        for state in self.optimizer.state.values():
            if "step" in state:
                state["step"] = state["step"].clone()

    optimizer._set_main_param_and_optimizer_states = set_states
    optimizer.load_state_dict = load_state_dict


def _patch_moe_utils(module: ModuleType) -> None:
    """Define a name that the router's float32 gating compares with None; it is undefined without Transformer Engine."""
    if not hasattr(module, "te_general_gemm"):
        module.te_general_gemm = None


def _patch_token_dispatcher(module: ModuleType) -> None:
    """Convert token counts into the NumPy arrays that all_to_all expects.

    Megatron-Core does not convert a tensor that is already on the CPU, which raises TypeError.
    """
    plain_move = module.maybe_move_tensor_to_cpu

    @functools.wraps(plain_move)
    def move(tensor: Any, as_numpy: bool = False, record_stream: bool = False) -> Any:
        moved = plain_move(tensor, as_numpy, record_stream)
        return moved.numpy() if as_numpy and torch.is_tensor(moved) else moved

    module.maybe_move_tensor_to_cpu = move


def _patch_mappings(module: ModuleType) -> None:
    """Pad the tensors that tensor parallel experts exchange to equal lengths, as gloo requires, and trim them after."""
    plain_gather, plain_scatter = module._gather_along_first_dim, module._reduce_scatter_along_first_dim

    def padded(part: torch.Tensor, length: int) -> torch.Tensor:
        return torch.cat((part, part.new_zeros(length - len(part), *part.shape[1:])))

    @functools.wraps(plain_gather)
    def gather(
        part: torch.Tensor, group: Any, sizes: Sequence[int] | None = None, use_global_buffer: Any = False
    ) -> Any:
        if sizes is None or group.size() == 1:
            return plain_gather(part, group, sizes, use_global_buffer)
        pieces = (
            plain_gather(padded(part, max(sizes)), group).chunk(group.size()) if max(sizes) else [part] * len(sizes)
        )
        return torch.cat([piece[:size] for piece, size in zip(pieces, sizes, strict=True)])

    @functools.wraps(plain_scatter)
    def scatter(
        whole: torch.Tensor, group: Any, sizes: Sequence[int] | None = None, use_global_buffer: Any = False
    ) -> Any:
        if sizes is None or group.size() == 1:
            return plain_scatter(whole, group, sizes, use_global_buffer)
        pieces = [padded(piece, max(sizes)) for piece in whole.split(list(sizes))]
        return plain_scatter(torch.cat(pieces), group)[: sizes[group.rank()]] if max(sizes) else whole

    module._gather_along_first_dim, module._reduce_scatter_along_first_dim = gather, scatter


_PATCHES: dict[str, Callable[[ModuleType], None]] = {
    f"{_SCOPE}.jit": _patch_jit,
    f"{_SCOPE}.tensor_parallel.random": _patch_random,
    f"{_SCOPE}.transformer.moe.moe_utils": _patch_moe_utils,
    f"{_SCOPE}.transformer.moe.token_dispatcher": _patch_token_dispatcher,
    f"{_SCOPE}.tensor_parallel.mappings": _patch_mappings,
    f"{_SCOPE}.optimizer.distrib_optimizer": _patch_distributed_optimizer,
}
