"""vLLM's RMSNorm kernels on CPU: they are the function that torch computes, and the engine calls them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from megatron_pz.config import RolloutConfig
from megatron_pz.rollout import cpu_kernels
from megatron_pz.rollout.engine import VllmEngine

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="the kernels of vLLM's CPU build")


@pytest.fixture(scope="module")
def engine(tiny_qwen3_dir: Path, one_rank_process_group: None) -> Iterator[VllmEngine]:
    settings = RolloutConfig(max_prompt_length=16, max_response_length=4, rollout_memory_gib=0.02)
    with VllmEngine(tiny_qwen3_dir, settings, seed=0, colocated=True) as engine:
        yield engine


@pytest.mark.parametrize(("dtype", "rounding"), [(torch.float32, 2.0**-21), (torch.bfloat16, 2.0**-7)])
def test_they_equal_torchs_norm_also_on_heads_cut_out_of_a_row(
    engine: VllmEngine, dtype: torch.dtype, rounding: float
) -> None:
    draw = torch.Generator().manual_seed(0)
    rows, residual = (torch.randn(7, 3 * 64, generator=draw).to(dtype) for _ in range(2))
    heads = rows.view(7, 3, 64)[:, :2]
    assert not heads.is_contiguous()
    for x in (rows, heads):
        weight = torch.randn(x.size(-1), generator=draw).to(dtype)
        expected = torch.nn.functional.rms_norm(x.double(), x.shape[-1:], weight.double(), 1e-5)
        torch.testing.assert_close(cpu_kernels._rms_norm(x, weight, 1e-5).double(), expected, rtol=rounding, atol=1e-6)
    weight = torch.randn(rows.size(-1), generator=draw).to(dtype)
    total = (rows.float() + residual.float()).to(dtype)
    normed, added = cpu_kernels._add_rms_norm(rows.clone(), residual.clone(), weight, 1e-5)
    assert torch.equal(added, total)
    expected = torch.nn.functional.rms_norm(total.double(), total.shape[-1:], weight.double(), 1e-5)
    torch.testing.assert_close(normed.double(), expected, rtol=4 * rounding, atol=1e-6)


def test_the_engine_calls_them(engine: VllmEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm import ir

    called = set()
    for operator in (ir.ops.rms_norm, ir.ops.fused_add_rms_norm):
        kernel = operator.impls[cpu_kernels.PROVIDER]

        def count(*given: object, name: str = operator.name, plain: object = kernel.impl_fn, **named: object) -> object:
            called.add(name)
            return plain(*given, **named)

        monkeypatch.setattr(kernel, "impl_fn", count)
        monkeypatch.setattr(kernel, "func_impl_fn", count, raising=False)
    engine.generate([[1, 2, 3]], 1, seeds=[0], max_tokens=2, stop=())
    assert called == {"rms_norm", "fused_add_rms_norm"}
