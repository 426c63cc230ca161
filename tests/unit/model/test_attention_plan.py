"""Short responses in one kernel call have the same attention and gradients as separate calls."""

from __future__ import annotations

import pytest
import torch

from benchmarks.gpu.attention_check import visible
from megatron_pz.model.attention import Schedule, attend, kernels_of
from megatron_pz.model.attention_plan import calls_of, plan_of_runs
from megatron_pz.model.context_parallel import own_ranges

CPU = torch.device("cpu")
GROUPS = [(17, [5, 1, 9]), (1, [3, 4]), (30, [2, 2, 12, 40, 2, 2, 7]), (8, []), (6, [11])]
"""(tokens of a prompt, of its responses)."""
LENGTH = 192


def runs() -> list[tuple[int, bool]]:
    """Return runs (tokens, whether a prompt), with filler up to the row's length as a separate prompt."""
    found = []
    for prompt, responses in GROUPS:
        found += [(prompt, True), *((length, False) for length in responses)]
    return [*found, (LENGTH - sum(length for length, _ in found), True)]


def segments() -> torch.Tensor:
    """Return int [2, S], the group and response of every token, as in a MicroBatch."""
    rows, group, response = [], -1, 0
    for length, is_prompt in runs():
        group, response = (group + 1, 0) if is_prompt else (group, response + 1)
        rows += [(group, response)] * length
    return torch.tensor(rows).t()


@pytest.mark.parametrize("short", [0, 1, 5, 1000])
@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_every_way_to_share_calls_is_the_attention_of_the_textbook(short: int, ranks: int) -> None:
    generator = torch.Generator().manual_seed(0)
    heads, groups, width = 4, 2, 8
    q, k, v = (
        torch.randn(1, number, LENGTH, width, generator=generator).requires_grad_()
        for number in (heads, groups, groups)
    )
    upstream = torch.randn(1, heads, LENGTH, width, generator=generator)
    scores = q @ k.repeat_interleave(2, 1).transpose(2, 3) * width**-0.5
    expected = scores.masked_fill(~visible(segments()), float("-inf")).softmax(-1) @ v.repeat_interleave(2, 1)
    expected_gradients = torch.autograd.grad(expected, (q, k, v), upstream)

    found, calls = torch.zeros_like(expected), 0
    gradients = [torch.zeros_like(tensor) for tensor in (q, k, v)]
    for rank in range(ranks):
        own = own_ranges(LENGTH, rank, ranks)
        tokens = torch.cat([torch.arange(part.start, part.stop) for part in own])
        schedule = Schedule.of(plan_of_runs(runs(), own), CPU, short)
        calls += len(schedule.calls)
        output = attend(q[:, :, tokens], k, v, schedule, None)
        found[:, :, tokens] = output.detach()
        parts = torch.autograd.grad(output, (q, k, v), upstream[:, :, tokens])
        gradients = [total + part for total, part in zip(gradients, parts, strict=True)]
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(gradients, list(expected_gradients))
    if ranks == 1:
        prompts, alone = 6, 13
        # by 5 tokens: (5 1) 9 | (3 4) | (2 2) 12 40 (2 2) 7 | 11
        assert calls == prompts + {0: alone, 1: alone, 5: 2 + 1 + 5 + 1, 1000: 4}[short]


def test_a_response_that_ranks_share_has_a_call_of_its_own() -> None:
    plan = plan_of_runs([(4, True), (3, False), (3, False), (2, False)], [range(9), range(10, 12)])
    assert [[piece.length for piece in call.pieces] for call in calls_of(plan, 8)] == [[4], [3], [2], [2]]
    whole = plan_of_runs([(4, True), (3, False), (3, False), (2, False)], [range(12)])
    assert [[piece.length for piece in call.pieces] for call in calls_of(whole, 8)] == [[4], [3, 3, 2]]


def allowed_kernels() -> set[str]:
    """Return the kernels that torch may use on a GPU; the flags also exist without one."""
    names = ("flash", "mem_efficient", "math", "cudnn")
    return {name for name in names if getattr(torch.backends.cuda, f"{name}_sdp_enabled")()}


def test_a_gpu_takes_kernels_that_need_no_preparation_for_every_length() -> None:
    before = allowed_kernels()
    with kernels_of("cuda"):
        assert allowed_kernels() == {"flash", "math"}
    assert allowed_kernels() == before
    with kernels_of("cpu"):
        assert allowed_kernels() == before
