"""Cut articles into passages of whole paragraphs, or of whole sentences if a paragraph exceeds the budget."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import regex

from megatron_pz.wikipedia.tokenize.incremental_tokenization import PARAGRAPH_BREAK, Encode, Ids, Joints, parts_of
from megatron_pz.wikitext.sentences import guess_language, sentences
from megatron_pz.wikitext.words import count_words, cut_at_words

PASSAGE_COUNTS = ("sentences_cut", "short_passages", "short_passage_words", "words_after_leads")
_BYTES_A_CHARACTER = 4
"""Maximum number of bytes, hence tokens, of one character in UTF-8."""
_LEAST_BUDGET = 4
_SAMPLED_PARAGRAPHS = 8
_GRAPHEME_CLUSTER = regex.compile(r"\p{RI}{2}[\p{GCB=Extend}\p{GCB=SpacingMark}\u200d]*+|\X")
"""A flag is two regional indicators. Inside a run of them ``\\X`` alone goes back to the run's first one at every
character, which is quadratic."""

PassageUnit = Literal["paragraph", "sentences", "lead_sentences"]


@dataclass(frozen=True)
class PassageOptions:
    """The size of a passage."""

    passage_unit: PassageUnit = "paragraph"
    """``paragraph``: consecutive whole paragraphs are merged up to the budget. ``sentences``: a passage never leaves
    its paragraph. In both, a paragraph over the budget becomes several passages of whole sentences. ``lead_sentences``:
    the first whole sentences of every paragraph, as many as fit; the rest is dropped. They state the paragraph's
    subject, so that they can be understood, and masks in them guessed, without context."""
    max_passage_tokens: int = 1024
    """Maximum number of tokens in a passage; leave room for the prompt around it."""
    min_passage_words: int = 0
    """Passages with fewer words are dropped."""
    max_passage_words: int = 0
    """Maximum number of words in a passage; 0: only the tokens count."""


@dataclass(frozen=True)
class Passage:
    """Paragraphs, or sentences of one, and their token ids, of which there are at most as many as the budget allows."""

    parts: Sequence[str]
    """The parts of its text, separated by blank lines."""
    ids: Ids

    @property
    def text(self) -> str:
        return PARAGRAPH_BREAK.join(self.parts)

    @property
    def words(self) -> int:
        return sum(map(count_words, self.parts))


@dataclass(frozen=True)
class _Piece:
    text: str
    tokens: int
    words: int
    """0 if the number of words is not needed."""


def joints_of(options: PassageOptions, encode: Encode) -> Joints:
    """Probe the tokenizer's handling of blank lines, as far as passages need it, with some hundreds of texts."""
    return Joints(encode, passages_join=options.passage_unit == "paragraph")


class PassageCutter:
    """Cuts articles and counts the losses.

    ``counts`` has ``sentences_cut`` (sentences that exceeded the budget and were cut between words, or inside a word
    longer than the budget), ``short_passages`` and ``short_passage_words`` (dropped for being too short), and
    ``words_after_leads`` (dropped by ``lead_sentences``).

    Args:
        options: Size of a passage.
        encode: Returns the token ids of each of several texts. Every paragraph is encoded once, and again only as far
            as ``incremental_tokenization`` requires; sentences are encoded only if a paragraph exceeds the budget.
        joints: The handling of blank lines by ``encode`` (:func:`joints_of`), which is probed if not given.
    """

    def __init__(self, options: PassageOptions, encode: Encode, joints: Joints | None = None) -> None:
        self._options = options
        self._encode = encode
        self._joints = joints or joints_of(options, encode)
        self._budget = options.max_passage_tokens
        self._language = self._sample = (
            ""  # language of the article, and its beginning, from which the language is guessed
        )
        self._words_matter = bool(options.max_passage_words) or options.passage_unit == "lead_sentences"
        self.counts: Counter[str] = Counter()

    def cut(self, paragraphs: Sequence[str]) -> list[Passage]:
        """Cut an article into passages, in its order."""
        paragraphs = [stripped for paragraph in paragraphs if (stripped := paragraph.strip())]
        self._budget = self._options.max_passage_tokens
        self._language, self._sample = "", PARAGRAPH_BREAK.join(paragraphs[:_SAMPLED_PARAGRAPHS])
        passages = self._passages(paragraphs)
        if self._options.min_passage_words:
            passages = [passage for passage in passages if self._is_long_enough(passage.text)]
        return passages

    def _passages(self, paragraphs: Sequence[str]) -> list[Passage]:
        measured = self._joints.measured(paragraphs)
        drafts = self._drafts(paragraphs, measured.tokens)
        found: list[Passage] = []
        for draft, ids in zip(drafts, self._joints.passages(paragraphs, measured, drafts), strict=True):
            passage = Passage(parts_of(paragraphs, draft), ids)
            if len(ids) <= self._options.max_passage_tokens:
                found.append(passage)
            else:
                found += self._smaller(passage.text)
        return found

    def _smaller(self, text: str) -> list[Passage]:
        """Cut again with a smaller budget, for text whose joined pieces have more tokens than counted separately."""
        budget = self._budget
        self._budget = max(budget - 1 - budget // 8, _LEAST_BUDGET)
        passages = self._passages(text.split(PARAGRAPH_BREAK))
        self._budget = budget
        return passages

    def _drafts(self, paragraphs: Sequence[str], measured: Sequence[int]) -> list[str | range]:
        """Return the parts of each passage: whole paragraphs with given token counts, or a text inside one."""
        drafts: list[str | range] = []
        first = -1  # first of the merged paragraphs
        tokens = words = 0  # of the merged paragraphs
        between = self._joints.break_tokens
        merges = self._options.passage_unit == "paragraph"
        for number, own in enumerate(measured):
            more = count_words(paragraphs[number]) if self._words_matter else 0
            if merges and first >= 0 and self._fits(tokens + between + own, words + more):
                tokens += between + own
                words += more
                continue
            if first >= 0:
                drafts.append(range(first, number))
            first, tokens, words = number, own, more
            if not self._fits(tokens, words):
                first = -1
                drafts += self._inside(paragraphs[number], words)
        if first >= 0:
            drafts.append(range(first, len(measured)))
        return drafts

    def _inside(self, paragraph: str, words: int) -> list[str]:
        """Return the passages inside a paragraph that exceeds the budget."""
        if self._options.passage_unit == "lead_sentences":
            lead = self._lead(paragraph)
            self.counts["words_after_leads"] += words - lead.words
            self.counts["short_passages"] += not lead.text
            texts = [lead.text]
        else:
            texts = [part.text for part in self._split_paragraph(paragraph)]
        return [stripped for text in texts if (stripped := text.strip())]

    def _lead(self, paragraph: str) -> _Piece:
        """Take whole sentences from a paragraph's beginning up to the budget; none if the first exceeds it."""
        lead = _Piece("", 0, 0)
        for sentence in self._measure(self._sentences(paragraph)):
            longer = _Piece(lead.text + sentence.text, lead.tokens + sentence.tokens, lead.words + sentence.words)
            if not self._fits(longer.tokens, longer.words):
                break
            lead = longer
        return lead

    def _sentences(self, paragraph: str) -> list[str]:
        """Cut a paragraph by the rules of the article's language."""
        if not self._language:
            self._language = guess_language(self._sample)
        return sentences(paragraph, self._language)

    def _piece(self, text: str, tokens: int) -> _Piece:
        return _Piece(text, tokens, count_words(text) if self._words_matter else 0)

    def _measure(self, texts: Sequence[str]) -> list[_Piece]:
        different = list(dict.fromkeys(texts))
        encoded = self._encode(different) if different else []
        tokens = {text: len(ids) for text, ids in zip(different, encoded, strict=True)}
        return [self._piece(text, tokens[text]) for text in texts]

    def _fits(self, tokens: int, words: int) -> bool:
        most_words = self._options.max_passage_words
        return tokens <= self._budget and not (most_words and words > most_words)

    def _is_long_enough(self, text: str) -> bool:
        words = count_words(text)
        if words >= self._options.min_passage_words:
            return True
        self.counts["short_passages"] += 1
        self.counts["short_passage_words"] += words
        return False

    def _split_paragraph(self, paragraph: str) -> list[_Piece]:
        """Fill passages with whole sentences."""
        pieces: list[_Piece] = []
        for sentence in self._measure(self._sentences(paragraph)):
            if self._fits(sentence.tokens, sentence.words):
                pieces.append(sentence)
            else:
                self.counts["sentences_cut"] += 1
                pieces.extend(self._split_sentence(sentence.text))
        return self._fill(pieces)

    def _split_sentence(self, sentence: str) -> list[_Piece]:
        """Fill passages with whole words, and with parts of a word that alone exceeds the budget."""
        width = max(self._budget // _BYTES_A_CHARACTER, 1)
        words: list[str] = []
        for word in self._measure(cut_at_words(sentence)):
            if word.tokens <= self._budget:
                words.append(word.text)
            else:
                words.extend(_slices(word.text, width))
        return self._fill(self._measure(words))

    def _fill(self, pieces: Sequence[_Piece]) -> list[_Piece]:
        """Join pieces of one paragraph, which include their white space, up to the budget."""
        filled: list[list[_Piece]] = []
        tokens = words = 0
        for piece in pieces:
            if filled and self._fits(tokens + piece.tokens, words + piece.words):
                filled[-1].append(piece)
                tokens, words = tokens + piece.tokens, words + piece.words
            else:
                filled.append([piece])
                tokens, words = piece.tokens, piece.words
        return [
            self._piece("".join(piece.text for piece in group), sum(piece.tokens for piece in group))
            for group in filled
        ]


def _slices(word: str, width: int) -> list[str]:
    """Cut a word into slices of at most ``width`` characters, between grapheme clusters if these are shorter."""
    slices = [""]
    for cluster in _GRAPHEME_CLUSTER.findall(word):
        if len(slices[-1]) + len(cluster) <= width:
            slices[-1] += cluster
        else:
            slices += [cluster[start : start + width] for start in range(0, len(cluster), width)]
    return [part for part in slices if part]
