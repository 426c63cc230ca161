"""Refuse parallel layouts that do not fit a model, and translate a layout into Megatron-Core's settings."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any

from megatron_pz.config.schema import ParallelConfig
from megatron_pz.config.validate_parallel import expert_tensor_parallel_size, layout_rules
from megatron_pz.config.validate_ranges import flag
from megatron_pz.runtime.errors import BadInput

if TYPE_CHECKING:
    from megatron_pz.hf.architecture import Architecture


def refuse_layout(arch: Architecture, parallel: ParallelConfig) -> None:
    """Raise BadInput, with the reason in one line, if the model does not fit the layout."""
    for holds, complaint in layout_rules(parallel):
        if not holds:
            raise BadInput(complaint)
    _refuse_tensor_parallel(arch, parallel)
    _refuse_experts(arch, parallel)
    layers = layers_of_stages(arch.num_layers, parallel)
    _refuse_stages_without_experts(arch, parallel)
    _refuse_recompute(layers, parallel)


def layers_of_stages(num_layers: int, parallel: ParallelConfig) -> list[int]:
    """Count the layers of each pipeline stage over all its chunks. Raise BadInput if they cannot be divided."""
    stages, chunks = parallel.pipeline_model_parallel_size, parallel.virtual_pipeline_model_parallel_size
    first, last = parallel.decoder_first_pipeline_num_layers, parallel.decoder_last_pipeline_num_layers
    middle_layers, middle_stages = num_layers - first - last, stages - bool(first) - bool(last)
    if middle_layers < 0 or bool(middle_layers) != bool(middle_stages):
        raise BadInput(
            f"a first pipeline stage of {first} and a last one of {last} layers leave {middle_layers} of the model's "
            f"{num_layers} layers for the {middle_stages} stages between them"
        )
    if middle_stages and middle_layers % (middle_stages * chunks):
        if first or last:
            raise BadInput(
                f"{middle_layers} layers between the first and the last pipeline stage cannot be shared out evenly to "
                f"{middle_stages} stages of {chunks} chunks"
            )
        if chunks > 1:
            raise BadInput(
                f"pipeline_model_parallel_size {stages} x virtual_pipeline_model_parallel_size {chunks} does not "
                f"divide the model's {num_layers} layers"
            )
        raise BadInput(
            f"pipeline_model_parallel_size {stages} does not divide the model's {num_layers} layers; "
            f"the next smaller size that fits is {_next_smaller(stages, num_layers)}, "
            "or set --decoder-first-pipeline-num-layers and --decoder-last-pipeline-num-layers"
        )
    for count in filter(None, (first, last)):
        if count % chunks:
            raise BadInput(f"a pipeline stage of {count} layers cannot be cut into {chunks} chunks")
    middle = [middle_layers // middle_stages] * middle_stages if middle_stages else []
    return [*filter(None, [first]), *middle, *filter(None, [last])]


def sparse_layers_of_stages(arch: Architecture, parallel: ParallelConfig) -> list[int]:
    """Count the layers with experts of each pipeline stage. Raise BadInput as :func:`layers_of_stages` does."""
    layers = layers_of_stages(arch.num_layers, parallel)
    sparse = [0] * len(layers)
    if arch.experts is None:
        return sparse
    chunks, numbers = parallel.virtual_pipeline_model_parallel_size, iter(range(arch.num_layers))
    for _ in range(chunks):  # in each round every stage takes one run of layers
        for stage, count in enumerate(layers):
            sparse[stage] += sum(arch.experts.in_layer[number] for number in islice(numbers, count // chunks))
    return sparse


def layout_settings(parallel: ParallelConfig) -> dict[str, Any]:
    """Return the settings of a TransformerConfig that follow from the layout."""
    chunks = parallel.virtual_pipeline_model_parallel_size
    interleaved = chunks > 1
    recompute: dict[str, Any] = {}
    if parallel.recompute_granularity != "none":
        recompute["recompute_granularity"] = parallel.recompute_granularity
    if parallel.recompute_granularity == "full":
        recompute["recompute_method"] = parallel.recompute_method
        recompute["recompute_num_layers"] = parallel.recompute_num_layers
    return {
        "tensor_model_parallel_size": parallel.tensor_model_parallel_size,
        "pipeline_model_parallel_size": parallel.pipeline_model_parallel_size,
        "virtual_pipeline_model_parallel_size": chunks if interleaved else None,
        "num_layers_in_first_pipeline_stage": parallel.decoder_first_pipeline_num_layers or None,
        "num_layers_in_last_pipeline_stage": parallel.decoder_last_pipeline_num_layers or None,
        "context_parallel_size": parallel.context_parallel_size,
        "expert_model_parallel_size": parallel.expert_model_parallel_size,
        "expert_tensor_parallel_size": expert_tensor_parallel_size(parallel),
        "sequence_parallel": parallel.sequence_parallel,
        # Pipeline stages receive packed sequences of any length; interleaved stages need one length (``packed_shape``).
        "variable_seq_lengths": not interleaved,
        # With two interleaved stages both neighbours of a stage are the same process, and Megatron-Core 0.16 confuses
        # the two directions of one batched call: no error, but wrong gradients.
        "overlap_p2p_comm": interleaved,
        "batch_p2p_comm": not interleaved,
        **recompute,
    }


def _refuse_tensor_parallel(arch: Architecture, parallel: ParallelConfig) -> None:
    size = parallel.tensor_model_parallel_size
    cut = {
        "attention heads": arch.num_attention_heads,
        "key/value heads": arch.num_query_groups,
    }
    if not arch.all_layers_are_sparse:
        cut["feed-forward channels"] = arch.ffn_hidden_size
    for what, count in cut.items():
        if count % size:
            raise BadInput(
                f"tensor_model_parallel_size {size} does not divide the model's {count} {what}; "
                f"the next smaller size that fits is {_next_smaller(size, *cut.values())}"
            )


def _refuse_experts(arch: Architecture, parallel: ParallelConfig) -> None:
    experts, own_tensor = arch.experts, expert_tensor_parallel_size(parallel)
    ranks = parallel.expert_model_parallel_size
    if experts is None:
        for name in ("expert_model_parallel_size", "expert_tensor_parallel_size"):
            if getattr(parallel, name) > 1:
                raise BadInput(f"{flag(name)} {getattr(parallel, name)}: the model is dense, it has no experts")
        return
    if experts.number % ranks:
        raise BadInput(
            f"expert_model_parallel_size {ranks} does not divide the model's {experts.number} experts; "
            f"the next smaller size that fits is {_next_smaller(ranks, experts.number)}"
        )
    if experts.ffn_hidden_size % own_tensor:
        raise BadInput(
            f"expert_tensor_parallel_size {own_tensor} does not divide the {experts.ffn_hidden_size} channels of an "
            f"expert; the next smaller size that fits is {_next_smaller(own_tensor, experts.ffn_hidden_size)}"
        )
    if ranks == 1 and own_tensor != parallel.tensor_model_parallel_size:
        raise BadInput(
            f"--expert-tensor-parallel-size {own_tensor} beside --tensor-model-parallel-size "
            f"{parallel.tensor_model_parallel_size} needs --expert-model-parallel-size of at least 2: without it "
            "Megatron-Core averages the experts' gradients over the ranks of the other layers, which hold other parts"
        )
    if parallel.tensor_model_parallel_size > 1 and not parallel.sequence_parallel:
        raise BadInput(
            f"tensor_model_parallel_size {parallel.tensor_model_parallel_size} with experts needs --sequence-parallel: "
            "without it every tensor parallel rank would send the same tokens to the experts"
        )


def _refuse_stages_without_experts(arch: Architecture, parallel: ParallelConfig) -> None:
    """Refuse stages without experts: sharded experts have their own optimizer, whose checkpoint fails if empty."""
    if arch.experts is None or parallel.expert_model_parallel_size == 1:
        return
    sparse = sparse_layers_of_stages(arch, parallel)
    if not all(sparse):
        raise BadInput(
            f"pipeline stage {sparse.index(0)} (from 0) would have no layer with experts, as every stage needs under "
            f"--expert-model-parallel-size {parallel.expert_model_parallel_size}: choose other pipeline stages"
        )


def _refuse_recompute(layers: list[int], parallel: ParallelConfig) -> None:
    if parallel.recompute_granularity != "full":
        return
    count = parallel.recompute_num_layers
    for of_stage in layers:
        of_chunk = of_stage // parallel.virtual_pipeline_model_parallel_size
        if parallel.recompute_method == "uniform" and of_chunk % count:
            raise BadInput(
                f"recompute_num_layers {count} does not divide the {of_chunk} layers of a model chunk; "
                f"the next smaller number that fits is {_next_smaller(count, of_chunk)}"
            )
        if count > of_chunk:
            raise BadInput(f"recompute_num_layers {count} is more than the {of_chunk} layers of a model chunk")


def _next_smaller(size: int, *counts: int) -> int:
    """Return the greatest number below ``size`` that divides all ``counts``."""
    return next(smaller for smaller in range(size - 1, 0, -1) if not any(count % smaller for count in counts))
