"""Decide the precision of a run once, on rank 0 for all ranks."""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.distributed as dist

from megatron_pz.checkpoint.checkpoint_files import folder_of, latest_iteration, read_header
from megatron_pz.config.precision import with_bound, with_precision
from megatron_pz.config.schema import RunConfig
from megatron_pz.config.validate_precision import machine_refusals, precision_rules
from megatron_pz.model.precision import this_machine
from megatron_pz.runtime.errors import BadInput
from megatron_pz.runtime.matrix_speed import MatrixSpeed, Precision, matrix_speed

SLOW = 2.0
"""An explicitly requested precision counts as slow if the other one is at least this many times as fast."""
_NAMES: dict[Precision, str] = {"bf16": "bfloat16", "fp32": "float32"}

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Decision:
    """A configuration with a concrete precision and bound, and the messages about the choice."""

    config: RunConfig
    reason: str
    """Reason for the precision; empty if it was requested explicitly."""
    warning: str
    """Warning about an explicitly requested precision that is slow on this machine, otherwise empty."""


def settle_precision(config: RunConfig) -> RunConfig:
    """Return the configuration with a concrete precision and bound, the same on every rank. Collective.

    Rank 0 decides (:func:`decide_precision`) and prints its choice with the reason in one line.

    Raises:
        BadInput: another setting is incompatible with the chosen precision.
    """
    has_ranks = dist.is_initialized() and dist.get_world_size() > 1
    settled = [config]
    if not has_ranks or dist.get_rank() == 0:
        decision = decide_precision(config)
        if decision.reason:
            print(f"precision: {describe(decision.config)} ({decision.reason})", flush=True)
        if decision.warning:
            logger.warning(decision.warning)
        settled = [decision.config]
    if has_ranks:
        dist.broadcast_object_list(settled, src=0)
    for holds, complaint in precision_rules(settled[0]):
        if not holds:
            raise BadInput(complaint)
    return settled[0]


def require_machine(config: RunConfig) -> None:
    """Raise BadInput, with all reasons in one line, if this machine cannot run the settled configuration."""
    if reasons := machine_refusals(config, this_machine()):
        raise BadInput("; ".join(reasons))


def decide_precision(config: RunConfig) -> Decision:
    """Resolve ``precision: auto`` to the checkpoint's precision if the run resumes, otherwise to the fastest one.

    An explicit precision is kept.
    """
    asked = config.model.precision
    if asked == "auto":
        saved = _of_checkpoint(config)
        if saved is not None:
            return Decision(saved, f"that of the checkpoint in {config.training.load}", "")
        return Decision(with_precision(config, fastest_precision()), why_fastest(), "")
    named = with_bound(config) if asked == "custom" else with_precision(config, asked)
    return Decision(named, "", "" if torch.cuda.is_available() else slow_warning(named, matrix_speed()))


def fastest_precision() -> Precision:
    """Return the precision of ``auto`` on this machine without a checkpoint: bf16 on a GPU, else as measured."""
    return "bf16" if torch.cuda.is_available() else matrix_speed().fastest


def why_fastest() -> str:
    """Return the reason for :func:`fastest_precision` as a phrase."""
    return "a GPU" if torch.cuda.is_available() else f"measured: {matrix_speed()}"


def describe(config: RunConfig) -> str:
    """Name the precisions of trainer and rollouts."""
    trainer = "FP8" if config.model.fp8_format != "none" else _NAMES["bf16" if config.model.bf16 else "fp32"]
    rollout = config.rollout
    return f"trainer {trainer}, rollouts {rollout.rollout_dtype if rollout.rollout_quantization == 'none' else 'FP8'}"


def slow_warning(config: RunConfig, speed: MatrixSpeed) -> str:
    """Return a one-line warning if an explicit precision of the trainer is slow on this CPU, otherwise ''."""
    own: Precision = "bf16" if config.model.bf16 else "fp32"
    other: Precision = "fp32" if config.model.bf16 else "bf16"
    if speed.of(other) < SLOW * speed.of(own):
        return ""
    return f"{_NAMES[own]} was requested and is slow on this CPU ({speed}): --precision auto uses {_NAMES[other]}"


def _of_checkpoint(config: RunConfig) -> RunConfig | None:
    """Return the configuration in the precision of the checkpoint that the run resumes, or None without one.

    An unreadable checkpoint is refused later, when it is loaded.
    """
    root = Path(config.training.load)
    with suppress(BadInput, KeyError, TypeError, AttributeError):
        iteration = latest_iteration(root) if config.training.load else None
        if iteration is not None:
            saved = read_header(folder_of(root, iteration))["common"]["config"]
            named = saved["model"].get("precision", "custom")  # checkpoints of earlier versions record none
            model = replace(config.model, precision=named, bf16=bool(saved["model"]["bf16"]))
            rollout = replace(config.rollout, rollout_dtype=saved["rollout"]["rollout_dtype"])
            return with_bound(replace(config, model=model, rollout=rollout))
    return None
