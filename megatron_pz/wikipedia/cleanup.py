"""From the scanner's marked text to clean paragraphs: white space, and the punctuation that dropped markup leaves."""

from __future__ import annotations

import html
import re
import unicodedata

from megatron_pz.wikipedia.marks import BREAK, DROPPED, HEADING, INDENT, ITEM, SOUND, SPACE

_SPACES = re.compile(r"[ \t\x85\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+")
_BLANK = f" \t{DROPPED}{SOUND}"

_MARK = f"[{DROPPED}{SOUND}]"
_MARK_RUN = re.compile(rf"{_MARK}(?: *{_MARK})+")
_SOUND_WORDS = re.compile(
    r"(?:(?<!\w)(?:pronounced|pronunciation|pronounce|pron\.|ipa|us|uk|or|also|locally|english|in english|listen|as|"
    r"english pronunciation|british|american|aussprache|prononcé|prononciation)[ :,;/]*)+$",
    re.IGNORECASE,
)
_LONGEST_SOUND_WORDS = 80
_BETWEEN_SEPARATORS = re.compile(rf"[,;:] ?{_MARK} ?(?=[,;.:)）])")
_BEFORE_PUNCTUATION = re.compile(rf" {_MARK} ?(?=[,;.:!?)\]）])")
_MARKS = re.compile(_MARK)
_OPENING_RUN = re.compile(rf"[(（][ ,;:()（）{DROPPED}]*")
_BEFORE_CLOSING = re.compile(rf"(?<![ ,;{DROPPED}])[ ,;{DROPPED}]+(?=[)）])")
_EMPTY_BRACKETS = re.compile(rf"\[[ {DROPPED}]*\]")
_LEFTOVERS = re.compile(r"\{\{+|\}\}+|\[\[+|\]\]+|''+|\{\||</?ref(?:\b[^<>\n]{0,300}>)?", re.IGNORECASE)
_LEFTOVER_CHARACTERS = str.maketrans("", "", "[]{}'<")
_LEFTOVER_PASSES = 4
_ESCAPED_TWICE = re.compile(r"&(?:nbsp|thinsp|ensp|emsp|ndash|mdash|minus|times|#160|#8211);")  # &amp;nbsp; in the page
_WORD = re.compile(r"\w")


def paragraphs_of(marked: str, keep_headings: bool = False, keep_source: bool = False) -> list[str]:
    """Paragraphs of a page, in order, none empty.

    Consecutive lines of prose are one paragraph, as in MediaWiki; consecutive list items are one paragraph with an item
    a line. A heading that nothing follows is dropped even where headings are kept.

    Args:
        marked: The scanner's text with its marks.
        keep_headings: Headings become paragraphs.
        keep_source: The text holds formulas or code, in which braces and quotes mean something.
    """
    paragraphs: list[tuple[int, str]] = []  # (level of a heading or 0, text)
    for kind, lines in _blocks(marked):
        if kind == ITEM:
            items = [clean(line, keep_source) for line in lines]
            text = "\n".join(f"- {item}" for item in items if item)
        else:
            text = clean(" ".join(lines), keep_source)
        if kind.isdigit():
            if keep_headings and text:
                paragraphs.append((int(kind), text))
        elif text:
            paragraphs.append((0, text))
    return _without_empty_sections(paragraphs)


def _blocks(marked: str) -> list[tuple[str, list[str]]]:
    """(kind, lines): kind is a heading's level, :data:`ITEM`, :data:`INDENT`, or empty for prose."""
    blocks: list[tuple[str, list[str]]] = []
    gap = True
    for raw in marked.split("\n"):
        line = raw.lstrip(_BLANK)
        if not _WORD.search(line):
            gap = True
            continue
        kind = line[0] if line[0] in (ITEM, INDENT) else ""
        if line[0] == HEADING:
            blocks.append((line[1], [line[2:]]))
            gap = True
            continue
        line = line[1:] if kind else raw  # a dropped formula at the line's start still counts
        if not gap and kind != INDENT and blocks[-1][0] == kind:
            blocks[-1][1].append(line)
        else:
            blocks.append((kind, [line]))
        gap = False
    return blocks


def _without_empty_sections(paragraphs: list[tuple[int, str]]) -> list[str]:
    kept: list[str] = []
    following = 1  # level of the next heading that stays; prose follows every heading above it
    for level, text in reversed(paragraphs):
        if level == 0:
            following = 7
        elif level >= following:
            continue
        else:
            following = level
        kept.append(text)
    return kept[::-1]


def clean(text: str, keep_source: bool = False) -> str:
    """One paragraph: white space normalised, dropped markup's punctuation removed; empty if no word is left."""
    if text.startswith(SPACE):
        return text[1:].replace(BREAK, "\n").replace(SPACE, " ")
    if "&" in text:
        text = _ESCAPED_TWICE.sub(lambda entity: html.unescape(entity[0]), text)
    text = _SPACES.sub(" ", text)
    if SOUND in text:
        text = _without_sound_words(text)
    text = _MARK_RUN.sub(DROPPED, text)
    text = _BETWEEN_SEPARATORS.sub(DROPPED, text)
    if "(" in text or "（" in text:
        text = _OPENING_RUN.sub(_close_empty, text)
    text = _BEFORE_CLOSING.sub("", text)
    if "[" in text:
        text = _EMPTY_BRACKETS.sub(DROPPED, text)
    text = _MARK_RUN.sub(DROPPED, text)
    text = _BETWEEN_SEPARATORS.sub(DROPPED, text)
    text = _BEFORE_PUNCTUATION.sub("", text)
    if text.lstrip(" ").startswith(DROPPED):
        text = text.lstrip(f" ,;:.{DROPPED}")
    text = _MARKS.sub("", text)
    if not keep_source:
        text = _without_leftovers(text)
    lines = (_SPACES.sub(" ", line).strip() for line in text.split(BREAK))
    text = unicodedata.normalize("NFC", "\n".join(line for line in lines if line))
    return text.replace(SPACE, " ") if _WORD.search(text) else ""


def _without_sound_words(text: str) -> str:
    """Drop the words that introduce a pronunciation which is gone: ``(pronounced ◌, born 1950)``."""
    parts = text.split(SOUND)
    for number, part in enumerate(parts[:-1]):
        tail = part[-_LONGEST_SOUND_WORDS:]
        parts[number] = part[: len(part) - len(tail)] + _SOUND_WORDS.sub("", tail)
    return DROPPED.join(parts)


def _close_empty(run: re.Match[str]) -> str:
    """Remove empty parentheses, and separators after an opening one, from a run that begins with one."""
    kept: list[str] = []
    for character in run[0]:
        if character in ")）":
            while kept and kept[-1] in f" ,;:{DROPPED}":
                kept.pop()
            if kept and kept[-1] in "(（":
                kept[-1] = DROPPED
            else:
                kept.append(character)
        elif character in "(（" or not kept or kept[-1] not in "(（":
            kept.append(character)
    return "".join(kept)


def _without_leftovers(text: str) -> str:
    """Remove brackets of broken markup. A removal can bring two halves together, hence more than one pass."""
    for _ in range(_LEFTOVER_PASSES):
        shorter = _LEFTOVERS.sub("", text)
        if shorter == text:
            return text
        text = shorter
    return text.translate(_LEFTOVER_CHARACTERS)
