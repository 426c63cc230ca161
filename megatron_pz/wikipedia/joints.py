"""Token ids of several paragraphs put together from the ids of each, where a tokenizer allows it.

A corpus is tokenized once to measure its paragraphs; its passages are paragraphs with blank lines between. Whether
their ids follow from the paragraphs' own depends on how the tokenizer takes a blank line, which probes tell:
 - ``constant``: it gives the same ids everywhere (the family of GPT-2's pattern: SmolLM2, OLMo);
 - ``attached``: it belongs to what stands before it (the family of GPT-4's pattern: Qwen, Llama 3): paragraphs are
   measured with it, and only the last of a passage is tokenized again;
 - ``none`` of both: passages are tokenized again as a whole.
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
        self.kind = "constant" if is_constant else "attached" if is_attached else "none"

    def measured(self, paragraphs: Sequence[str]) -> Sequence[Ids]:
        """Ids of every paragraph, with its blank line where that is attached."""
        if not paragraphs:
            return []
        if self.kind == "attached":
            return self._encode([paragraph + PARAGRAPH_BREAK for paragraph in paragraphs])
        return self._encode(paragraphs)

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
