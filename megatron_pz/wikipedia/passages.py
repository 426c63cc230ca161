"""Articles cut into passages: whole paragraphs, or whole sentences where a paragraph exceeds the budget."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from megatron_pz.wikipedia.sentences import sentences
from megatron_pz.wikipedia.words import count_words

PARAGRAPH_BREAK = "\n\n"
PASSAGE_COUNTS = ("sentences_cut", "short_passages", "short_passage_words", "words_after_leads")
_BREAK_TOKENS = 2
"""Most tokens that a paragraph break costs in a byte-level vocabulary."""
_BYTES_A_CHARACTER = 4
"""Most bytes, hence tokens, of one character in UTF-8."""
_WORD = re.compile(r"\S+\s*")

PassageUnit = Literal["paragraph", "sentences", "lead_sentences"]

CountTokens = Callable[[Sequence[str]], Sequence[int]]


@dataclass(frozen=True)
class PassageOptions:
    """Size of a passage."""

    passage_unit: PassageUnit = "paragraph"
    """``paragraph``: consecutive whole paragraphs are merged up to the budget. ``sentences``: a passage never leaves
    its paragraph. In both, a paragraph over the budget becomes several passages of whole sentences. ``lead_sentences``:
    the first whole sentences of every paragraph, as many as fit; what follows them is dropped. They name what the
    paragraph is about, so they can be understood, and guessed at, alone."""
    max_passage_tokens: int = 1024
    """Most tokens in a passage; leave room for the prompt around it."""
    min_passage_words: int = 0
    """Passages with fewer words are dropped."""
    max_passage_words: int = 0
    """Most words in a passage; 0: only the tokens count."""


@dataclass(frozen=True)
class _Piece:
    text: str
    tokens: int
    words: int


class PassageCutter:
    """Cuts articles and counts what that cost.

    ``counts`` has ``sentences_cut`` (sentences that alone exceeded the budget and were cut between words, or inside a
    word longer than the budget), ``short_passages`` and ``short_passage_words`` (dropped for being too short),
    ``words_after_leads`` (dropped by ``lead_sentences``).

    Args:
        options: Size of a passage.
        count_tokens: Tokens of each of several texts.
    """

    def __init__(self, options: PassageOptions, count_tokens: CountTokens) -> None:
        self._options = options
        self._count_tokens = count_tokens
        self.counts: Counter[str] = Counter()

    def with_budget(self, tokens: int) -> PassageCutter:
        """A cutter with another bound on tokens that adds to the same counts."""
        other = PassageCutter(replace(self._options, max_passage_tokens=tokens), self._count_tokens)
        other.counts = self.counts
        return other

    def cut(self, paragraphs: Sequence[str]) -> list[str]:
        """The passages of an article, in its order."""
        if self._options.passage_unit == "lead_sentences":
            leads = [self._lead(paragraph) for paragraph in paragraphs]
            return [lead.text.strip() for lead in leads if self._is_long_enough(lead)]
        passages: list[_Piece] = []
        merged: _Piece | None = None
        for paragraph in self._measure(paragraphs):
            if self._options.passage_unit == "paragraph" and merged is not None:
                both = _joined(merged, paragraph)
                if self._fits(both):
                    merged = both
                    continue
            if merged is not None:
                passages.append(merged)
                merged = None
            if self._fits(paragraph):
                merged = paragraph
            else:
                passages.extend(self._split_paragraph(paragraph.text))
        if merged is not None:
            passages.append(merged)
        return [piece.text.strip() for piece in passages if self._is_long_enough(piece)]

    def _lead(self, paragraph: str) -> _Piece:
        """The whole sentences that a paragraph begins with, up to the budget; empty where the first one exceeds it."""
        lead = _Piece("", 0, 0)
        for sentence in self._measure(sentences(paragraph)):
            longer = _Piece(lead.text + sentence.text, lead.tokens + sentence.tokens, lead.words + sentence.words)
            if not self._fits(longer):
                break
            lead = longer
        self.counts["words_after_leads"] += len(paragraph.split()) - lead.words
        return lead

    def _measure(self, texts: Sequence[str]) -> list[_Piece]:
        counts = self._count_tokens(texts) if texts else []
        return [_Piece(*piece) for piece in zip(texts, counts, count_words(texts), strict=True)]

    def _fits(self, piece: _Piece) -> bool:
        most_words = self._options.max_passage_words
        return piece.tokens <= self._options.max_passage_tokens and not (most_words and piece.words > most_words)

    def _is_long_enough(self, piece: _Piece) -> bool:
        if piece.words >= self._options.min_passage_words:
            return True
        self.counts["short_passages"] += 1
        self.counts["short_passage_words"] += piece.words
        return False

    def _split_paragraph(self, paragraph: str) -> list[_Piece]:
        """Fill passages with whole sentences."""
        pieces: list[_Piece] = []
        for sentence in self._measure(sentences(paragraph)):
            if self._fits(sentence):
                pieces.append(sentence)
            else:
                self.counts["sentences_cut"] += 1
                pieces.extend(self._split_sentence(sentence.text))
        return self._fill(pieces)

    def _split_sentence(self, sentence: str) -> list[_Piece]:
        """Fill passages with whole words, and with parts of a word that alone exceeds the budget."""
        width = max(self._options.max_passage_tokens // _BYTES_A_CHARACTER, 1)
        words: list[str] = []
        whole = _WORD.findall(sentence)
        for word, tokens in zip(whole, self._count_tokens(whole), strict=True):
            if tokens <= self._options.max_passage_tokens:
                words.append(word)
            else:
                words.extend(word[start : start + width] for start in range(0, len(word), width))
        return self._fill(self._measure(words))

    def _fill(self, pieces: Sequence[_Piece]) -> list[_Piece]:
        """Join pieces of one paragraph, which bring their white space along, up to the budget."""
        filled: list[list[_Piece]] = []
        tokens = words = 0
        for piece in pieces:
            if filled and self._fits(_Piece("", tokens + piece.tokens, words + piece.words)):
                filled[-1].append(piece)
                tokens, words = tokens + piece.tokens, words + piece.words
            else:
                filled.append([piece])
                tokens, words = piece.tokens, piece.words
        texts = ["".join(piece.text for piece in group) for group in filled]
        return [
            _Piece(text, sum(piece.tokens for piece in group), len(text.split()))
            for text, group in zip(texts, filled, strict=True)
        ]


def _joined(first: _Piece, second: _Piece) -> _Piece:
    return _Piece(
        f"{first.text}{PARAGRAPH_BREAK}{second.text}",
        first.tokens + _BREAK_TOKENS + second.tokens,
        first.words + second.words,
    )
