"""Chunked log-probabilities against torch's log_softmax over all logits."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from megatron_pz.model import log_probs
from megatron_pz.model.log_probs import vocab_parallel_log_probs

R, H, VOCAB_SIZE, PADDED = 23, 12, 101, 128


def problem(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(4)
    hidden_RH = torch.randn(R, H, generator=generator).to(dtype).requires_grad_()
    weight_VH = torch.randn(PADDED, H, generator=generator).to(dtype)
    weight_VH[VOCAB_SIZE:] = 50.0  # would dominate the sum if it were included
    labels_R = torch.randint(0, VOCAB_SIZE, (R,), generator=generator)
    labels_R[:2] = torch.tensor([0, VOCAB_SIZE - 1])
    return hidden_RH, weight_VH.requires_grad_(), labels_R, torch.randn(R, generator=generator)


def full(hidden_RH: torch.Tensor, weight_VH: torch.Tensor, labels_R: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    distribution = (hidden_RH @ weight_VH[:VOCAB_SIZE].t()).float().log_softmax(-1)
    return distribution.gather(1, labels_R[:, None])[:, 0], -(distribution.exp() * distribution).sum(-1)


@pytest.mark.parametrize("logits_per_chunk", [1, 5 * VOCAB_SIZE, 10**9])
def test_chunks_equal_the_full_log_softmax(logits_per_chunk: int) -> None:
    hidden_RH, weight_VH, labels_R, upstream_R = problem()
    expected_R, expected_entropy_R = full(hidden_RH, weight_VH, labels_R)
    expected = torch.autograd.grad(expected_R, (hidden_RH, weight_VH), upstream_R)
    log_probs_R, entropy_R = vocab_parallel_log_probs(
        hidden_RH, weight_VH, labels_R, 0, VOCAB_SIZE, None, logits_per_chunk
    )
    torch.testing.assert_close(log_probs_R, expected_R, rtol=0, atol=1e-5)
    torch.testing.assert_close(entropy_R, expected_entropy_R, rtol=0, atol=1e-5)
    assert log_probs_R.requires_grad and not entropy_R.requires_grad
    gradients = torch.autograd.grad(log_probs_R, (hidden_RH, weight_VH), upstream_R)
    for gradient, truth in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, truth, rtol=1e-5, atol=1e-5)
    assert not gradients[1][VOCAB_SIZE:].any()


def test_bfloat16_matches_and_keeps_its_dtypes() -> None:
    hidden_RH, weight_VH, labels_R, upstream_R = problem(torch.bfloat16)
    expected_R, _ = full(hidden_RH, weight_VH, labels_R)
    expected = torch.autograd.grad(expected_R, (hidden_RH, weight_VH), upstream_R)
    log_probs_R, _ = vocab_parallel_log_probs(hidden_RH, weight_VH, labels_R, 0, VOCAB_SIZE, None, 3 * VOCAB_SIZE)
    torch.testing.assert_close(log_probs_R, expected_R, rtol=0, atol=1e-5)
    gradients = torch.autograd.grad(log_probs_R, (hidden_RH, weight_VH), upstream_R)
    for gradient, truth in zip(gradients, expected, strict=True):
        assert gradient.dtype == torch.bfloat16
        assert (gradient - truth).float().norm() < 0.01 * truth.float().norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("vocab_start", [0, 300])
def test_a_gpus_chunks_of_the_vocabulary_give_the_gradients_of_the_full_log_softmax(
    dtype: torch.dtype, vocab_start: int
) -> None:
    """The rank has 700 rows, 690 of them real, in chunks of 128; labels may belong to another rank."""
    generator = torch.Generator().manual_seed(5)
    real, vocab = 690, vocab_start + 690
    hidden_RH = torch.randn(R, H, generator=generator).to(dtype).requires_grad_()
    whole_VH = torch.randn(vocab, H, generator=generator).to(dtype).requires_grad_()
    labels_R, upstream_R = torch.randint(vocab, (R,), generator=generator), torch.randn(R, generator=generator)
    labels_R[:3] = torch.tensor([vocab_start, vocab_start + 128, vocab - 1])
    logits_RV = (hidden_RH @ whole_VH.t()).float()
    log_normalizer_R = logits_RV.logsumexp(-1)
    truth = logits_RV.gather(1, labels_R[:, None])[:, 0] - log_normalizer_R
    of_hidden_RH, of_whole_VH = torch.autograd.grad(truth, (hidden_RH, whole_VH), upstream_R, retain_graph=True)
    if vocab_start:  # this rank's part, without the contribution of other ranks' rows
        rest = torch.autograd.grad(logits_RV[:, :vocab_start], hidden_RH, torch.autograd.grad(
            truth, logits_RV, upstream_R)[0][:, :vocab_start])[0]  # fmt: skip
        of_hidden_RH = of_hidden_RH - rest

    local_R = labels_R - vocab_start
    is_local_R = local_R >= 0
    of_tokens = (log_normalizer_R, torch.where(is_local_R, local_R, 0), upstream_R, upstream_R * is_local_R)
    own_VH = torch.cat((whole_VH[vocab_start:], torch.full((10, H), 50.0, dtype=dtype)))
    with torch.no_grad():
        found = log_probs._gradients_by_vocabulary(hidden_RH, own_VH, real, of_tokens, 2 * R * 130)
    assert not found[1][real:].any()
    for gradient, expected in zip((found[0], found[1][:real]), (of_hidden_RH, of_whole_VH[vocab_start:]), strict=True):
        assert gradient.dtype == dtype
        error = (gradient - expected).float().norm() / expected.float().norm()
        assert error < (1e-5 if dtype == torch.float32 else 0.02)
    nobody = tuple(tensor[:0] for tensor in of_tokens)
    assert not log_probs._gradients_by_vocabulary(hidden_RH[:0].detach(), own_VH, real, nobody, 1000)[1].any()


def test_extreme_logits_stay_finite() -> None:
    hidden_RH, weight_VH, labels_R, _ = problem()
    log_probs_R, entropy_R = vocab_parallel_log_probs(hidden_RH * 1e4, weight_VH, labels_R, 0, VOCAB_SIZE, None)
    log_probs_R.sum().backward()
    assert log_probs_R.isfinite().all() and entropy_R.isfinite().all() and hidden_RH.grad.isfinite().all()


class LargestTensor(TorchDispatchMode):
    """Records the largest number of elements of any tensor that an operation returned."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[override]
        result = func(*args, **(kwargs or {}))
        sizes = (leaf.numel() for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor))
        self.elements = max(self.elements, *sizes, 0)
        return result


def test_the_logits_never_exist_at_full_size() -> None:
    hidden_RH = torch.randn(400, 4, requires_grad=True)
    weight_VH = torch.randn(300, 4, requires_grad=True)
    labels_R = torch.zeros(400, dtype=torch.int64)
    with LargestTensor() as largest:
        log_probs_R, _ = vocab_parallel_log_probs(hidden_RH, weight_VH, labels_R, 0, 300, None, 3000)
        log_probs_R.sum().backward()
    assert 3000 <= largest.elements < 400 * 300 / 10
