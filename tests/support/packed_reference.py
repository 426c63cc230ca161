"""Compute the reference of packed rows: every response alone, unpadded, through transformers on the same weights."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from megatron_pz.rl.experience import MicroBatch, Response, ScoredGroup

Tokens = tuple[int, ...]


@dataclass(frozen=True)
class Reference:
    """transformers' answers."""

    log_probs: Mapping[Tokens, Tensor]
    """By the response's tokens, which occur in one group only: float32 [length]."""
    entropies: Mapping[Tokens, Tensor]
    gradients: Mapping[str, Tensor]
    """Of the sum over responses of advantage * mean log-probability, by Hugging Face name."""


def random_groups(vocab_size: int, shapes: Sequence[tuple[int, Sequence[int]]], seed: int) -> list[ScoredGroup]:
    """Return groups of (prompt length, response lengths), with random tokens and advantages.

    The last of three or more responses equals the first, with a different advantage.
    """
    draw = random.Random(seed)

    def tokens(length: int) -> Tokens:
        return tuple(draw.randrange(vocab_size) for _ in range(length))

    groups = []
    for prompt_length, response_lengths in shapes:
        sampled = [tokens(n) for n in response_lengths]
        if len(sampled) > 2:
            sampled[-1] = sampled[0]
        responses = tuple(Response(tokens, (0.0,) * len(tokens), "", False) for tokens in sampled)
        advantages = tuple(draw.gauss(0.0, 1.0) for _ in responses)
        groups.append(ScoredGroup("predictor", tokens(prompt_length), responses, (0.0,) * len(responses), advantages))
    return groups


def reference(hf_dir: Path, groups: Iterable[ScoredGroup]) -> Reference:
    """Run one forward and backward pass per response, in float32."""
    model = AutoModelForCausalLM.from_pretrained(hf_dir, dtype=torch.float32)
    log_probs, entropies = {}, {}
    objective = torch.zeros(())
    for group in groups:
        different = {response.token_ids for response in group.responses}
        assert different.isdisjoint(log_probs), "equal responses in two groups: choose another seed"
        for response, advantage in zip(group.responses, group.advantages, strict=True):
            tokens = torch.tensor([group.prompt_ids + response.token_ids])
            logits = model(tokens).logits[0, len(group.prompt_ids) - 1 : -1]
            distribution = logits.log_softmax(-1)
            sampled = distribution.gather(1, torch.tensor(response.token_ids)[:, None])[:, 0]
            objective = objective + advantage * sampled.mean()
            log_probs[response.token_ids] = sampled.detach()
            entropies[response.token_ids] = -(distribution.exp() * distribution).sum(-1).detach()
    objective.backward()
    return Reference(log_probs, entropies, {name: weight.grad for name, weight in model.named_parameters()})


def objective(log_probs_R: Tensor, batch: MicroBatch, responses: int) -> Tensor:
    """Return the reference's objective over a row with ``sequence_mean`` weights of ``responses`` responses."""
    return (log_probs_R * batch.advantages_R * batch.loss_weights_R).sum() * responses


def assert_log_probs_equal(output_R2: Tensor, batch: MicroBatch, expected: Reference, tolerance: float) -> None:
    """Require equal log-probabilities; ``output_R2`` has log-probability and entropy of ``batch``'s response tokens."""
    for number in range(int(batch.response_index_R.max()) + 1):
        here = batch.response_index_R == number
        response = tuple(batch.labels_R[here].tolist())
        for column, values in enumerate((expected.log_probs[response], expected.entropies[response])):
            torch.testing.assert_close(output_R2[here, column].detach(), values, rtol=0.0, atol=tolerance)


def assert_gradients_equal(gradients: Iterable[tuple[str, Tensor]], expected: Reference, tolerance: float) -> None:
    """Require that every tensor's difference is at most ``tolerance`` of its norm, and that no tensor is missing."""
    compared = set()
    for name, gradient in gradients:
        error = (gradient - expected.gradients[name]).norm() / expected.gradients[name].norm()
        assert error <= tolerance, f"gradient of {name} is off by {error:.1e}"
        compared.add(name)
    assert compared == set(expected.gradients)
