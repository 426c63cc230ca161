"""Refuse precisions that cannot work on any machine, or on a given one, without torch, a model or processes.

The rules are those of Megatron-Core 0.16 (``TransformerConfig.__post_init__``, ``fp8_utils``), of Megatron-LM's
arguments and of Transformer Engine 2 (``quantization.py``: which recipe needs which device), and are applied before
anything is started. What depends on the model's sizes is in :mod:`megatron_pz.model.precision`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from megatron_pz.config.schema import GameConfig, ModelConfig, ParallelConfig, RolloutConfig, RunConfig

Version = tuple[int, int]
"""Major and minor number."""


@dataclass(frozen=True)
class Machine:
    """Properties of a machine that decide which precisions it can run."""

    compute_capability: Version | None
    """Compute capability of the CUDA device; None: there is none."""
    cuda: Version | None
    """CUDA version that torch was built with; None: a CPU build."""
    transformer_engine: Version | None
    """Version of Transformer Engine; None: not installed."""


@dataclass(frozen=True)
class _Needs:
    """Requirements of an FP8 recipe; versions are the lowest that suffice."""

    capability: Version
    capability_below: Version
    cuda: Version
    transformer_engine: Version


_ANY: Version = (0, 0)
_NONE_YET: Version = (1000, 0)
_RECIPE_NEEDS = {
    "delayed": _Needs((8, 9), _NONE_YET, (12, 1), _ANY),
    "tensorwise": _Needs((8, 9), _NONE_YET, (12, 1), (2, 2)),
    "blockwise": _Needs((9, 0), _NONE_YET, (12, 9), (2, 3)),
    "mxfp8": _Needs((10, 0), (12, 0), (12, 8), (2, 1)),
}
_DEVICES = {(8, 9): "Ada", (9, 0): "Hopper", (10, 0): "Blackwell"}
_VLLM_FP8_CAPABILITY: Version = (8, 9)


def uses_fp8(model: ModelConfig) -> bool:
    """Return whether the trainer multiplies some matrices in FP8."""
    return model.fp8_format != "none"


def gemm_multiple(model: ModelConfig) -> int:
    """Return the number of which matrix sizes must be multiples: Megatron-Core's ``get_fp8_align_size``."""
    if not uses_fp8(model):
        return 1
    return 32 if model.fp8_recipe == "mxfp8" else 16


def padded_for_fp8(model: ModelConfig, parallel: ParallelConfig) -> ParallelConfig:
    """Return the layout with a ``packed_length_multiple`` that satisfies FP8 on every rank's part of a packed sequence.

    A sequence that sequence parallelism divides needs that multiple on each rank. Blockwise quantization needs blocks
    of 128 for the gather: Transformer Engine gathers other lengths in bfloat16.
    """
    if not uses_fp8(model):
        return parallel
    of_a_rank = gemm_multiple(model)
    if parallel.sequence_parallel:
        of_a_rank = parallel.tensor_model_parallel_size * (128 if model.fp8_recipe == "blockwise" else of_a_rank)
    return replace(parallel, packed_length_multiple=math.lcm(parallel.packed_length_multiple, of_a_rank))


def needs_equal_packed_counts(model: ModelConfig) -> bool:
    """Return whether data-parallel ranks need equal numbers of packed sequences.

    Under delayed scaling they reduce their maxima after each sequence.
    """
    return uses_fp8(model) and model.fp8_recipe == "delayed"


def precision_rules(config: RunConfig) -> list[tuple[bool, str]]:
    """Return (whether it holds, the error message if not) for every rule that is independent of the machine."""
    model, rollout, parallel = config.model, config.rollout, config.parallel
    fp8, recipe = uses_fp8(model), model.fp8_recipe
    return [
        (not fp8 or model.bf16, f"--fp8-format {model.fp8_format} needs --bf16: what is not FP8 is bfloat16"),
        (
            not model.fp8_param_gather or fp8,
            "--fp8-param-gather has nothing to keep in FP8: give --fp8-format, or leave it out",
        ),
        (
            not model.fp8_param_gather or parallel.use_distributed_optimizer,
            "--fp8-param-gather needs --use-distributed-optimizer, which holds the float32 weights that it leaves out",
        ),
        (
            not (model.fp8_param_gather and recipe == "mxfp8"),
            "--fp8-param-gather with --fp8-recipe mxfp8 is not built: choose another recipe, or leave it out",
        ),
        (
            not (model.fp8_param_gather and recipe == "delayed"),
            "--fp8-param-gather with --fp8-recipe delayed: a checkpoint's weights would be rounded with a scale of 1, "
            "before any maximum is known; choose tensorwise or blockwise",
        ),
        (
            not model.first_last_layers_bf16 or fp8,
            "--first-last-layers-bf16 without --fp8-format: all layers are bfloat16 already; leave it out",
        ),
        (
            not (model.first_last_layers_bf16 and recipe == "delayed"),
            "--first-last-layers-bf16 with --fp8-recipe delayed: Megatron-Core reduces delayed scales over all layers "
            "at once; choose tensorwise or blockwise",
        ),
        (
            model.bf16 or not config.optimizer.rl_offload_optimizer_during_inference,
            "--rl-offload-optimizer-during-inference needs --bf16: in float32 the optimizer holds the weights "
            "themselves, which the rollout engines are given",
        ),
        *_rollout_rules(config, rollout),
    ]


def _rollout_rules(config: RunConfig, rollout: RolloutConfig) -> list[tuple[bool, str]]:
    quantized = rollout.rollout_quantization != "none"
    return [
        (
            not quantized or config.grpo.mismatch_correction != "off",
            f"--rollout-quantization {rollout.rollout_quantization} with --mismatch-correction off: the tokens are not "
            "sampled from the trainer's distribution; use tis (truncated importance sampling) or icepop",
        ),
        (
            not quantized or rollout.rollout_dtype == "bfloat16",
            f"--rollout-quantization {rollout.rollout_quantization} needs --rollout-dtype bfloat16, not "
            f"{rollout.rollout_dtype}",
        ),
    ]


def machine_refusals(config: RunConfig, machine: Machine) -> list[str]:
    """Return the reasons why this configuration cannot run on that machine, one line each; empty if it can.

    ``config`` must have passed :func:`precision_rules`.
    """
    reasons = [*model_refusals(config.model, machine), *_engine_refusals(config.game, config.rollout, machine)]
    if config.rollout.rollout_quantization != "none":
        reasons += _quantization_refusals(config.rollout, machine)
    return reasons


def model_refusals(model: ModelConfig, machine: Machine) -> list[str]:
    """Return the reasons why the trainer cannot compute in this precision, as :func:`machine_refusals` does."""
    return [*_device_refusals(model, machine), *(_fp8_refusals(model, machine) if uses_fp8(model) else [])]


def _device_refusals(model: ModelConfig, machine: Machine) -> list[str]:
    if machine.compute_capability is None:
        return []
    reasons = []
    if machine.transformer_engine is None:
        reasons.append(
            "on a CUDA device the layers are Transformer Engine's, which is not installed: see the extra gpu"
        )
    if model.bf16 and machine.compute_capability < (8, 0):
        reasons.append(f"--bf16 needs a device of capability 8.0 or more, this one has {_text(machine)}; use --no-bf16")
    return reasons


def _engine_refusals(game: GameConfig, rollout: RolloutConfig, machine: Machine) -> list[str]:
    two = game.policy_sharing == "separate"
    if machine.compute_capability is None or not (two and rollout.sleep_during_update):
        return []
    return [
        "--policy-sharing separate has two rollout engines in every process, and vLLM's sleep mode serves one only: "
        "use --no-sleep-during-update"
    ]


def _fp8_refusals(model: ModelConfig, machine: Machine) -> list[str]:
    asked = f"--fp8-format {model.fp8_format} --fp8-recipe {model.fp8_recipe}"
    needs = _RECIPE_NEEDS[model.fp8_recipe]
    capability = machine.compute_capability
    if capability is None:
        return [f"{asked} needs a CUDA device, and there is none here: leave --fp8-format out"]
    reasons = []
    if capability < needs.capability:
        least = f"{needs.capability[0]}.{needs.capability[1]} ({_DEVICES[needs.capability]})"
        other = "; use tensorwise or blockwise" if model.fp8_recipe == "mxfp8" and capability >= (9, 0) else ""
        reasons.append(f"{asked} needs a device of capability {least} or more, this one has {_text(machine)}{other}")
    if capability >= needs.capability_below:
        reasons.append(f"{asked}: Transformer Engine has no such kernels for capability {_text(machine)} yet")
    if machine.cuda is None or machine.cuda < needs.cuda:
        has = "none" if machine.cuda is None else "{}.{}".format(*machine.cuda)
        reasons.append(f"{asked} needs CUDA {needs.cuda[0]}.{needs.cuda[1]} or later, torch was built with {has}")
    engine = machine.transformer_engine
    if engine is not None and engine < needs.transformer_engine:
        least = "{}.{}".format(*needs.transformer_engine)
        reasons.append(f"{asked} needs Transformer Engine {least} or later, here is {engine[0]}.{engine[1]}")
    return reasons


def _quantization_refusals(rollout: RolloutConfig, machine: Machine) -> list[str]:
    asked = f"--rollout-quantization {rollout.rollout_quantization}"
    if machine.compute_capability is None:
        return [f"{asked} needs a CUDA device, and there is none here: leave it out"]
    if machine.compute_capability < _VLLM_FP8_CAPABILITY:
        return [f"{asked} needs a device of capability 8.9 (Ada) or more, this one has {_text(machine)}; leave it out"]
    return []


def _text(machine: Machine) -> str:
    return "{}.{}".format(*machine.compute_capability or (0, 0))
