"""Set one precision for trainer, rollouts and the check that compares them."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from megatron_pz.config.schema import RunConfig

BOUNDS = {"fp32": 0.01, "other": 0.3}
"""Mean nats per token by which rollout and trainer may differ. Measured on SmolLM2-135M: 1e-5 if both are float32, 0.03
to 0.05 if both are bfloat16, about 0.2 with FP8 rollouts (emulated). A stale tied head differs by 0.27."""


def with_precision(config: RunConfig, precision: Literal["bf16", "fp32"]) -> RunConfig:
    """Return the configuration with ``precision`` in trainer and rollouts, and with the matching bound.

    An explicit ``max_log_prob_difference`` is kept.
    """
    bf16 = precision == "bf16"
    model = replace(config.model, precision=precision, bf16=bf16)
    rollout = replace(config.rollout, rollout_dtype="bfloat16" if bf16 else "float32")
    return with_bound(replace(config, model=model, rollout=rollout))


def with_bound(config: RunConfig) -> RunConfig:
    """Return the configuration with a numeric ``max_log_prob_difference``: the given one, or that of the precision."""
    return replace(config, rollout=replace(config.rollout, max_log_prob_difference=log_prob_difference_bound(config)))


def log_prob_difference_bound(config: RunConfig) -> float:
    """Return the mean difference, in nats per token, above which rollout and trainer cannot have the same weights."""
    rollout = config.rollout
    exact = not config.model.bf16 and rollout.rollout_dtype == "float32" and rollout.rollout_quantization == "none"
    return rollout.max_log_prob_difference or BOUNDS["fp32" if exact else "other"]
