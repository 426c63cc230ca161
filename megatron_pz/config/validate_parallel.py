"""Which parallel layouts cannot work, by the configuration alone: no model, no torch, no processes.

What depends on the model's sizes is in :mod:`megatron_pz.model.layout`, what depends on the number of processes in
:mod:`megatron_pz.trainer.topology`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from megatron_pz.config.schema import ParallelConfig
from megatron_pz.config.validate_ranges import flag, range_rules


def expert_tensor_parallel_size(parallel: ParallelConfig) -> int:
    """The size that the field stands for: 0 is that of the other layers, as in Megatron-LM."""
    return parallel.expert_tensor_parallel_size or parallel.tensor_model_parallel_size


@dataclass(frozen=True)
class PackedShape:
    """What a layout asks of the packed rows that a data-parallel rank runs in one optimizer step."""

    length_multiple: int = 1
    """Tokens of a row are a multiple of this."""
    equal_lengths: bool = False
    """All rows of a rank have the same length."""
    count_multiple: int = 1
    """The rows of a rank are a multiple of this."""
    equal_counts: bool = False
    """All data-parallel ranks have equally many rows."""


def packed_length_multiple(parallel: ParallelConfig) -> int:
    """What the length of a packed row, in tokens, must be a multiple of.

    Context parallelism cuts a row into two pieces a rank (so that causal work is even), sequence parallelism a rank's
    tokens into equal parts, and each rank's matrices have ``packed_length_multiple`` rows or a multiple.
    """
    ranks = parallel.context_parallel_size
    of_a_rank = math.lcm(
        parallel.packed_length_multiple,
        parallel.tensor_model_parallel_size if parallel.sequence_parallel else 1,
        2 if ranks > 1 else 1,
    )
    return ranks * of_a_rank


def packed_shape(parallel: ParallelConfig) -> PackedShape:
    """The shape for a layout.

    The interleaved schedule runs as many rows at a time as there are stages, and between two stages it cannot tell two
    lengths apart that are under way in both directions. Experts of other data-parallel ranks are met in every row.
    """
    interleaved = parallel.virtual_pipeline_model_parallel_size > 1
    return PackedShape(
        length_multiple=packed_length_multiple(parallel),
        equal_lengths=interleaved,
        count_multiple=parallel.pipeline_model_parallel_size if interleaved else 1,
        equal_counts=parallel.expert_model_parallel_size > 1,
    )


def layout_rules(parallel: ParallelConfig) -> list[tuple[bool, str]]:
    """(whether it holds, the complaint where it does not)."""
    stages, chunks = parallel.pipeline_model_parallel_size, parallel.virtual_pipeline_model_parallel_size
    uneven = {
        name: getattr(parallel, name)
        for name in ("decoder_first_pipeline_num_layers", "decoder_last_pipeline_num_layers")
        if getattr(parallel, name)
    }
    return [
        *range_rules(parallel),
        (
            not parallel.sequence_parallel or parallel.tensor_model_parallel_size > 1,
            "--sequence-parallel needs --tensor-model-parallel-size of at least 2; turn it off or raise that size",
        ),
        (
            chunks == 1 or stages > 1,
            f"--virtual-pipeline-model-parallel-size {chunks} needs --pipeline-model-parallel-size of at least 2",
        ),
        (
            not uneven or stages > 1,
            f"{' and '.join(map(flag, uneven))} need --pipeline-model-parallel-size of at least 2",
        ),
        (
            not parallel.overlap_param_gather or (parallel.use_distributed_optimizer and parallel.overlap_grad_reduce),
            "--overlap-param-gather needs --use-distributed-optimizer and --overlap-grad-reduce",
        ),
    ]
