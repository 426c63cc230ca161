"""Compare the form that a GPU runs, compiled by torch.compile into C++ of the same graph, with the eager one."""

from __future__ import annotations

import sys

import torch

from megatron_pz.model import logit_chunk


def main(dtype: torch.dtype) -> None:
    """Try several numbers of rows, which one graph serves."""
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


if __name__ == "__main__":
    main(getattr(torch, sys.argv[1]))
