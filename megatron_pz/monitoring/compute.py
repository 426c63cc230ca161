"""Count the tokens and floating point operations of a run, in the same way for every objective.

Counts are over all ranks and add up over a run, so that two methods can be compared at equal compute. Operations are
the model's matrix products, forward and twice as many backward. Recomputation, padding and communication do not count.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass

from megatron_pz.hf.architecture import Architecture
from megatron_pz.rl.experience import Response, ScoredGroup


@dataclass(frozen=True)
class ComputeUsed:
    """An amount of compute; amounts add up."""

    trained_tokens: int = 0
    """Tokens in forward and backward passes of the trainer; a prompt that responses share counts once."""
    scored_tokens: int = 0
    """Tokens in forward passes only: old and reference log-probabilities, entropies."""
    prefilled_tokens: int = 0
    """Prompt tokens of the rollout engines; the samples of a prompt share one prefill."""
    sampled_tokens: int = 0
    """Tokens that the rollout engines sampled."""
    flops: float = 0.0

    def __add__(self, other: ComputeUsed) -> ComputeUsed:
        mine, theirs = asdict(self), asdict(other)
        return ComputeUsed(**{name: mine[name] + theirs[name] for name in mine})

    def metrics(self) -> dict[str, float]:
        """Return the amounts by metric name, ``compute/…``."""
        return {f"compute/{name}": float(value) for name, value in asdict(self).items()}


@dataclass(frozen=True)
class FlopCounter:
    """Counts the compute of a model of this architecture."""

    architecture: Architecture

    def training(self, groups: Iterable[ScoredGroup], passes: int = 1) -> ComputeUsed:
        """Count ``passes`` forward and backward passes over packed groups."""
        tokens, flops = self._packed(groups)
        return ComputeUsed(trained_tokens=passes * tokens, flops=3.0 * passes * flops)

    def scoring(self, groups: Iterable[ScoredGroup], passes: int = 1) -> ComputeUsed:
        """Count ``passes`` forward passes over packed groups."""
        tokens, flops = self._packed(groups)
        return ComputeUsed(scored_tokens=passes * tokens, flops=passes * flops)

    def sampling(self, prompt_tokens: int, responses: Iterable[Response]) -> ComputeUsed:
        """Count the rollout of one prompt's responses."""
        lengths = [len(response.token_ids) for response in responses]
        flops = forward_flops(
            self.architecture, prompt_tokens + sum(lengths), sum(lengths), token_pairs(prompt_tokens, lengths)
        )
        return ComputeUsed(prefilled_tokens=prompt_tokens, sampled_tokens=sum(lengths), flops=flops)

    def _packed(self, groups: Iterable[ScoredGroup]) -> tuple[int, float]:
        """Count the tokens of packed groups, equal responses once, and the operations of a forward pass."""
        tokens, flops = 0, 0.0
        for group in groups:
            lengths = [len(ids) for ids in {response.token_ids for response in group.responses}]
            of_group = len(group.prompt_ids) + sum(lengths)
            predicted = sum(len(response.token_ids) for response in group.responses)
            tokens += of_group
            flops += forward_flops(self.architecture, of_group, predicted, token_pairs(len(group.prompt_ids), lengths))
        return tokens, flops


def forward_flops(arch: Architecture, tokens: int, predicted: int, pairs: float) -> float:
    """Count the operations of a forward pass.

    They are 2 per weight and token, and two products of a head's width per token pair and query head.

    Args:
        arch: the model.
        tokens: tokens in the pass.
        predicted: number of tokens that need logits.
        pairs: pairs of tokens that attend, as :func:`token_pairs` counts them.
    """
    attention = arch.num_layers * arch.num_attention_heads * arch.kv_channels * pairs
    return 2.0 * (tokens * layer_weights(arch) + predicted * arch.vocab_size * arch.hidden_size + 2.0 * attention)


def token_pairs(prompt: int, lengths: Iterable[int]) -> float:
    """Count the token pairs of causal attention: in the prompt, and of each response with the prompt and itself."""
    return prompt * (prompt + 1) / 2 + sum(length * prompt + length * (length + 1) / 2 for length in lengths)


def layer_weights(arch: Architecture) -> int:
    """Count the weights of all layers that one token uses: in a mixture, the router and the chosen experts."""
    heads, groups = arch.num_attention_heads, arch.num_query_groups
    attention = arch.hidden_size * arch.kv_channels * (2 * heads + 2 * groups)
    weights = 0
    for layer in range(arch.num_layers):
        mlp = 3 * arch.hidden_size * arch.ffn_hidden_size  # gate, up and down
        if arch.experts is not None and arch.experts.in_layer[layer]:
            experts = arch.experts
            mlp = experts.per_token * 3 * arch.hidden_size * experts.ffn_hidden_size + arch.hidden_size * experts.number
        weights += attention + mlp
    return weights
