"""The sums and the gradient of a chunk of logits, compared with float64 autograd."""

from __future__ import annotations

import pytest
import torch

from megatron_pz.model import logit_chunk

TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 5e-3}
"""bfloat16 has 8 bits: the gradient is rounded to it."""


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("fused", [False, True])
def test_a_chunk_against_float64(dtype: torch.dtype, fused: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    logits_CV = (torch.randn(13, 101, generator=generator) * 5).to(dtype)
    local_C = torch.randint(101, (13,), generator=generator)
    grad_C = torch.randn(13, generator=generator)
    is_local_C = torch.arange(13) != 5  # the label of row 5 is another rank's

    exact_CV = logits_CV.double().requires_grad_()
    distribution_CV = exact_CV.log_softmax(-1)
    label_C = distribution_CV.gather(1, local_C[:, None])[:, 0]
    normalizer_C = exact_CV.logsumexp(-1)
    objective = (grad_C * torch.where(is_local_C, label_C, -normalizer_C)).sum()
    (expected_CV,) = torch.autograd.grad(objective, exact_CV)

    maximum_C, sum_C, moment_C, label_logit_C = logit_chunk.row_sums(logits_CV.clone(), local_C)
    entropy_C = -(distribution_CV.exp() * distribution_CV).sum(-1)
    torch.testing.assert_close((maximum_C + sum_C.log()).double(), normalizer_C, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close((sum_C.log() - moment_C / sum_C).double(), entropy_C, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(label_logit_C.double(), exact_CV.gather(1, local_C[:, None])[:, 0], rtol=0, atol=0)

    on_label_C = torch.where(is_local_C, grad_C, 0.0)
    found_CV = logit_chunk.gradient(logits_CV.clone(), normalizer_C.float(), local_C, grad_C, on_label_C, fused)
    assert found_CV.dtype == dtype
    torch.testing.assert_close(found_CV.double(), expected_CV, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
