"""Compute the independent reference of the rollout tests with transformers on the same weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from megatron_pz.config.schema import RolloutConfig
from megatron_pz.rl.experience import Response
from megatron_pz.rollout.engine import VllmEngine

SETTINGS = RolloutConfig(
    max_prompt_length=96, max_response_length=32, rollout_dtype="float32", rollout_memory_gib=0.125
)
"""float32, so that rollout and reference agree to rounding."""


def reference_model(model_dir: Path) -> torch.nn.Module:
    """Return the checkpoint as transformers reads it, in float32."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32).eval()


@torch.no_grad()
def largest_difference(
    model: torch.nn.Module, prompts: Sequence[Sequence[int]], groups: Sequence[Sequence[Response]]
) -> float:
    """Return the maximum of |log p(rollout) - log p(transformers)| over all response tokens, nats."""
    largest = 0.0
    for prompt, group in zip(prompts, groups, strict=True):
        for response in group:
            ids = torch.tensor([[*prompt, *response.token_ids]])
            log_probs = model(ids).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
            expected = log_probs.gather(1, ids[0, len(prompt) :, None])[:, 0]
            largest = max(largest, float((expected - torch.tensor(response.log_probs)).abs().max()))
    return largest


@torch.no_grad()
def perturb(model: torch.nn.Module, seed: int) -> None:
    """Change every weight, including embeddings, norms and head."""
    generator = torch.Generator().manual_seed(seed)
    for weight in model.parameters():
        weight.mul_(1 + 0.2 * torch.randn(weight.shape, generator=generator))


def weight_stream(model: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield all weights under their Hugging Face names; ``named_parameters`` omits a tied head."""
    for name, weight in model.named_parameters():
        yield name, weight.detach().clone()


def random_prompts(count: int, *, vocabulary: int, shortest: int, longest: int, seed: int = 0) -> list[list[int]]:
    """Return prompts of mixed lengths with random token ids from 3 on (the first ones are special tokens)."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(shortest, longest + 1, (count,), generator=generator).tolist()
    return [torch.randint(3, vocabulary, (length,), generator=generator).tolist() for length in lengths]


def die_in_step(engine: VllmEngine, step: int) -> None:
    """Make vLLM's engine core fail from its ``step``-th decoding step on, counted from now."""
    from vllm.v1.engine.exceptions import EngineDeadError

    core = engine.llm.llm_engine.engine_core
    plain, steps = core.get_output, iter(range(1, 1_000_000))

    def get_output() -> object:
        if next(steps) >= step:
            raise EngineDeadError
        return plain()

    core.get_output = get_output
