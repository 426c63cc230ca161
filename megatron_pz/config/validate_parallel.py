"""Refuse parallel layouts that cannot work with any model, without torch, a model or processes.

:mod:`megatron_pz.model.layout` has the rules that depend on the model's sizes, and
:mod:`megatron_pz.trainer.topology` those that depend on the number of processes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from megatron_pz.config.schema import ParallelConfig
from megatron_pz.config.validate_ranges import flag, range_rules


def expert_tensor_parallel_size(parallel: ParallelConfig) -> int:
    """Return the effective size: 0 stands for the size of the other layers, as in Megatron-LM."""
    return parallel.expert_tensor_parallel_size or parallel.tensor_model_parallel_size


@dataclass(frozen=True)
class PackedShape:
    """Requirements of a layout on the packed sequences of a data-parallel rank in one optimizer step."""

    length_multiple: int = 1
    """Tokens of a sequence are a multiple of this."""
    equal_lengths: bool = False
    """All sequences of a rank have the same length."""
    count_multiple: int = 1
    """The number of sequences of a rank is a multiple of this."""
    equal_counts: bool = False
    """All data-parallel ranks have the same number of sequences."""


def packed_length_multiple(parallel: ParallelConfig) -> int:
    """Return the number of which the length of a packed sequence, in tokens, must be a multiple.

    Context parallelism cuts a sequence into two pieces per rank, so that causal attention is balanced. Sequence
    parallelism divides a rank's tokens into equal parts. The number of tokens in each rank's matrices is a multiple of
    ``packed_length_multiple``.
    """
    ranks = parallel.context_parallel_size
    of_a_rank = math.lcm(
        parallel.packed_length_multiple,
        parallel.tensor_model_parallel_size if parallel.sequence_parallel else 1,
        2 if ranks > 1 else 1,
    )
    return ranks * of_a_rank


def packed_shape(parallel: ParallelConfig) -> PackedShape:
    """Return the requirements of a layout.

    The interleaved schedule runs as many sequences at a time as there are stages, and needs equal lengths because
    sequences travel between two stages in both directions. With expert parallelism every sequence needs the experts of
    other data-parallel ranks, so their numbers of sequences must be equal.
    """
    interleaved = parallel.virtual_pipeline_model_parallel_size > 1
    return PackedShape(
        length_multiple=packed_length_multiple(parallel),
        equal_lengths=interleaved,
        count_multiple=parallel.pipeline_model_parallel_size if interleaved else 1,
        equal_counts=parallel.expert_model_parallel_size > 1,
    )


def layout_rules(parallel: ParallelConfig) -> list[tuple[bool, str]]:
    """Return (whether it holds, the error message if not) for every rule."""
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
