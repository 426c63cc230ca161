"""Compute the policy's entropy at each word of a passage, for the strategy that masks words of high entropy (RPT)."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from megatron_pz.corpus.passages import Passage
from megatron_pz.rl.experience import Response, ScoredGroup
from megatron_pz.rl.packing import LossWeighting
from megatron_pz.roles.strategies import words_after_the_first
from megatron_pz.runtime.errors import BadInput
from megatron_pz.trainer.policy import PolicyModel


def word_entropies(
    policy: PolicyModel, tokenizer: PreTrainedTokenizerBase, passages: Sequence[Passage], micro_batch_tokens: int
) -> list[list[float]]:
    """Compute the entropy at each of :func:`~megatron_pz.roles.strategies.words_after_the_first` of every passage.

    The entropy at a word is that of the distribution of its first token, given the plain text before it. Passages are
    distributed over the data-parallel ranks. Collective over all ranks, which pass the same passages.

    Returns:
        For each passage the entropies in nats, one per word after the first.

    Raises:
        BadInput: the tokenizer does not report which characters a token covers.
    """
    if not tokenizer.is_fast:
        raise BadInput("--mask-strategy entropy_next_token needs a tokenizer with tokenizer.json, which knows offsets")
    encoded = [tokenizer(passage.text, add_special_tokens=False, return_offsets_mapping=True) for passage in passages]
    entropies = _token_entropies(policy, [encoding["input_ids"] for encoding in encoded], micro_batch_tokens)
    return [
        _at_words(passage.text, [end for _, end in encoding["offset_mapping"]], token_entropies)
        for passage, encoding, token_entropies in zip(passages, encoded, entropies, strict=True)
    ]


def _token_entropies(
    policy: PolicyModel, sequences: Sequence[Sequence[int]], micro_batch_tokens: int
) -> list[list[float]]:
    """Compute the entropy at each token of every sequence; 0 at the first token, which has no context."""
    groups = scored_groups(sequences)
    sequence_of_group = [index for index, token_ids in enumerate(sequences) if len(token_ids) > 1]
    batches = policy.micro_batches(groups, LossWeighting.of(groups, "token_mean", 1), micro_batch_tokens)
    mine: dict[int, list[float]] = {}
    # Only the last pipeline stage returns entropies.
    for batch, entropy_R in zip(batches, policy.entropies(batches), strict=False):
        for group, entropy in zip(batch.group_index_R.tolist(), entropy_R.tolist(), strict=True):
            if group >= 0:
                mine.setdefault(sequence_of_group[group], [0.0]).append(entropy)
    found = {index: values for part in policy.topology.all_gather_object(mine) for index, values in part.items()}
    return [found.get(index, [0.0] * len(token_ids)) for index, token_ids in enumerate(sequences)]


def scored_groups(sequences: Sequence[Sequence[int]]) -> list[ScoredGroup]:
    """Make a group of one response from each token sequence of two tokens or more: the first token is the prompt."""
    return [
        ScoredGroup(
            role="predictor",
            prompt_ids=(token_ids[0],),
            responses=(Response(tuple(token_ids[1:]), (0.0,) * (len(token_ids) - 1), text="", truncated=False),),
            rewards=(0.0,),
            advantages=(0.0,),
        )
        for token_ids in sequences
        if len(token_ids) > 1
    ]


def _at_words(text: str, ends: Sequence[int], token_entropies: Sequence[float]) -> list[float]:
    """Select the entropy of each word's first token. ``ends``: end offset of each token in ``text``."""
    first_tokens = (
        next(token for token, end in enumerate(ends) if end > word.start()) for word in words_after_the_first(text)
    )
    return [token_entropies[token] for token in first_tokens]
