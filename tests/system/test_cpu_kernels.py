"""On CPU the engine calls vLLM's RMSNorm kernels, which are the function that torch computes, and samples by inverse
transform."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from megatron_pz.config.schema import RolloutConfig
from megatron_pz.rollout.cpu import cpu_kernels, cpu_sampling
from megatron_pz.rollout.engine import VllmEngine
from tests.support.fastest import fastest_dtype

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="the kernels of vLLM's CPU build")


@pytest.fixture(scope="module")
def engine(tiny_qwen3_dir: Path, one_rank_process_group: None) -> Iterator[VllmEngine]:
    settings = RolloutConfig(
        max_prompt_length=16, max_response_length=4, rollout_memory_gib=0.02, rollout_dtype=fastest_dtype()
    )
    with VllmEngine(tiny_qwen3_dir, settings, seed=0, colocated=True) as engine:
        yield engine


@pytest.mark.parametrize(("dtype", "rounding"), [(torch.float32, 2.0**-21), (torch.bfloat16, 2.0**-7)])
def test_they_equal_torchs_norm_also_on_heads_cut_out_of_a_row(
    engine: VllmEngine, dtype: torch.dtype, rounding: float
) -> None:
    draw = torch.Generator().manual_seed(0)
    if dtype == torch.bfloat16 and torch.backends.cpu.get_cpu_capability() != "AVX512":
        x, weight = torch.ones(2, 64, dtype=dtype), torch.ones(64, dtype=dtype)
        assert not cpu_kernels._norm_fits(x, weight, 1e-5), "with AVX2 the kernels truncate"
        assert not cpu_kernels._add_norm_fits(x, x.clone(), weight, 1e-5)
        return
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


def test_its_tokens_are_those_of_the_inverse_transform(engine: VllmEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reported log-probability is that of the drawn token under the sampled distribution."""
    drawn = []
    plain = cpu_sampling.inverse_transform

    def record(probs_BV: torch.Tensor, uniform_B: torch.Tensor) -> torch.Tensor:
        tokens_B = plain(probs_BV, uniform_B)
        drawn.append((tokens_B, probs_BV.gather(1, tokens_B[:, None])[:, 0].log()))
        return tokens_B

    monkeypatch.setattr(cpu_sampling, "inverse_transform", record)
    ((first, second),) = engine.generate([[1, 2, 3]], 2, seeds=[5], max_tokens=3, stop=())
    assert len(drawn) == 3
    assert [list(first.token_ids), list(second.token_ids)] == torch.stack([tokens for tokens, _ in drawn], 1).tolist()
    reported = torch.tensor([list(first.log_probs), list(second.log_probs)])
    torch.testing.assert_close(reported, torch.stack([logs for _, logs in drawn], 1), rtol=0, atol=1e-6)


def test_vllm_uses_the_instructions_that_torch_uses(engine: VllmEngine) -> None:
    """The library loaded in this process is the one for torch's instruction set."""
    libraries = {
        Path(line.split()[-1]).name for line in Path("/proc/self/maps").read_text().splitlines() if "/" in line
    }
    loaded = {name for name in libraries if name.startswith("_C") and name.endswith(".abi3.so")}
    with_avx512 = torch.backends.cpu.get_cpu_capability() == "AVX512"
    with_bf16 = with_avx512 and torch.cpu._is_avx512_bf16_supported()
    expected = "_C.abi3.so" if with_bf16 else "_C_AVX512.abi3.so" if with_avx512 else "_C_AVX2.abi3.so"
    assert loaded == {expected}


MANY_SHAPES = """
import resource
import torch
from megatron_pz.runtime import cpu_backend

cpu_backend.install()
torch.set_num_threads(1)
weight = torch.ones(768, 256, dtype=torch.bfloat16, requires_grad=True)
for tokens in range(16, 366):
    x = torch.ones(tokens, 256, dtype=torch.bfloat16, requires_grad=True)
    torch.nn.functional.linear(x, weight).sum().backward()
    if tokens == 115:  # the caches have reached their limit
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_products_of_many_shapes_take_bounded_memory() -> None:
    run = subprocess.run([sys.executable, "-c", MANY_SHAPES], capture_output=True, text=True, check=True)
    grown_kib = int(run.stdout)
    assert grown_kib < 64 * 1024, "250 shapes more; with the libraries' own limits they took 550 MiB"
