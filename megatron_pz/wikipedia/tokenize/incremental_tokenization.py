"""Assemble the token ids of several paragraphs from the ids of each, if the tokenizer allows it.

A corpus is tokenized once to measure its paragraphs; its passages are paragraphs with blank lines between. Whether
their ids follow from those of the paragraphs depends on the tokenizer's handling of a blank line, which probes detect:
 - ``constant``: a blank line has the same ids everywhere (the family of GPT-2's pattern: SmolLM2, OLMo);
 - ``attached``: a blank line is merged with the preceding text (the family of GPT-4's pattern: Qwen, Llama 3).
   Paragraphs are measured with it, and only the last paragraph of a passage is tokenized again;
 - ``none`` of both: passages are tokenized again as a whole.
In the first two cases a whole article is tokenized in one call and cut at the ids of blank lines.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

import numpy as np

PARAGRAPH_BREAK = "\n\n"

Ids = np.ndarray
Encode = Callable[[Sequence[str]], Sequence[Ids]]
"""Texts to token ids, one-dimensional integer arrays, without special tokens."""

_ENDINGS = (
    "word", "a word.", 'he said."', "so (x)", "(so.)", "in 1990", "東京。", "50%", "it…", "café", "what?!", "- an item",
    "a | b", "H₂O", "- one\n- two;", "x’", "Ελλάς", "слово:", "नमस्ते", "e^{x}", "🙂",
)  # fmt: skip
_BEGINNINGS = (
    "The", "the", "- an item", '"Quote', "(see)", "1990", "東京", "Éa", "'s", "…", "= x", "$5", "’tis", "слово", "नमस्ते",
    "{x}", "🙂", "_", "ʻO",
)  # fmt: skip
_MAX_BREAK_TOKENS = 2
"""Maximum number of tokens that a blank line costs in a byte-level vocabulary."""


@dataclass(frozen=True)
class Measured:
    """The ids of an article: those of its paragraph ``n`` are ``ids[starts[n] : ends[n]]``."""

    ids: Ids
    starts: Sequence[int]
    ends: Sequence[int]

    @property
    def tokens(self) -> list[int]:
        """Count the tokens of every paragraph."""
        return [end - start for start, end in zip(self.starts, self.ends, strict=True)]


class Joints:
    """Encodes paragraphs, and passages made of them.

    Args:
        encode: The tokenizer.
        passages_join: Whether passages may hold several paragraphs.
    """

    def __init__(self, encode: Encode, passages_join: bool = True) -> None:
        self._encode = encode
        self.kind: Literal["constant", "attached", "none"] = "none"
        self._seam = np.empty(0, np.int64)
        self._ends_break = np.zeros(1, np.bool_)  # by id: whether it has ended a text with a blank line
        if passages_join:
            self._probe()
        self.break_tokens = {"constant": len(self._seam), "attached": 0, "none": _MAX_BREAK_TOKENS}[self.kind]
        """Number of tokens that :meth:`measured` leaves to be counted for a blank line between two paragraphs."""

    def _probe(self) -> None:
        endings, beginnings = self._encode(_ENDINGS), self._encode(_BEGINNINGS)
        attached = self._encode([ending + PARAGRAPH_BREAK for ending in _ENDINGS])
        pairs = self._encode([a + PARAGRAPH_BREAK + b for a in _ENDINGS for b in _BEGINNINGS])
        whole = iter(pairs)
        first = pairs[0]
        self._seam = np.asarray(first[len(endings[0]) : len(first) - len(beginnings[0])])
        is_constant = is_attached = True
        for ending, with_break in zip(endings, attached, strict=True):
            for beginning in beginnings:
                joined = next(whole)
                is_constant &= np.array_equal(joined, np.concatenate([ending, self._seam, beginning]))
                is_attached &= np.array_equal(joined, np.concatenate([with_break, beginning]))
        self._learn_breaks(attached)
        self.kind = "constant" if is_constant else "attached" if is_attached else "none"

    def measured(self, paragraphs: Sequence[str]) -> Measured:
        """Return the ids of every paragraph, including its blank line if that is attached.

        No paragraph may be empty, contain a blank line, or begin or end with white space.
        """
        if not paragraphs:
            return Measured(self._seam[:0], (), ())
        after = PARAGRAPH_BREAK if self.kind == "attached" else ""
        if self.kind != "none":
            (whole,) = self._encode([PARAGRAPH_BREAK.join(paragraphs) + after])
            measured = self._cut_at_breaks(whole, len(paragraphs))
            if measured is not None:
                return measured
        apart = self._encode([paragraph + after for paragraph in paragraphs])
        if self.kind == "attached":
            self._learn_breaks(apart)
        return self._put_together(apart)

    def _put_together(self, apart: Sequence[Ids]) -> Measured:
        """Concatenate the ids of all paragraphs, with those of the blank lines between them."""
        is_constant = self.kind == "constant"
        pieces = [piece for ids in apart for piece in (ids, self._seam)][:-1] if is_constant else apart
        width = len(self._seam) if is_constant else 0
        starts = list(accumulate((len(ids) + width for ids in apart[:-1]), initial=0))
        ends = [start + len(ids) for start, ids in zip(starts, apart, strict=True)]
        return Measured(np.concatenate(pieces), starts, ends)

    def _learn_breaks(self, ended: Sequence[Ids]) -> None:
        """Record the last ids of texts that end with a blank line: these ids always contain one."""
        last = [int(ids[-1]) for ids in ended]
        size = max(len(self._ends_break), max(last) + 2)  # the last entry, False, stands for all higher ids
        self._ends_break = np.pad(self._ends_break, (0, size - len(self._ends_break)))
        self._ends_break[last] = True

    def _cut_at_breaks(self, whole: Ids, paragraphs: int) -> Measured | None:
        """Split ``whole`` into this number of paragraphs; return None if not all breaks can be identified."""
        if self.kind == "attached":
            ends = np.flatnonzero(self._ends_break.take(whole, mode="clip")) + 1
            starts = np.concatenate([[0], ends[:-1]])
            complete = len(ends) == paragraphs
        else:
            width = len(self._seam)
            last = len(whole) - width + 1
            found = np.full(max(last, 0), width > 0)
            for offset, token in enumerate(self._seam):
                found &= whole[offset : last + offset] == token
            breaks = np.flatnonzero(found)
            starts, ends = np.concatenate([[0], breaks + width]), np.concatenate([breaks, [len(whole)]])
            complete = len(breaks) == paragraphs - 1
        return Measured(whole, starts.tolist(), ends.tolist()) if complete else None

    def passages(self, paragraphs: Sequence[str], measured: Measured, drafts: Sequence[str | range]) -> list[Ids]:
        """Return the ids of passages, each of which is a text or a range of consecutive paragraphs."""
        again: list[str] = []
        for draft in drafts:
            if isinstance(draft, str):
                again.append(draft)
            elif self.kind == "attached":
                again.append(paragraphs[draft[-1]])
            elif self.kind == "none" and len(draft) > 1:
                again.append(PARAGRAPH_BREAK.join(parts_of(paragraphs, draft)))
        encoded = iter(self._encode(again) if again else [])
        return [self._passage(measured, draft, encoded) for draft in drafts]

    def _passage(self, measured: Measured, draft: str | range, encoded: Iterator[Ids]) -> Ids:
        if isinstance(draft, str) or (self.kind == "none" and len(draft) > 1):
            return next(encoded)
        ids, begin = measured.ids, measured.starts[draft.start]
        if self.kind == "attached":
            return np.concatenate([ids[begin : measured.starts[draft[-1]]], next(encoded)])
        return ids[begin : measured.ends[draft[-1]]]


def parts_of(paragraphs: Sequence[str], draft: str | range) -> Sequence[str]:
    """Return the paragraphs from which a passage's text is joined."""
    return (draft,) if isinstance(draft, str) else paragraphs[draft.start : draft.stop]
