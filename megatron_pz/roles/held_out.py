"""Make fixed held-out masks: the same questions for every model, run and span policy.

Each passage gives at most one mask of each kind. The choice depends only on the passage's text and the seed, by
SHA-256. A passage therefore keeps its masks regardless of the other passages, the platform and the Python release.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from megatron_pz.roles.spans import MaskedPassage, SpanRules, replace_span
from megatron_pz.roles.words import content_words, repeated_words

Choice = TypeVar("Choice")

Kind = Literal["repeated", "once"]

_POLICY = SpanRules(whole_words=True)
"""Independent of the run's policy, so that results under different span policies are compared on the same masks."""


@dataclass(frozen=True)
class HeldOutMask:
    """One fixed mask."""

    passage: int
    """Index of the passage in the sequence that was given."""
    kind: Kind
    """``repeated``: one occurrence of a repeated content word, whose answer occurs elsewhere in the passage;
    ``once``: a content word that occurs once, so that it can only be inferred from its context."""
    masked: MaskedPassage


def held_out_masks(passages: Sequence[str], kind: Kind, seed: int = 11) -> list[HeldOutMask]:
    """Make the masks of one kind, in the passages' order. Passages without a candidate are skipped."""
    made = ((index, _mask(passage, kind, seed)) for index, passage in enumerate(passages))
    return [HeldOutMask(index, kind, masked) for index, masked in made if masked is not None]


def _mask(passage: str, kind: Kind, seed: int) -> MaskedPassage | None:
    if not _POLICY.is_maskable(passage):
        return None
    passage = _POLICY.normal_passage(passage)
    fewest, most = (2, _POLICY.max_occurrences - 1) if kind == "repeated" else (1, 1)
    words = repeated_words(passage) if kind == "repeated" else content_words(passage)
    words = [word for word in words if fewest <= len(_POLICY.occurrences(word, passage)) <= most]
    if not words:
        return None
    word = _choose(words, passage, f"{seed} {kind} word")
    starts = _POLICY.occurrences(word, passage)
    return replace_span(passage, word, [_choose(starts, passage, f"{seed} {kind} place")], len(starts))


def _choose(choices: Sequence[Choice], passage: str, purpose: str) -> Choice:
    digest = hashlib.sha256(f"{purpose}\n{passage}".encode()).digest()
    return choices[int.from_bytes(digest[:8]) % len(choices)]
