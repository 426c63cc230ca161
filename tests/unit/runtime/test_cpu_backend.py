"""The CPU backend: Megatron-Core finds a device, other modules use torch unchanged, and Adam resumes exactly."""

from __future__ import annotations

import copy
import ctypes
import logging
import os
import sys
import warnings
from pathlib import Path
from types import ModuleType

import pytest
import safetensors.torch
import torch

from megatron_pz.config.schema import OptimizerConfig, ParallelConfig
from megatron_pz.runtime import cpu_backend

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="the CPU backend does nothing where there is CUDA")

cpu_backend.install()


def test_megatron_is_answered_with_the_cpu() -> None:
    from megatron.core.optimizer import clip_grads
    from megatron.core.tensor_parallel import layers

    own = layers.torch
    assert own.cuda.current_device() == torch.device("cpu")
    assert own.zeros(2, device="cuda").device == torch.device("cpu")
    assert own.empty(2, device=own.cuda.current_device()).device == torch.device("cpu")
    assert own.cuda.is_available() is False
    with own.cuda.stream(own.cuda.Stream()):
        own.cuda.current_stream().wait_stream(own.cuda.default_stream()).synchronize()
    assert own.float32 is torch.float32 and own.nn.Linear is torch.nn.Linear
    ask = eval("lambda tensor: tensor.type()", vars(clip_grads))
    assert ask(torch.zeros(1)) == "torch.cuda.FloatTensor"


def test_installing_again_changes_nothing() -> None:
    finders, type_method = list(sys.meta_path), torch.Tensor.type
    cpu_backend.install()
    assert sys.meta_path == finders
    assert torch.Tensor.type is type_method


def test_compiled_code_is_kept_by_instruction_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/home/me/compiled")
    for capability, folder in (("AVX2", "/home/me/compiled/avx2"), ("AVX512", "/home/me/compiled/avx2/avx512")):
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda answer=capability: answer)
        for _ in range(2):  # a child process inherits the variable
            cpu_backend.separate_compiled_code()
            assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == folder


@pytest.mark.parametrize("category", [FutureWarning, DeprecationWarning])
def test_deprecations_inside_megatron_are_silenced_on_a_gpu_too(
    category: type[Warning], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu_backend, "_installed", False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        cpu_backend.install()
        for module in ("megatron.core.optimizer", "ours"):
            warnings.warn_explicit(f"an old call in {module}", category, f"{module}.py", 1, module=module)
    assert [str(warning.message) for warning in heard] == ["an old call in ours"]
    assert not logging.getLogger("megatron.core.dist_checkpointing.strategies.common").isEnabledFor(logging.WARNING)


def test_large_tensors_come_from_memory_that_is_kept() -> None:
    libc = ctypes.CDLL(None)
    if any(name.startswith("MALLOC_") for name in os.environ) or not hasattr(libc, "mallinfo2"):
        pytest.skip("the environment sets malloc's thresholds, or it is not that of glibc 2.33 and later")

    class Mallinfo(ctypes.Structure):
        _fields_ = tuple(
            (name, ctypes.c_size_t)
            for name in "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()
        )

    libc.mallinfo2.restype = Mallinfo
    mapped = libc.mallinfo2().hblkhd
    tensor = torch.ones(16 << 20)  # 64 MiB, twice the largest threshold that glibc chooses itself
    assert libc.mallinfo2().hblkhd == mapped, "it was mapped on its own, and would be unmapped when freed"
    held = libc.mallinfo2().arena
    del tensor
    assert libc.mallinfo2().arena == held


def resident_mib() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def test_freed_memory_is_kept_until_it_is_released() -> None:
    if any(name.startswith("MALLOC_") for name in os.environ) or not hasattr(ctypes.CDLL(None), "malloc_trim"):
        pytest.skip("the environment sets malloc's thresholds, or the C library is not glibc")
    large = [torch.ones(2 << 20) for _ in range(24)]  # 8 MiB each
    small = [torch.ones(1 << 10) for _ in range(24)]
    held = resident_mib()
    del large
    assert held - resident_mib() < 20, "kept for the next tensors"
    cpu_backend.release_freed_memory()
    assert held - resident_mib() > 150
    assert all(bool((each == 1).all()) for each in small)


def test_everybody_else_keeps_torch_as_it_is() -> None:
    assert safetensors.torch.torch is torch
    with pytest.raises((AssertionError, RuntimeError)):  # the message of a torch without CUDA
        torch.cuda.current_device()
    assert torch.zeros(1).type() == "torch.FloatTensor"
    assert torch.zeros(1).type(torch.int64).dtype == torch.int64
    with torch.device("meta"):
        for made in (torch.arange(4), torch.zeros(2), torch.tensor([1.0]), torch.empty(3), torch.ones(1)):
            assert made.is_meta


def test_from_pretrained_still_computes_its_buffers(tiny_qwen3_dir: Path) -> None:
    """transformers builds on the meta device first; a wrapped torch.arange would leave garbage in inv_freq."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_qwen3_dir)
    theta, width = model.config.rope_parameters["rope_theta"], model.config.head_dim
    expected = torch.tensor([theta ** (-2 * i / width) for i in range(width // 2)])
    torch.testing.assert_close(model.model.rotary_emb.inv_freq, expected)


def test_modules_that_were_imported_too_early_are_adapted() -> None:
    early = ModuleType("megatron.core.early")
    early.torch = torch
    early.fused = lambda tensor: None
    early.fused._torchdynamo_orig_callable = _double  # as torch.compile leaves it; the call itself takes four seconds
    cpu_backend._adapt(early)
    assert early.torch.cuda.current_device() == torch.device("cpu")
    assert early.fused is _double


@pytest.mark.parametrize("mended", [True, False])
@pytest.mark.usefixtures("topology")
def test_adam_goes_on_after_a_reload_as_if_nothing_had_been(monkeypatch: pytest.MonkeyPatch, mended: bool) -> None:
    """Two steps, a reload into a new optimizer and one more step give the weights of three steps.

    Without the patches the shared step counter runs ahead; the test also asserts that it then fails.
    """
    from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer

    if not mended:
        monkeypatch.setattr(DistributedOptimizer, "load_state_dict", DistributedOptimizer.load_state_dict.__wrapped__)
    straight, optimizer = _trainee()
    for step in range(2):
        _train(straight, optimizer, step)
    resumed, fresh = _trainee()
    _train(resumed, fresh, 7)  # allocates the state that is then overwritten
    resumed.load_state_dict(straight.state_dict())
    fresh.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    _copy_moments(optimizer, fresh)

    _train(straight, optimizer, 2)
    _train(resumed, fresh, 2)
    pairs = zip(straight.parameters(), resumed.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs) is mended


@pytest.mark.usefixtures("topology")
def test_resharded_states_need_no_step() -> None:
    """The loaders of resharded checkpoints pass only weights and moments; upstream raises KeyError: 'step'."""
    model, optimizer = _trainee()
    _train(model, optimizer, 0)
    (inner,) = optimizer.chained_optimizers
    weight = next(iter(model.parameters()))
    size = inner._get_main_param_and_optimizer_states(weight)["param"].shape
    new = {key: torch.full(size, value) for key, value in {"param": 1.0, "exp_avg": 2.0, "exp_avg_sq": 3.0}.items()}
    with torch.no_grad():
        inner._set_main_param_and_optimizer_states(weight, new)
    states = inner._get_main_param_and_optimizer_states(weight)
    assert {key: states[key].unique().item() for key in new} == {"param": 1.0, "exp_avg": 2.0, "exp_avg_sq": 3.0}
    assert states["step"].item() == 1.0


def _double(tensor: torch.Tensor) -> torch.Tensor:
    return tensor * 2


def _trainee() -> tuple[torch.nn.Module, object]:
    """Return two weights under Megatron's DDP and distributed optimizer."""
    from megatron.core.transformer import TransformerConfig
    from megatron.core.transformer.module import MegatronModule

    from megatron_pz.trainer.optimizer import wrap

    config = TransformerConfig(num_layers=1, hidden_size=8, num_attention_heads=1)
    module = MegatronModule(config)
    generator = torch.Generator().manual_seed(3)
    module.first = torch.nn.Parameter(torch.randn(8, 8, generator=generator))
    module.second = torch.nn.Parameter(torch.randn(8, 8, generator=generator))
    chunks, optimizer = wrap(
        [module], OptimizerConfig(lr=0.1, clip_grad=0.0), ParallelConfig(use_distributed_optimizer=True), bf16=False
    )
    return chunks[0], optimizer


def _train(model: torch.nn.Module, optimizer: object, step: int) -> None:
    model.zero_grad_buffer()
    generator = torch.Generator().manual_seed(100 + step)
    for weight in model.parameters():
        weight.main_grad.copy_(torch.randn(weight.shape, generator=generator))
    optimizer.step()


@torch.no_grad()
def _copy_moments(source: object, target: object) -> None:
    """Copy weights and moments, as a checkpoint's loader does after ``load_state_dict``."""
    for one, other in zip(source.chained_optimizers, target.chained_optimizers, strict=True):
        params = zip(one.model_param_group_index_map, other.model_param_group_index_map, strict=True)
        for parameter, counterpart in params:
            states = one._get_main_param_and_optimizer_states(parameter)
            other._set_main_param_and_optimizer_states(
                counterpart, {key: value for key, value in states.items() if key != "step"}
            )
