"""Judge every parallel layout of a model on a cluster: which ones fit, in which order to try them, and why others fail.

Only memory and divisibility are judged. The order is a rule of thumb, not a measurement. Layouts with fewer GPUs per
copy of the model come first, because more copies mean more data parallelism, which communicates once a step. At equal
numbers, tensor parallelism within a node comes before context parallelism, and that before pipeline stages, which wait
for each other.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from megatron_pz.config.schema import ParallelConfig, RunConfig
from megatron_pz.config.validate_ranges import flag
from megatron_pz.hf.architecture import Architecture
from megatron_pz.planning.memory import GIB, MemoryPlan, plan_memory
from megatron_pz.runtime.errors import BadInput, one_line

RESERVE_GIB = 8.0
"""Minimum memory to leave free on a GPU for the parts that :mod:`megatron_pz.planning.memory` does not count: CUDA's
context, NCCL's buffers, vLLM's own activations and fragmented memory."""


@dataclass(frozen=True)
class Layout:
    """A parallel layout and its evaluation."""

    parallel: ParallelConfig
    plan: MemoryPlan | None
    """None if the layout is impossible regardless of memory."""
    refusal: str
    """One line; empty if the layout fits."""

    @property
    def gpus_of_a_copy(self) -> int:
        """Return the number of GPUs that hold one copy of the model, apart from expert parallelism."""
        sizes = self.parallel
        return sizes.tensor_model_parallel_size * sizes.pipeline_model_parallel_size * sizes.context_parallel_size

    @property
    def name(self) -> str:
        """Return a description of the sizes above 1."""
        above = [
            f"{word} {getattr(self.parallel, size)}"
            for size, word in _SIZES.items()
            if getattr(self.parallel, size) > 1
        ]
        return ", ".join(above) or "data parallel alone"

    @property
    def flags(self) -> str:
        """Return the flags of ``megatron_pz.train`` that select this layout and override any recipe."""
        sizes = [*_SIZES, "virtual_pipeline_model_parallel_size", "expert_tensor_parallel_size"]
        chosen = [f"{flag(size)} {getattr(self.parallel, size)}" for size in sizes]
        return " ".join(
            [*chosen, "--sequence-parallel" if self.parallel.sequence_parallel else "--no-sequence-parallel"]
        )


_SIZES = {
    "tensor_model_parallel_size": "tensor",
    "pipeline_model_parallel_size": "pipeline",
    "context_parallel_size": "context",
    "expert_model_parallel_size": "experts",
}


def judge_layouts(
    arch: Architecture, config: RunConfig, gpus: int, card_gib: float, gpus_per_node: int = 8
) -> list[Layout]:
    """Return every layout whose sizes are powers of two: first those that fit, by preference, then the others.

    All settings except the sizes come from the configuration; sequence parallelism is on with tensor parallelism.

    Args:
        gpus: number of GPUs of all nodes together.
        card_gib: memory of one GPU, in GiB.
        gpus_per_node: tensor parallel ranks must share a node.
    """
    layouts = [_judged(arch, config, sizes, gpus, card_gib, gpus_per_node) for sizes in _candidates(arch, config, gpus)]
    return sorted(layouts, key=_preference)


def _candidates(arch: Architecture, config: RunConfig, gpus: int) -> Iterator[ParallelConfig]:
    powers = [2**exponent for exponent in range(gpus.bit_length())]
    experts = [size for size in powers if arch.experts is not None and size <= arch.experts.number] or [1]
    for tensor in powers:
        for stages in (size for size in powers if size <= arch.num_layers):
            for context in powers:
                if tensor * stages * context > gpus:
                    continue
                for expert in experts:
                    yield replace(
                        config.parallel,
                        tensor_model_parallel_size=tensor,
                        sequence_parallel=tensor > 1,
                        pipeline_model_parallel_size=stages,
                        virtual_pipeline_model_parallel_size=1,
                        context_parallel_size=context,
                        expert_model_parallel_size=expert,
                        expert_tensor_parallel_size=1 if expert > 1 else 0,
                    )


def _judged(
    arch: Architecture, config: RunConfig, parallel: ParallelConfig, gpus: int, card_gib: float, gpus_per_node: int
) -> Layout:
    tensor = parallel.tensor_model_parallel_size
    if tensor > gpus_per_node:
        return Layout(
            parallel, None, f"{tensor} tensor parallel ranks are more than the {gpus_per_node} GPUs of a node"
        )
    try:
        plan = plan_memory(arch, replace(config, parallel=parallel), gpus, card_gib)
    except BadInput as error:
        return Layout(parallel, None, one_line(error))
    spare = plan.spare / GIB
    if spare < 0:
        phase = "the trainer works" if plan.updating() > plan.sampling() else "the engines sample"
        return Layout(parallel, plan, f"lacks {-spare:.1f} GiB on a GPU while {phase}")
    if spare < RESERVE_GIB:
        return Layout(parallel, plan, f"leaves {spare:.1f} GiB free on a GPU; keep {RESERVE_GIB:g}")
    return Layout(parallel, plan, "")


def _preference(layout: Layout) -> tuple[bool, int, int, int, int]:
    """Return the sort key of a layout (see the module's docstring). Fewer expert ranks also communicate less."""
    sizes = layout.parallel
    return (
        bool(layout.refusal),
        layout.gpus_of_a_copy,
        sizes.pipeline_model_parallel_size,
        sizes.context_parallel_size,
        sizes.expert_model_parallel_size,
    )
