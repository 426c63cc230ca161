"""Translate precision into Megatron-Core's settings, and refuse precisions that the model or machine cannot use.

FP8 has not been run on a GPU: the rules are tested against Megatron-Core's own checks, not on hardware.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from megatron_pz.config.schema import ModelConfig, ParallelConfig
from megatron_pz.config.validate_precision import Machine, Version, gemm_multiple, model_refusals, uses_fp8
from megatron_pz.runtime.errors import BadInput
from megatron_pz.runtime.versions import installed_versions, version_numbers

if TYPE_CHECKING:
    from megatron_pz.hf.architecture import Architecture

_TRANSFORMER_ENGINE = ("transformer-engine", "transformer-engine-torch")


def precision_settings(model: ModelConfig) -> dict[str, Any]:
    """Return the precision settings of a TransformerConfig; impossible combinations have already been refused.

    The data parallel wrapper and the optimizer read their settings from the same TransformerConfig
    (``trainer.optimizer``).
    """
    dtype = torch.bfloat16 if model.bf16 else torch.float32
    settings = {"params_dtype": dtype, "pipeline_dtype": dtype, "bf16": model.bf16}
    if not uses_fp8(model):
        return settings
    return {
        **settings,
        "fp8": model.fp8_format,
        "fp8_recipe": model.fp8_recipe,
        "fp8_param": model.fp8_param_gather,
        "first_last_layers_bf16": model.first_last_layers_bf16,
        "num_layers_at_start_in_bf16": model.num_layers_at_start_in_bf16,
        "num_layers_at_end_in_bf16": model.num_layers_at_end_in_bf16,
        # Transformer Engine's defaults for delayed scaling; other recipes do not read them. Megatron-Core's default
        # uses only the maximum of the last step.
        "fp8_amax_history_len": 1024,
        "fp8_amax_compute_algo": "max",
    }


def refuse_precision(arch: Architecture, model: ModelConfig, parallel: ParallelConfig) -> None:
    """Raise BadInput, with the reason in one line, if FP8 cannot multiply the model's matrices in this layout."""
    if not uses_fp8(model):
        return
    multiple = gemm_multiple(model)
    for what, size in _matrix_sizes(arch, parallel).items():
        if size % multiple:
            raise BadInput(
                f"--fp8-format {model.fp8_format}: the model's {what} is {size}, which is not a multiple of {multiple} "
                f"as --fp8-recipe {model.fp8_recipe} needs; use bfloat16, or a smaller tensor parallel size"
            )
    if model.first_last_layers_bf16:
        of_stage = arch.num_layers // parallel.pipeline_model_parallel_size
        for name in ("num_layers_at_start_in_bf16", "num_layers_at_end_in_bf16"):
            if getattr(model, name) > of_stage:
                raise BadInput(
                    f"--{name.replace('_', '-')} {getattr(model, name)}: a pipeline stage has {of_stage} layers, and "
                    "Megatron-Core keeps at most one stage's layers in bfloat16"
                )


def _matrix_sizes(arch: Architecture, parallel: ParallelConfig) -> dict[str, int]:
    """Return rows and columns of the layers' weights on one tensor parallel rank, by name."""
    ranks = parallel.tensor_model_parallel_size
    heads = arch.num_attention_heads * arch.kv_channels
    sizes = {
        "hidden size": arch.hidden_size,
        "attention width on a rank": heads // ranks,
        "width of queries, keys and values on a rank": (heads + 2 * arch.num_query_groups * arch.kv_channels) // ranks,
    }
    if not arch.all_layers_are_sparse:
        sizes["feed-forward width on a rank"] = arch.ffn_hidden_size // ranks
    if arch.experts is not None:
        own_ranks = parallel.expert_tensor_parallel_size or ranks
        sizes["width of an expert on a rank"] = arch.experts.ffn_hidden_size // own_ranks
    return sizes


def this_machine() -> Machine:
    """Describe the hardware of this process without importing Transformer Engine, which fails without CUDA."""
    return Machine(
        compute_capability=torch.cuda.get_device_capability() if torch.cuda.is_available() else None,
        cuda=version_numbers(torch.version.cuda),
        transformer_engine=transformer_engine_version(),
    )


def require_precision(model: ModelConfig, machine: Machine) -> None:
    """Raise BadInput, with all reasons in one line, if the machine cannot compute in the model's precision."""
    reasons = model_refusals(model, machine)
    if reasons:
        raise BadInput("; ".join(reasons))


def plain_tensor(tensor: torch.Tensor) -> torch.Tensor:
    """Return the tensor itself, or a quantised tensor dequantised to its nominal dtype (bfloat16).

    Transformer Engine's quantised tensors are subclasses with their own ``dequantize``. Collectives would send their
    bytes without the scales, and safetensors cannot write them.
    """
    kind = type(tensor)
    return tensor.dequantize() if kind.dequantize is not torch.Tensor.dequantize else tensor


def keep_unrounded(parameter: torch.Tensor, values: torch.Tensor) -> None:
    """Make the optimizer start from the unrounded ``values`` that an FP8 ``parameter`` has been filled with.

    Transformer Engine keeps the initial values of an FP8 parameter on the host (``_high_precision_init_val``), and
    Megatron-Core's distributed optimizer makes its float32 weights from them. Otherwise these would be the values of
    the constructor.
    """
    if hasattr(parameter, "get_high_precision_init_val"):
        parameter._high_precision_init_val = values.detach().cpu().clone()  # type: ignore[attr-defined]


def transformer_engine_version() -> Version | None:
    """Return the version in the metadata of the installed distribution, or None if there is none."""
    versions = installed_versions(_TRANSFORMER_ENGINE).values()
    return version_numbers(next(iter(versions), None))
