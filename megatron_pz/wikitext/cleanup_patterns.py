"""Clean up rare leftovers by patterns: words before a lost pronunciation, and tags that were written as entities."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from megatron_pz.wikitext.marks import HOLES, PLACES
from megatron_pz.wikitext.sentences import sentences

_SOUND_WORD = (
    "pronounced", "pronunciation", "pronounce", "pron.", "ipa", "us", "uk", "or", "also", "locally", "english",
    "in english", "listen", "as", "english pronunciation", "british", "american", "aussprache", "prononcé",
    "prononciation", "pronunciado", "pronunciada", "pronunciación", "se pronuncia", "pronuncia", "pronunciato",
    "pronunciata", "pronúncia", "pronuncia-se", "произносится", "произношение", "gesprochen", "ausgesprochen",
    "uitspraak", "uttal", "uttalas", "發音", "发音", "発音",
)  # fmt: skip
_BEHIND_SOUND_WORD = " :,;/"
_SOUND_WORDS = re.compile(
    rf"(?:(?<!\w)(?:{'|'.join(map(re.escape, _SOUND_WORD))})[{_BEHIND_SOUND_WORD}]*)+$", re.IGNORECASE
)
_SOUND_NOUNS = ("pronunciation", "aussprache", "prononciation")
_LABEL = re.compile(r"(?<=[(（［【\[,;，；、])\s*[^\W\d_]+(?: [^\W\d_]+){0,2}\s*[:：]?\s*$")
_REF_TAG = re.compile(r"</?ref(?:\b[^<>\n]{0,300}>)?", re.IGNORECASE)
_UNCOVERED = re.compile(
    r"\{\{+|\}\}+|\[\[+|\]\]+|''+|\{\||[(（［〔【][ ,;:，、；：・،؛]*[)）］〕】]|(?<=[(（［〔【])[ ,;:，、；：・،؛]+"
    r"|[ ,;，、；・،؛]+(?=[)）］〕】])"
)
_SPACES = re.compile(" {2,}")
_EMPTY_LINES = re.compile(r" *\n[ \n]*")
_BRACKETS = str.maketrans("", "", "[]{}'<()（）")
_PASSES = 4
_HOLE = re.compile(f"[{''.join(HOLES)}]")
_CONVERTED_WORD = (
    "equivalent", "equal", "worth", "approximately", "approx", "about", "roughly", "around", "entspricht",
    "entsprechen", "entsprechend", "équivalent", "équivalant", "soit", "equivalente", "equivalentes", "equivale",
    "equivalía", "omgerekend", "motsvarande", "эквивалент", "эквивалентно",
)  # fmt: skip
_CONVERTED = re.compile(
    rf" \((?:(?:{'|'.join(_CONVERTED_WORD)})\b|[≈~])[^()]{{0,200}}{_HOLE.pattern}[^()]{{0,200}}\)"
    r"(?=[\s.,;:!?]|$)",
    re.IGNORECASE,
)
"""Matches a parenthesis that gives the amount in front of it once more, with a hole: ``(equivalent to $… today)``."""
_OPENING, _CLOSING = "(（", ")）"
_LONGEST_PARENTHESIS = 1000


def without_sound_words(text: str) -> str:
    """Remove the words at the text's end that introduce a pronunciation: ``Paris (UK: `` becomes ``Paris (``.

    A preceding language is also removed: ``Paris (French: ``, ``Paris (French pronunciation: ``.
    """
    kept = text
    if text.rstrip(_BEHIND_SOUND_WORD).casefold().endswith(_SOUND_WORD):
        kept = _SOUND_WORDS.sub("", text)
    if text.rstrip().endswith((":", "：")) or text[len(kept) :].casefold().startswith(_SOUND_NOUNS):
        kept = _LABEL.sub("", kept)
    return kept


def without_incomplete_sentences(text: str, language: str, dropped: dict[str, int], lost: dict[str, int]) -> str:
    """Remove the sentences that contain the mark of a hole; ``dropped`` counts them by reason.

    If the hole is in a parenthesis that only gives an amount once more, the parenthesis is removed instead.

    Args:
        text: One item or paragraph.
        language: Language of the wiki.
        dropped: Counts by reason, as in :data:`~megatron_pz.wikitext.marks.HOLES`.
        lost: Counts by place and reason of the holes in removed parentheses.
    """
    for parenthesis in _CONVERTED.findall(text):
        for mark in _HOLE.findall(parenthesis):
            name = f"{PLACES[1]}_{HOLES[mark]}"
            lost[name] = lost.get(name, 0) + 1
    text = _CONVERTED.sub("", text)
    kept: list[str] = []
    for sentence in _joined_in_parentheses(sentences(text, language)):
        hole = _HOLE.search(sentence)
        if hole is None:
            kept.append(sentence)
        else:
            dropped[HOLES[hole[0]]] = dropped.get(HOLES[hole[0]], 0) + 1
    return "".join(kept).strip()


def _joined_in_parentheses(pieces: Iterable[str]) -> Iterator[str]:
    """Join sentences that end inside a parenthesis, because of an abbreviation: ``(in collab. With A)``.

    A parenthesis that stays open for more than :data:`_LONGEST_PARENTHESIS` characters was never closed.
    """
    waiting: list[str] = []
    depth = size = 0
    for piece in pieces:
        waiting.append(piece)
        size += len(piece)
        depth += sum(map(piece.count, _OPENING)) - sum(map(piece.count, _CLOSING))
        if depth <= 0:
            yield "".join(waiting)
        elif size > _LONGEST_PARENTHESIS:
            yield from waiting
        else:
            continue
        waiting, depth, size = [], 0, 0
    yield "".join(waiting)


def without_ref_tags(text: str) -> str:
    """Remove every ``<ref …>`` that results from ``&lt;ref …>`` in a page, also those that a removal creates."""
    if not _REF_TAG.search(text):
        return text
    for _ in range(_PASSES):
        shorter = _SPACES.sub(" ", _UNCOVERED.sub("", _REF_TAG.sub("", text))).strip()
        shorter = _EMPTY_LINES.sub("\n", shorter)
        if len(shorter) == len(text):
            return text
        text = shorter
    return text.translate(_BRACKETS)
