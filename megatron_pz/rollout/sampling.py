"""Translate the sampling settings of a prompt into vLLM's parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from megatron_pz.config.schema import RolloutConfig
from megatron_pz.rl.experience import Decoding
from megatron_pz.runtime.errors import BadInput

if TYPE_CHECKING:
    from vllm import SamplingParams


def sampling_parameters(
    rollout: RolloutConfig, seed: int, *, n: int, max_tokens: int, stop: Sequence[str], **more: Any
) -> SamplingParams:
    """Return vLLM's parameters for one prompt; ``more`` adds or overrides parameters."""
    from vllm import SamplingParams

    settings: dict[str, Any] = {
        "n": n,
        "temperature": rollout.temperature,
        "top_p": rollout.top_p,
        "top_k": rollout.top_k,
        "seed": sample_seed(seed),
        "max_tokens": max_tokens,
        "stop": list(stop),
        "include_stop_str_in_output": True,
        "flat_logprobs": True,
        "logprobs": 0,  # only of the sampled token
    }
    return SamplingParams(**settings | more)


def decoding_parameters(decoding: Decoding, n: int) -> dict[str, Any]:
    """Return the parameters of an evaluation that replace those of training.

    Raises:
        BadInput: greedy decoding has several samples.
    """
    if n > 1 and decoding.temperature == 0:
        raise BadInput(f"{n} samples of a prompt at temperature 0 would all be the same: ask for 1")
    return {"temperature": decoding.temperature, "top_p": decoding.top_p, "include_stop_str_in_output": False}


def sample_seed(seed: int) -> int:
    """Return the seed of a prompt's first sample (63 bits); vLLM uses this plus k for the k-th sample.

    SplitMix64's output function spreads the callers' seeds. Otherwise, if neighbouring prompts have neighbouring seeds,
    sample k + 1 of one prompt would draw the same noise as sample k of the next.
    """
    mask = 2**64 - 1
    mixed = (seed + 0x9E3779B97F4A7C15) & mask
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & mask
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & mask
    return (mixed ^ (mixed >> 31)) >> 1
