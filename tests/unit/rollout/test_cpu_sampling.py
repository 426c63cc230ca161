"""Inverse transform sampling: the shares of evenly spaced numbers equal the probabilities, up to the last number."""

from __future__ import annotations

import pytest
import torch

from megatron_pz.rollout.cpu.cpu_sampling import WIDEST_BLOCK, block_width, inverse_transform

BELOW_ONE = 1 - 2.0**-53


@pytest.mark.parametrize("vocabulary", [2, 7, 96, 499, 521, 1024, 1536])  # 499 and 521 are primes, around a block
def test_evenly_spaced_numbers_give_every_token_its_share(vocabulary: int) -> None:
    draw = torch.Generator().manual_seed(vocabulary)
    probs = torch.softmax(2 * torch.randn(vocabulary, generator=draw), 0)
    numbers = 20_000
    uniform = (torch.arange(numbers, dtype=torch.float64) + 0.5) / numbers
    rows = 2000
    tokens = torch.cat([inverse_transform(probs.expand(rows, -1).contiguous(), part) for part in uniform.split(rows)])
    assert (tokens.diff() >= 0).all(), "a larger number never gives an earlier token"
    counts = torch.bincount(tokens, minlength=vocabulary)
    # An interval of length p holds floor(p n) or one more of evenly spaced numbers; float32 moves its ends by less.
    assert (counts - probs.double() * numbers).abs().max() < 1.1


@pytest.mark.parametrize("vocabulary", [5, 521, 1024])
def test_tokens_without_probability_are_never_drawn(vocabulary: int) -> None:
    extremes = torch.tensor([0.0, 1e-300, 0.5, BELOW_ONE], dtype=torch.float64)
    for only in {0, 1, vocabulary // 2, vocabulary - 2, vocabulary - 1}:
        probs = torch.zeros(len(extremes), vocabulary)
        probs[:, only] = 0.1  # a row need not sum to one
        assert inverse_transform(probs, extremes).tolist() == [only] * len(extremes)


def test_each_row_has_its_own_distribution_and_number() -> None:
    probs = torch.zeros(3, 1024)
    probs[0, [3, 700]] = torch.tensor([0.25, 0.75])
    probs[1, [3, 700]] = torch.tensor([0.75, 0.25])
    probs[2, 1023] = 1.0
    assert inverse_transform(probs, torch.full((3,), 0.5, dtype=torch.float64)).tolist() == [700, 3, 1023]
    assert inverse_transform(probs, torch.full((3,), 0.25, dtype=torch.float64)).tolist() == [700, 3, 1023]
    assert inverse_transform(probs, torch.full((3,), 0.2, dtype=torch.float64)).tolist() == [3, 3, 1023]


def test_a_row_of_nan_gives_a_token_of_the_vocabulary() -> None:
    token = inverse_transform(torch.full((1, 1024), torch.nan), torch.tensor([0.5], dtype=torch.float64))
    assert 0 <= int(token) < 1024


def test_blocks_divide_the_vocabulary() -> None:
    widths = {vocabulary: block_width(vocabulary) for vocabulary in (49_152, 151_936, 128_256, 300, 521)}
    assert widths == {49_152: 512, 151_936: 128, 128_256: 501, 300: 300, 521: 1}
    assert max(widths.values()) <= WIDEST_BLOCK
