"""The form that a GPU runs, compiled by torch.compile: on a CPU it makes C++ of the same graph."""

from __future__ import annotations

import shutil

import pytest
import torch

from megatron_pz.model import logit_chunk

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler, there is none")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_compiled_steps_equal_the_eager_ones_for_any_number_of_rows(dtype: torch.dtype) -> None:
    torch.compiler.reset()  # another dtype is another graph; another number of rows is to be none
    row_sums, gradient = (logit_chunk.on_device(step, "cuda") for step in (logit_chunk.row_sums, logit_chunk.gradient))
    generator = torch.Generator().manual_seed(0)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for rows in (40, 13, 27):
            logits_CV = (torch.randn(rows, 501, generator=generator) * 5).to(dtype)
            local_C = torch.randint(501, (rows,), generator=generator)
            grad_C = torch.randn(rows, generator=generator)
            found = row_sums(logits_CV.clone(), local_C)
            expected = logit_chunk.row_sums(logits_CV.clone(), local_C)
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)

            normalizer_C, on_label_C = expected[0] + expected[1].log(), grad_C.roll(1)
            arguments = (normalizer_C, local_C, grad_C, on_label_C)
            found_CV = gradient(logits_CV.clone(), *arguments, fused=True)
            expected_CV = logit_chunk.gradient(logits_CV.clone(), *arguments, fused=False)
            torch.testing.assert_close(found_CV, expected_CV, rtol=2**-8, atol=1e-6)
