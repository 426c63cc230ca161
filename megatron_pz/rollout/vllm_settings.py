"""Translate the run's configuration into vLLM's arguments and environment, and refuse settings that bias training."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from megatron_pz.config.schema import RolloutConfig
from megatron_pz.rollout.platform import Platform
from megatron_pz.rollout.speculation import speculation_arguments
from megatron_pz.runtime.errors import BadInput

QUANTIZATION = {"fp8": "fp8_per_tensor"}
"""vLLM's names for what it quantises itself; its "fp8" is for checkpoints that are FP8 already."""


def engine_arguments(rollout: RolloutConfig, platform: Platform, *, colocated: bool) -> dict[str, Any]:
    """Return the keyword arguments of ``vllm.LLM`` except the model and the seed."""
    max_model_len = rollout.max_prompt_length + rollout.max_response_length
    arguments: dict[str, Any] = {
        "dtype": rollout.rollout_dtype,
        "max_model_len": max_model_len,
        "max_num_seqs": rollout.rollout_max_num_seqs,
        "tensor_parallel_size": rollout.rollout_tensor_parallel_size,
        "enable_chunked_prefill": False,  # chunked prefill breaks seeded requests, see rollout.engine
        "enable_prefix_caching": True,
        # Log-probabilities of the sampling distribution, so that log_prob_semantics detects truncation and temperature.
        "logprobs_mode": "processed_logprobs",
        "max_logprobs": -1,  # no limit on the requested number
        "use_tqdm_on_load": False,
        "generation_config": "vllm",  # ignore sampling defaults of generation_config.json; its end tokens still apply
        **platform.arguments(rollout),
        **speculation_arguments(rollout),
    }
    # Tokens in one forward pass, which must hold one sequence of full length.
    arguments["max_num_batched_tokens"] = max(max_model_len, arguments["max_num_batched_tokens"])
    if rollout.rollout_quantization != "none":
        arguments["quantization"] = QUANTIZATION[rollout.rollout_quantization]  # on every load of weights
    if colocated:
        arguments["distributed_executor_backend"] = "external_launcher"
    return arguments


def set_environment(*, colocated: bool, speculative: bool) -> None:
    """Set the environment variables that vLLM reads; call this before vLLM is imported."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    for name, value in {
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_NO_USAGE_STATS": "1",
        # FlashInfer is used only for top-k and top-p. If enabled but not installed, an engine on a GPU fails to start.
        "VLLM_USE_FLASHINFER_SAMPLER": "0",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
    }.items():
        os.environ.setdefault(name, value)
    if speculative:  # rollout.speculation patches the first model runner
        os.environ.setdefault("VLLM_USE_V2_MODEL_RUNNER", "0")
        # numba looks up n-grams. Its OpenMP layer would give the whole process, with the trainer, a thread per core.
        os.environ.setdefault("NUMBA_THREADING_LAYER", "workqueue")
    if colocated:  # the launcher's variables, for launchers that do not set them
        os.environ.setdefault("RANK", str(dist.get_rank()))
        os.environ.setdefault("LOCAL_RANK", str(torch.cuda.current_device() if torch.cuda.is_available() else 0))


def require_unbiased_sampling(rollout: RolloutConfig) -> None:
    """Raise BadInput for settings under which tokens are not sampled from the model's own distribution."""
    reason = "the update's probability ratio assumes sampling from the model's full distribution; set it to"
    if rollout.temperature != 1.0:
        raise BadInput(f"temperature is {rollout.temperature}: {reason} 1.0")
    if rollout.top_p != 1.0:
        raise BadInput(f"top_p is {rollout.top_p}: {reason} 1.0")
    if rollout.top_k != 0:
        raise BadInput(f"top_k is {rollout.top_k}: {reason} 0, which is off")


def require_head_size(hf_config: Mapping[str, Any], model_dir: Path, sizes: Sequence[int]) -> None:
    """Raise BadInput if the size of attention heads is not in ``sizes``; if empty, any size is supported."""
    if not sizes:
        return
    head = hf_config.get("head_dim")
    if head is None:
        head = hf_config["hidden_size"] // hf_config["num_attention_heads"]
    if head not in sizes:
        raise BadInput(
            f"{model_dir}: the attention heads have {head} channels, and vLLM's attention on a CPU serves only "
            f"{', '.join(map(str, sizes))}; use a model with such heads, or a GPU"
        )


def require_positions(hf_config: dict[str, Any], rollout: RolloutConfig) -> None:
    """Raise BadInput if a prompt and a response together exceed the model's positions."""
    max_model_len = rollout.max_prompt_length + rollout.max_response_length
    limit = hf_config.get("max_position_embeddings")
    rope = hf_config.get("rope_scaling") or hf_config.get("rope_parameters")
    stretched = isinstance(rope, dict) and rope.get("rope_type", rope.get("type", "default")) != "default"
    if isinstance(limit, int) and not stretched and max_model_len > limit:
        raise BadInput(
            f"max_prompt_length + max_response_length is {max_model_len}, but the model has {limit} positions "
            "(max_position_embeddings): lower one of the two"
        )


def require_ranks(world_size: int, tensor_parallel_size: int) -> None:
    """Raise BadInput if engines of this size do not divide the number of processes."""
    if tensor_parallel_size < 1 or world_size % tensor_parallel_size:
        raise BadInput(
            f"--rollout-tensor-parallel-size {tensor_parallel_size}: {world_size} processes cannot be divided among "
            "engines of that size; start a multiple of it, or lower it"
        )


def require_process_group(colocated: bool) -> int:
    """Return the world size before the engine starts (1 without a group)."""
    if colocated and not dist.is_initialized():
        raise RuntimeError(
            "a colocated rollout engine needs the trainer's process group first: an engine started before it makes a "
            "one-rank group of its own, in which every rank would train alone"
        )
    if not colocated and dist.is_initialized():
        raise RuntimeError("this process has a process group already: start the rollout engine with colocated=True")
    return dist.get_world_size() if colocated else 1
