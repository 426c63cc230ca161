"""Check that ranks with different measurements settle on the precision of rank 0."""

from __future__ import annotations

import torch.distributed as dist

from megatron_pz.config.schema import ModelConfig, RunConfig
from megatron_pz.run import precision
from megatron_pz.runtime.matrix_speed import MatrixSpeed


def settle_on_ranks(first_is_fast_in_bf16: bool) -> None:
    """Settle ``auto`` with rank 0 faster in one precision and the others in the other."""
    dist.init_process_group("gloo")
    slow, fast = MatrixSpeed(bf16=5.0, fp32=80.0), MatrixSpeed(bf16=800.0, fp32=160.0)
    own = fast if (dist.get_rank() == 0) == first_is_fast_in_bf16 else slow
    precision.matrix_speed = lambda: own  # type: ignore[assignment]
    settled = precision.settle_precision(RunConfig(model=ModelConfig(precision="auto")))
    assert settled.model.bf16 is first_is_fast_in_bf16
    assert settled.rollout.rollout_dtype == ("bfloat16" if first_is_fast_in_bf16 else "float32")
    dist.destroy_process_group()
