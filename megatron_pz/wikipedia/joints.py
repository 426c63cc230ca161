"""Token ids of several paragraphs put together from the ids of each, where a tokenizer allows it.

A corpus is tokenized once to measure its paragraphs; its passages are paragraphs with blank lines between. Whether
their ids follow from the paragraphs' own depends on how the tokenizer takes a blank line, which probes tell:
 - ``constant``: it gives the same ids everywhere (the family of GPT-2's pattern: SmolLM2, OLMo);
 - ``attached``: it belongs to what stands before it (the family of GPT-4's pattern: Qwen, Llama 3): paragraphs are
   measured with it, and only the last of a passage is tokenized again;
 - ``none`` of both: passages are tokenized again as a whole.
In the first two cases a whole article is tokenized in one call, and cut where the ids of blank lines stand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
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
_MOST_BREAK_TOKENS = 2
"""Most tokens that a blank line costs in a byte-level vocabulary."""


class Joints:
    """Encodes paragraphs, and passages made of them.

    Args:
        encode: The tokenizer.
        passages_join: Passages may hold several paragraphs at all.
    """

    def __init__(self, encode: Encode, passages_join: bool = True) -> None:
        self._encode = encode
        self.kind: Literal["constant", "attached", "none"] = "none"
        self._seam = np.empty(0, np.int64)
        self._ends_break = np.zeros(1, np.bool_)  # by id: it has ended a text with a blank line
        if passages_join:
            self._probe()
        self.break_tokens = {"constant": len(self._seam), "attached": 0, "none": _MOST_BREAK_TOKENS}[self.kind]
        """What :meth:`measured` leaves to be counted for a blank line between two paragraphs."""

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

    def measured(self, paragraphs: Sequence[str]) -> Sequence[Ids]:
        """Ids of every paragraph, with its blank line where that is attached.

        No paragraph is empty, holds a blank line, or begins or ends with white space.
        """
        if not paragraphs:
            return []
        after = PARAGRAPH_BREAK if self.kind == "attached" else ""
        if self.kind != "none":
            (whole,) = self._encode([PARAGRAPH_BREAK.join(paragraphs) + after])
            cut = self._cut_at_breaks(whole, len(paragraphs))
            if cut is not None:
                return cut
        measured = self._encode([paragraph + after for paragraph in paragraphs])
        if self.kind == "attached":
            self._learn_breaks(measured)
        return measured

    def _learn_breaks(self, ended: Sequence[Ids]) -> None:
        """Note the last ids of texts that end with a blank line: they mean one wherever they stand."""
        last = [int(ids[-1]) for ids in ended]
        size = max(len(self._ends_break), max(last) + 2)  # of the ids beyond it the last entry tells: no
        self._ends_break = np.pad(self._ends_break, (0, size - len(self._ends_break)))
        self._ends_break[last] = True

    def _cut_at_breaks(self, whole: Ids, paragraphs: int) -> list[Ids] | None:
        """The ids of so many paragraphs, or None if not all breaks between them can be told from ``whole``."""
        if self.kind == "attached":
            ends = np.flatnonzero(self._ends_break[np.minimum(whole, len(self._ends_break) - 1)]) + 1
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
        if not complete:
            return None
        return [whole[start:end] for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]

    def passages(self, paragraphs: Sequence[str], measured: Sequence[Ids], drafts: Sequence[str | range]) -> list[Ids]:
        """Ids of passages, each of which is a text or a range of consecutive paragraphs."""
        again: list[str] = []
        for draft in drafts:
            if isinstance(draft, str):
                again.append(draft)
            elif self.kind == "attached":
                again.append(paragraphs[draft[-1]])
            elif self.kind == "none" and len(draft) > 1:
                again.append(text_of(paragraphs, draft))
        encoded = iter(self._encode(again) if again else [])
        return [self._passage(measured, draft, encoded) for draft in drafts]

    def _passage(self, measured: Sequence[Ids], draft: str | range, encoded: Iterator[Ids]) -> Ids:
        if isinstance(draft, str):
            return next(encoded)
        if self.kind == "attached":
            return np.concatenate([*(measured[number] for number in draft[:-1]), next(encoded)])
        if len(draft) == 1:
            return measured[draft[0]]
        if self.kind == "none":
            return next(encoded)
        pieces = [measured[draft[0]]]
        for number in draft[1:]:
            pieces += [self._seam, measured[number]]
        return np.concatenate(pieces)


def text_of(paragraphs: Sequence[str], draft: str | range) -> str:
    """The text of a passage."""
    return draft if isinstance(draft, str) else PARAGRAPH_BREAK.join(paragraphs[draft.start : draft.stop])
