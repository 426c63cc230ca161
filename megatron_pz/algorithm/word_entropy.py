"""How uncertain a policy is at each word of a passage, for masks at the words that it finds hard to foresee."""

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
    """For each passage the entropy, in nats, at each of :func:`~megatron_pz.roles.strategies.words_after_the_first`.

    At a word: of the distribution that its first token is drawn from, given the passage's plain text before it. The
    passages are shared out over the data-parallel ranks. Collective over all ranks, with the same passages.

    Raises:
        BadInput: the tokenizer cannot say which characters a token stands for.
    """
    if not tokenizer.is_fast:
        raise BadInput("--mask-strategy entropy_next_token needs a tokenizer with tokenizer.json, which knows offsets")
    encoded = [tokenizer(passage.text, add_special_tokens=False, return_offsets_mapping=True) for passage in passages]
    entropies = _token_entropies(policy, [encoding["input_ids"] for encoding in encoded], micro_batch_tokens)
    return [
        _at_words(passage.text, [end for _, end in encoding["offset_mapping"]], of_tokens)
        for passage, encoding, of_tokens in zip(passages, encoded, entropies, strict=True)
    ]


def _token_entropies(
    policy: PolicyModel, sequences: Sequence[Sequence[int]], micro_batch_tokens: int
) -> list[list[float]]:
    """Of the distribution of each token but the first, which nothing precedes; 0 for that one."""
    groups = scored_groups(sequences)
    rows = policy.pack(groups, LossWeighting.of(groups, "token_mean", 1), micro_batch_tokens)
    mine: dict[int, list[float]] = {}
    for row, entropy_R in zip(rows, policy.entropies(rows), strict=False):  # none but on a pipeline's last stage
        real = (row.loss_weights_R > 0).tolist()
        for place, entropy, counts in zip(row.advantages_R.tolist(), entropy_R.tolist(), real, strict=True):
            if counts:
                mine.setdefault(round(place), [0.0]).append(entropy)
    everyones = {
        place: entropies for part in policy.topology.all_gather_object(mine) for place, entropies in part.items()
    }
    return [everyones.get(place, [0.0] * len(ids)) for place, ids in enumerate(sequences)]


def scored_groups(sequences: Sequence[Sequence[int]]) -> list[ScoredGroup]:
    """The token sequences of passages as groups, without those of a single token, at which there is nothing to ask."""
    return [_group(ids, place) for place, ids in enumerate(sequences) if len(ids) > 1]


def _group(token_ids: Sequence[int], place: int) -> ScoredGroup:
    """A prompt of one token and one response. In the advantage the passage's place travels through the packing."""
    response = Response(tuple(token_ids[1:]), (0.0,) * (len(token_ids) - 1), text="", truncated=False)
    return ScoredGroup("predictor", (token_ids[0],), (response,), rewards=(0.0,), advantages=(float(place),))


def _at_words(text: str, ends: Sequence[int], of_tokens: Sequence[float]) -> list[float]:
    """``ends``: where each token's characters end."""
    first_tokens = (
        next(token for token, end in enumerate(ends) if end > word.start()) for word in words_after_the_first(text)
    )
    return [of_tokens[token] for token in first_tokens]
