"""Draw passive masks, the paper's baselines: masks chosen at random instead of by the generator."""

from __future__ import annotations

import random
from collections.abc import Sequence
from re import Match

from megatron_pz.config.schema import GameConfig, MaskStrategy, PassiveStrategy
from megatron_pz.roles.spans import MASK, InvalidMaskReason, MaskedPassage, SpanRules
from megatron_pz.wikitext.words import WORD

SPAN_LENGTH_P = 0.2
LONGEST_SPAN = 10
"""SpanBERT (arXiv 1907.10529, section 3.1): word lengths follow a geometric distribution cut off at 10, mean 3.8."""

_LENGTHS = range(1, LONGEST_SPAN + 1)
_LENGTH_WEIGHTS = [(1.0 - SPAN_LENGTH_P) ** (length - 1) for length in _LENGTHS]


def random_span(passage: str, rules: SpanRules, rng: random.Random) -> MaskedPassage | None:
    """Mask a random run of whole words within one line that the rules allow; return None if they allow none.

    The length is drawn first, as in SpanBERT, and then the place, uniformly. If no place is allowed for a length (a
    short passage, ``max_words``), another length is drawn. None therefore means that the rules allow no run of up to
    ten words.
    """
    passage = rules.normal_passage(passage)
    words = [match.span() for match in WORD.finditer(passage)]
    weights = list(_LENGTH_WEIGHTS)
    while any(weights):
        length = rng.choices(_LENGTHS, weights)[0]
        weights[length - 1] = 0.0
        firsts = list(range(len(words) - length + 1))
        rng.shuffle(firsts)
        for first in firsts:
            span = passage[words[first][0] : words[first + length - 1][1]]
            if "\n" not in span and rules.check(span, passage)[1] is InvalidMaskReason.OK:
                return rules.apply(span, passage, rng)
    return None


def words_after_the_first(passage: str) -> list[Match[str]]:
    """List the words that a next-token mask can hide: all except the first, which has no context."""
    return list(WORD.finditer(passage))[1:]


def random_next_token(passage: str, rng: random.Random) -> MaskedPassage | None:
    """Truncate the passage after a random word except the first and mask that word; None with fewer than two words.

    The predictor sees what precedes the word, then ``[mask]``, and nothing of what follows.
    """
    words = words_after_the_first(passage)
    if not words or MASK in passage:
        return None
    return _cut_after(passage, rng.choice(words))


def entropy_next_token(
    passage: str, entropies: Sequence[float], top_share: float, rng: random.Random
) -> MaskedPassage | None:
    """Mask a word as :func:`random_next_token` does, drawn from those at which the policy is least certain (RPT).

    Args:
        entropies: entropy at each of :func:`words_after_the_first`, under the current rules.
        top_share: the word is drawn from this share of the words with the highest entropy, at least one.
    """
    words = words_after_the_first(passage)
    if not words or MASK in passage:
        return None
    count = max(1, round(top_share * len(words)))
    hardest = sorted(zip(entropies, range(len(words)), strict=True), key=lambda pair: (-pair[0], pair[1]))[:count]
    return _cut_after(passage, words[rng.choice(hardest)[1]])


def passive_mask(
    strategy: PassiveStrategy,
    passage: str,
    rules: SpanRules,
    rng: random.Random,
    entropies: Sequence[float] = (),
    top_share: float = 1.0,
) -> MaskedPassage | None:
    """Draw one mask by the named strategy, or return None if the passage allows none.

    ``entropies`` and ``top_share`` are used only by :func:`entropy_next_token`.
    """
    if strategy == "random_span":
        return random_span(passage, rules, rng)
    if strategy == "random_next_token":
        return random_next_token(passage, rng)
    if strategy == "entropy_next_token":
        return entropy_next_token(passage, entropies, top_share, rng)
    raise ValueError(f"there is no passive strategy {strategy!r}")


def mask_strategy(iteration: int, game: GameConfig) -> MaskStrategy:
    """Return the strategy of a step, counted from 1; the passive warm-up has a separate strategy."""
    return game.warmup_mask_strategy if iteration <= game.passive_warmup_iters else game.mask_strategy


def _cut_after(passage: str, word: Match[str]) -> MaskedPassage:
    return MaskedPassage(passage[: word.start()] + MASK, word.group(), occurrences=1, replaced=1)
