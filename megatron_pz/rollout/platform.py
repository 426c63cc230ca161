"""Encapsulate the differences between vLLM on a GPU and on a CPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch

from megatron_pz.config.schema import RolloutConfig
from megatron_pz.rollout.cpu.platform import CpuPlatform
from megatron_pz.rollout.vllm_patches import release_device_memory

if TYPE_CHECKING:
    from vllm import LLM


class Platform(Protocol):
    """The device-dependent part of an engine's life. :class:`GpuPlatform` and ``CpuPlatform`` implement it."""

    memory_setting: str
    """The setting that bounds the engine's memory."""
    sleeps: bool
    """vLLM can give the engine's memory to the trainer and take it back."""
    expert_arguments: Mapping[str, Any]
    """vLLM's arguments for an engine that returns expert ids."""

    def prepare(self) -> None:
        """Set up the process before vLLM is imported."""

    def head_sizes(self) -> Sequence[int]:
        """Return the attention head sizes that vLLM supports, empty for any; import vLLM."""

    def arguments(self, rollout: RolloutConfig) -> dict[str, Any]:
        """Return the device-dependent part of vLLM's arguments."""

    def kernels(self) -> dict[str, Any]:
        """Return the arguments that select vLLM's kernels; import vLLM."""

    def started(self, llm: LLM, *, returns_experts: bool) -> None:
        """Adapt an engine that has just started."""

    def reloaded(self, llm: LLM, *, tied_head: bool) -> None:
        """Finish a weight update."""

    def closed(self, *, last: bool) -> None:
        """Free the remaining resources of a closed engine; ``last``: no engine of the process is left."""


class GpuPlatform:
    """vLLM on CUDA devices."""

    memory_setting = "gpu_memory_utilization"
    sleeps = True
    expert_arguments: Mapping[str, Any] = {"enable_return_routed_experts": True}

    def prepare(self) -> None:
        """Do nothing."""

    def head_sizes(self) -> Sequence[int]:
        """Return no sizes: vLLM chooses a kernel for the model."""
        return ()

    def arguments(self, rollout: RolloutConfig) -> dict[str, Any]:
        """Return arguments that bound the memory and, if configured, enable sleep.

        At most one engine of a process can sleep: vLLM's allocator refuses the weights of a second one.
        """
        return {
            "gpu_memory_utilization": rollout.gpu_memory_utilization,
            "enable_sleep_mode": rollout.sleep_during_update,
            "max_num_batched_tokens": 8192,
        }

    def kernels(self) -> dict[str, Any]:
        """Return no arguments: vLLM chooses its kernels."""
        return {}

    def started(self, llm: LLM, *, returns_experts: bool) -> None:
        """Do nothing."""

    def reloaded(self, llm: LLM, *, tied_head: bool) -> None:
        """Do nothing."""

    def closed(self, *, last: bool) -> None:
        """Return the engine's memory to the driver."""
        release_device_memory(last=last)


def this_platform() -> Platform:
    """Return the platform of this machine, which is the GPU if torch finds one."""
    return GpuPlatform() if torch.cuda.is_available() else CpuPlatform()
