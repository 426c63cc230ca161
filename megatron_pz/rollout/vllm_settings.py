"""What vLLM is started with: its arguments and environment from the run's configuration, and what must be refused."""

from __future__ import annotations

import os
from typing import Any

import torch
import torch.distributed as dist

from megatron_pz.config.schema import RolloutConfig
from megatron_pz.runtime.errors import BadInput

CPU_BLOCK_SIZE = 32
"""Tokens in a block of the CPU's KV cache: vLLM's kernels take multiples of 32, and a prompt shorter than a block never
shares its prefill (prompts of 200, n = 8: 1.7 times the throughput of vLLM's default of 128)."""
MIN_BATCHED_TOKENS = {"cpu": 2048, "cuda": 8192}
"""Tokens in one forward pass, unless one full-length sequence needs more."""
QUANTIZATION = {"fp8": "fp8_per_tensor"}
"""vLLM's names for what it quantises itself; its "fp8" is for checkpoints that are FP8 already."""


def engine_arguments(rollout: RolloutConfig, *, colocated: bool, on_gpu: bool) -> dict[str, Any]:
    """Keyword arguments of ``vllm.LLM`` beside the model and the seed."""
    max_model_len = rollout.max_prompt_length + rollout.max_response_length
    arguments: dict[str, Any] = {
        "dtype": rollout.rollout_dtype,
        "max_model_len": max_model_len,
        "max_num_seqs": rollout.rollout_max_num_seqs,
        "tensor_parallel_size": rollout.rollout_tensor_parallel_size,
        "max_num_batched_tokens": max(max_model_len, MIN_BATCHED_TOKENS["cuda" if on_gpu else "cpu"]),
        "enable_chunked_prefill": False,  # seeded requests break or lose their place otherwise, see rollout.engine
        "enable_prefix_caching": True,
        # Those of the distribution that is sampled from: log_prob_semantics sees when it is truncated or tempered.
        "logprobs_mode": "processed_logprobs",
        "max_logprobs": -1,  # as many as asked for
        "use_tqdm_on_load": False,
    }
    if rollout.rollout_quantization != "none":
        arguments["quantization"] = QUANTIZATION[rollout.rollout_quantization]  # of weights as they are (re)loaded
    if colocated:
        arguments["distributed_executor_backend"] = "external_launcher"
    if on_gpu:
        arguments["gpu_memory_utilization"] = rollout.gpu_memory_utilization
        # One engine of a process at most can sleep: vLLM's allocator refuses the weights of a second one.
        arguments["enable_sleep_mode"] = rollout.sleep_during_update
    else:
        arguments["enforce_eager"] = True
        arguments["block_size"] = CPU_BLOCK_SIZE
        arguments["kv_cache_memory_bytes"] = int(rollout.rollout_memory_gib * 2**30)
    return arguments


def set_environment(*, colocated: bool) -> None:
    """What vLLM reads from the environment; it must be there before vLLM is imported."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    os.environ["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"  # OMP_NUM_THREADS counts; ranks do not fight for the same cores
    os.environ.pop("VLLM_CPU_KVCACHE_SPACE", None)  # whole GiB only, and it would win over rollout_memory_gib
    for name, value in {
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_NO_USAGE_STATS": "1",
        # For top-k and top-p only; where it is on, an engine on a GPU does not start without FlashInfer.
        "VLLM_USE_FLASHINFER_SAMPLER": "0",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
    }.items():
        os.environ.setdefault(name, value)
    if colocated:  # the launcher's variables, for launchers that set none of them
        os.environ.setdefault("RANK", str(dist.get_rank()))
        os.environ.setdefault("LOCAL_RANK", str(torch.cuda.current_device() if torch.cuda.is_available() else 0))


def require_unbiased_sampling(rollout: RolloutConfig) -> None:
    """Raises BadInput for settings under which tokens are not sampled from the model's own distribution."""
    reason = "the update's probability ratio assumes sampling from the model's full distribution; set it to"
    if rollout.temperature != 1.0:
        raise BadInput(f"temperature is {rollout.temperature}: {reason} 1.0")
    if rollout.top_p != 1.0:
        raise BadInput(f"top_p is {rollout.top_p}: {reason} 1.0")
    if rollout.top_k != 0:
        raise BadInput(f"top_k is {rollout.top_k}: {reason} 0, which is off")


def require_positions(hf_config: dict[str, Any], rollout: RolloutConfig) -> None:
    """Raises BadInput when the longest prompt and response together outnumber the model's positions."""
    max_model_len = rollout.max_prompt_length + rollout.max_response_length
    limit = hf_config.get("max_position_embeddings")
    rope = hf_config.get("rope_scaling") or hf_config.get("rope_parameters")
    stretched = isinstance(rope, dict) and rope.get("rope_type", rope.get("type", "default")) != "default"
    if isinstance(limit, int) and not stretched and max_model_len > limit:
        raise BadInput(
            f"max_prompt_length + max_response_length is {max_model_len}, but the model has {limit} positions "
            "(max_position_embeddings): lower one of the two"
        )
