"""Decide which spans may be masked, and mask them in the passage (paper, section 4.4).

A span is matched **exactly as it occurs in the passage**: case, punctuation and white space inside it count. A span
across a line break must therefore contain that line break; with a space instead, it does not match. The one exception
is Unicode composition: spans and passages are compared, and passages masked, in NFC, the form in which MediaWiki stores
text (``answer_normalization: none`` turns it off).

A passage that contains a literal ``[mask]`` cannot be masked, because the predictor could not tell which mask is meant.
``SpanRules.is_maskable`` lets the caller draw another one; ``check`` refuses every span of such a passage.
"""

from __future__ import annotations

import random
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from megatron_pz.config.schema import GameConfig
from megatron_pz.roles.answers import AnswerNormalization
from megatron_pz.roles.words import same_word
from megatron_pz.runtime.errors import BadInput
from megatron_pz.wikitext.words import WORD, count_words, is_word_boundary

MASK = "[mask]"
"""The text in place of a masked span [P]."""


class InvalidMaskReason(StrEnum):
    """The reason why a response proposes no valid mask. The values name metrics."""

    OK = "ok"
    """The mask is valid."""
    TRUNCATED = "truncated"
    """The length limit ended the response."""
    UNPLAYABLE = "unplayable"
    """The passage itself holds a literal ``[mask]``."""
    NO_COMMAND = "no_command"
    r"""No balanced ``\mask{}`` in the response."""
    EMPTY = "empty"
    """Nothing but white space inside the command."""
    ABSENT = "absent"
    """The passage does not hold the span."""
    SUBWORD = "subword"
    """Whole words are required, and the passage holds the span only inside longer words, or it contains no word."""
    TOO_OFTEN = "too_often"
    """The span occurs ``max_span_occurrences`` times or more."""
    TOO_LONG = "too_long"
    """The span has more than ``max_span_words`` words."""
    LEAK = "leak"
    """The span survives elsewhere under another case or inflection (``leak_guard``)."""


@dataclass(frozen=True)
class MaskedPassage:
    """A passage with one span hidden: the predictor's question and its answer."""

    text: str
    """The passage with ``[mask]`` in the span's place."""
    span: str
    """The hidden words, exactly as in the passage."""
    occurrences: int
    """Number of occurrences of the span in the passage."""
    replaced: int
    """Number of occurrences that are hidden."""


def replace_span(passage: str, span: str, starts: Sequence[int], occurrences: int) -> MaskedPassage:
    """Hide the span at the given ascending offsets; ``occurrences`` is its number of occurrences in the passage."""
    pieces, end = [], 0
    for start in starts:
        pieces += [passage[end:start], MASK]
        end = start + len(span)
    pieces.append(passage[end:])
    return MaskedPassage("".join(pieces), span, occurrences, len(starts))


@dataclass(frozen=True)
class SpanRules:
    """Rules for spans. The paper's variants: all defaults (``default``), ``one_mask``, ``whole_words`` (``words``)."""

    whole_words: bool = False
    """Occurrences inside longer words do not count (``wikitext.words``: in scripts without spaces an ideograph or an
    orthographic cluster is a word). Hyphens and apostrophes end words here, so ``well`` is whole in ``well-known``."""
    one_mask: bool = False
    """Hide one occurrence, drawn at random, instead of all of them."""
    max_occurrences: int = 8
    """A span with this many non-overlapping occurrences or more is refused [P]."""
    max_words: int = 0
    """Maximum number of words of a span (:func:`megatron_pz.wikitext.words.count_words`); 0: no bound."""
    leak_guard: bool = False
    normalization: AnswerNormalization = "strip_nfc"

    @classmethod
    def from_config(cls, game: GameConfig) -> SpanRules:
        """Build the rules of a configuration. Raise BadInput for bounds that no span can satisfy."""
        if game.max_span_occurrences < 2:
            raise BadInput(
                f"max_span_occurrences is {game.max_span_occurrences}: every span occurs at least once in "
                "its passage, so none would be valid; give 2 or more (the paper has 8)"
            )
        if game.max_span_words < 0:
            raise BadInput(f"max_span_words is {game.max_span_words}; give 0 (no bound) or more")
        return cls(
            whole_words=game.whole_words or game.span_policy == "words",
            one_mask=game.span_policy == "one_mask",
            max_occurrences=game.max_span_occurrences,
            max_words=game.max_span_words,
            leak_guard=game.leak_guard,
            normalization=game.answer_normalization,
        )

    def normal_passage(self, passage: str) -> str:
        """Return the passage in the form in which spans are looked up and masked: NFC, or unchanged."""
        return passage if self.normalization == "none" else unicodedata.normalize("NFC", passage)

    def normal_span(self, span: str) -> str:
        """Return the span in the form in which it is looked up: stripped and NFC, or unchanged. Case is kept."""
        return span if self.normalization == "none" else unicodedata.normalize("NFC", span.strip())

    def is_maskable(self, passage: str) -> bool:
        """Return whether the passage is free of a literal ``[mask]``."""
        return MASK not in passage

    def occurrences(self, span: str, passage: str) -> list[int]:
        """Find the span in ``normal_passage(passage)``: ascending, non-overlapping offsets, leftmost first."""
        span, passage = self.normal_span(span), self.normal_passage(passage)
        starts: list[int] = []
        start = passage.find(span) if span else -1
        while start >= 0:
            end = start + len(span)
            counts = not self.whole_words or _on_word_edges(passage, start, end)
            if counts:
                starts.append(start)
            start = passage.find(span, end if counts else start + 1)
        return starts

    def check(self, span: str | None, passage: str) -> tuple[str | None, InvalidMaskReason]:
        r"""Check the content of a ``\mask{}`` (None if there was none).

        Return the normal form of the span and OK, or None and the first :class:`InvalidMaskReason` that applies.
        """
        if not self.is_maskable(passage):
            return None, InvalidMaskReason.UNPLAYABLE
        if span is None:
            return None, InvalidMaskReason.NO_COMMAND
        if not span.strip():
            return None, InvalidMaskReason.EMPTY
        span, passage = self.normal_span(span), self.normal_passage(passage)
        starts = self.occurrences(span, passage)
        if span not in passage:
            fault = InvalidMaskReason.ABSENT
        elif not starts or (self.whole_words and WORD.search(span) is None):
            fault = InvalidMaskReason.SUBWORD
        elif len(starts) >= self.max_occurrences:
            fault = InvalidMaskReason.TOO_OFTEN
        elif self.max_words and count_words(span) > self.max_words:
            fault = InvalidMaskReason.TOO_LONG
        elif self.leak_guard and _survives(span, replace_span(passage, span, starts, len(starts)).text):
            fault = InvalidMaskReason.LEAK
        else:
            return span, InvalidMaskReason.OK
        return None, fault

    def apply(self, span: str, passage: str, rng: random.Random) -> MaskedPassage:
        """Hide a span that ``check`` passed: all its occurrences, or under ``one_mask`` one drawn from ``rng``.

        The text is that of ``normal_passage(passage)``. Raises ValueError if the span does not occur.
        """
        span, passage = self.normal_span(span), self.normal_passage(passage)
        starts = self.occurrences(span, passage)
        if not starts:
            raise ValueError(f"the span {span!r} does not occur in the passage; check() it first")
        return replace_span(passage, span, [rng.choice(starts)] if self.one_mask else starts, len(starts))


def is_subword(span: str, passage: str) -> bool:
    """Return whether any occurrence of a span lies inside a longer word."""
    rules = SpanRules()
    span, passage = rules.normal_span(span), rules.normal_passage(passage)
    starts = rules.occurrences(span, passage)
    return not all(_on_word_edges(passage, start, start + len(span)) for start in starts)


def _on_word_edges(passage: str, start: int, end: int) -> bool:
    """Return whether passage[start:end] begins and ends at word boundaries."""
    return is_word_boundary(passage, start) and is_word_boundary(passage, end)


def _survives(span: str, masked_text: str) -> bool:
    """Return whether the span's words, in any case or inflection, occur consecutively in the text around the masks."""
    wanted = [match.group() for match in WORD.finditer(span)]
    for piece in masked_text.split(MASK):
        left = [match.group() for match in WORD.finditer(piece)]
        for begin in range(len(left) - len(wanted) + 1):
            if wanted and all(map(same_word, wanted, left[begin:])):
                return True
    return False
