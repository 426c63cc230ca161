"""Turn the scanner's marked text into paragraphs: lines, white space, and the punctuation that dropped markup leaves.

Consecutive lines of prose are one paragraph, as in MediaWiki. Consecutive list items, or rows of a table, are one
paragraph with one item per line. Characters are pushed one by one, and a character after dropped markup may remove the
characters before it, so that ``(; born 1950)`` and ``word ( ), next`` never occur.
"""

from __future__ import annotations

import unicodedata

from megatron_pz.wikitext.cleanup_patterns import without_incomplete_sentences, without_ref_tags, without_sound_words
from megatron_pz.wikitext.marks import (
    BREAK,
    DROPPED,
    FRACTION,
    HEADING,
    INDENT,
    ITEM,
    LITERAL,
    LITERAL_END,
    PREFORMATTED,
    ROW,
    SOUND,
    SPACE,
    SPOKEN,
    SPOKEN_END,
)
from megatron_pz.wikitext.sections import without_empty_sections

from .buffer import Buffer
from .characters import is_closing, is_opening, is_plain, is_prose, is_separator, is_white
from .holes import CLOSED, Holes, holds_hole, holds_word, is_in_parenthesis, is_unknown

_FIRST_COMPOSED = "\u0300"
_LONGEST_SOUND_WORDS = 80
_DASHES = "-–—"

# State pending until the next visible character: white space, a line break, a gap left by dropped markup, and whether
# more of the same leftover character is dropped.
NOTHING, WHITE, NEWLINE, GAP, EATING = 0, 1, 2, 4, 8


class Paragraphs:
    """The paragraphs of one page.

    Args:
        marked: The scanner's text with its marks.
        keeps_headings: Headings become paragraphs. A heading without content is always dropped.
        keeps_holes: Sentences that lost a word stay.
        language: Language of the wiki, whose rules determine the ends of sentences.
        dropped: Receives the number of sentences that were dropped because they lost a word, by reason.
        lost: Receives the number of constructs that vanished from text that stays, by place and reason.
    """

    def __init__(
        self,
        marked: Buffer,
        keeps_headings: bool,
        keeps_holes: bool,
        language: str,
        dropped: dict[str, int],
        lost: dict[str, int],
    ) -> None:
        self.marked = marked
        self.keeps_headings = keeps_headings
        self.is_literal = False  # pushed text is not cleaned up
        self.has_literal = False  # the item has text that is not cleaned up
        self.gap_end = 0  # size of the item where a separator was pushed directly behind a gap
        self.literal_end = 0  # the same where text began or ended that is not cleaned up
        self.language = language
        self.dropped = dropped
        self.holes = Holes(keeps_holes, lost)  # the next visible character settles them
        self.has_hole = False  # the item has marks of holes
        self.out = Buffer(self.marked.size + 64)  # the paragraph so far
        self.floor = 0  # start of the present item in it; nothing before it is ever removed
        self.kind = CLOSED  # mark of the open paragraph, a space for prose
        self.level = 0  # level of a heading
        self.pending = NOTHING
        self.eaten = CLOSED  # the leftover character whose repetitions are dropped
        self.may_compose = False  # the paragraph may need Unicode normalization
        self.has_angle = False  # the item may contain <ref
        self.found: list[str] = []
        self.levels: dict[int, int] = {}  # levels of the headings, by index

    def all(self) -> list[str]:
        """Return the paragraphs in order, none empty."""
        data = self.marked.data
        size = self.marked.size
        start = 0
        is_apart = True
        while start < size:
            end = self.marked.find("\n", start, size)
            first = start
            while first < end and data[first] in " \t\x01\x02":  # DROPPED, SOUND
                first += 1
            if holds_word(self.marked, first, end) or (
                self.kind == PREFORMATTED and first < end and data[first] == PREFORMATTED
            ):
                is_apart = self._line(start, first, end, is_apart)
            elif self._goes_on() and holds_hole(self.marked, start, end):
                self.pending |= WHITE
                self._add(start, end)
            else:
                self.holes.count_line(self.marked, start, end)
                is_apart = True
            start = end + 1
        self._end()
        return without_empty_sections(self.found, self.levels) if self.levels else self.found

    def _goes_on(self) -> bool:
        """Return whether the open paragraph is prose whose last sentence has not ended."""
        return self.kind == " " and (self._last().isalnum() or is_separator(self._last()))

    def _line(self, start: int, first: int, end: int, is_apart: bool) -> bool:
        """Add a line with the first visible character ``first``; return whether the next line is separate from it."""
        data = self.marked.data
        mark = data[first]
        if mark == HEADING:
            self._end()
            self.level = int(data[first + 1])
            self._begin(HEADING)
            self._add(first + 2, end)
            self._end()
            return True
        if mark == SPACE:
            self._end()
            self._begin(SPACE)
            self._add_code(first + 1, end)
            self._end()
            return True
        kind = mark if mark in (ITEM, INDENT, ROW, PREFORMATTED) else " "
        if is_apart or kind == INDENT or kind != self.kind:
            self._end()
            self._begin(kind)
        elif kind == " ":
            self.pending |= WHITE
        else:
            self._end_item()
            self._begin_item(kind)
        self._add(start if kind == " " else first + 1, end)
        return False

    def _begin(self, kind: str) -> None:
        self.kind = kind
        self.out.truncate(0)
        self.may_compose = False
        self._begin_item(kind)

    def _begin_item(self, kind: str) -> None:
        if self.out.size:
            self.out.push("\n")
        if kind == ITEM:
            self.out.push("-")
            self.out.push(" ")
        self.floor = self.out.size
        self.pending = NOTHING
        self.has_angle = False
        self.has_hole = self.is_literal = self.has_literal = False
        self.gap_end = self.literal_end = -1

    def _end_item(self) -> None:
        """Close the item. Drop an item without a word, with its dash and its line break, but keep a line of code."""
        out = self.out
        if self.holes.mark != CLOSED:
            self._settle_holes("\n")
        while self.pending & GAP and out.size > self.floor and is_separator(self._last()):
            out.truncate(out.size - 1)
        if self.has_hole:
            item = out.text(self.floor, out.size)
            text = without_incomplete_sentences(item, self.language, self.dropped, self.holes.lost)
            out.truncate(self.floor)
            out.write(text)
        while out.size > self.floor and out.data[out.size - 1] in " \n":
            out.truncate(out.size - 1)
        if self.has_angle and not self.has_literal:
            text = without_ref_tags(out.text(self.floor, out.size))
            out.truncate(self.floor)
            out.write(text)
        if not holds_word(out, self.floor, out.size) and (self.kind != PREFORMATTED or out.size == self.floor):
            size = self.floor - 2 if self.kind == ITEM else self.floor
            out.truncate(max(size - 1, 0))

    def _end(self) -> None:
        """Close the open paragraph, if any."""
        if self.kind == CLOSED:
            return
        self._end_item()
        if self.out.size and (self.kind != HEADING or self.keeps_headings):
            text = self.out.text(0, self.out.size)
            if self.may_compose:
                text = unicodedata.normalize("NFC", text)
            if self.kind == HEADING:
                self.levels[len(self.found)] = self.level
            self.found.append(text)
        self.kind = CLOSED

    def _add_code(self, start: int, end: int) -> None:
        """Add code unchanged."""
        data = self.marked.data
        for index in range(start, end):
            character = data[index]
            self.out.push("\n" if character == BREAK else " " if character == SPACE else character)

    def _add(self, start: int, end: int) -> None:
        """Push the marked text from ``start`` to ``end``."""
        data = self.marked.data
        index = start
        while index < end:
            if is_plain(data[index]):
                run = self._run_end(index, end)
                if self.holes.mark != CLOSED:
                    self._settle_holes(data[index])
                if self.pending:
                    self._push_white()
                self.out.extend(self.marked, index, run)
                index = run
                continue
            character = data[index]
            index += 1
            if character == " " or is_white(character):
                self.pending |= WHITE
            elif character in (LITERAL, LITERAL_END):
                self.is_literal = character == LITERAL
                self.has_literal = self.has_literal or (not self.is_literal and self.out.size > self.literal_end)
                self.literal_end = self.out.size
            elif character == SPOKEN:
                if is_in_parenthesis(self.out, self.floor):
                    index = self._drop_transcription(index, end)
            elif character < " ":
                self._add_mark(character)
            else:
                if character >= _FIRST_COMPOSED and not "\u2010" <= character <= "\u205e":
                    self.may_compose = True
                self.has_angle = self.has_angle or character == "<"
                self._push(character)

    def _drop_transcription(self, start: int, end: int) -> int:
        """Drop a pronunciation that begins at ``start``, with its brackets or strokes, and return its end."""
        opening = self._last()
        is_enclosed = (opening == "[" or opening == "/") and not self.pending & (WHITE | NEWLINE)
        if is_enclosed:
            self._take_back()
        self._add_mark(SOUND)
        index = min(self.marked.find(SPOKEN_END, start, end) + 1, end)
        if is_enclosed and index < end and self.marked.data[index] == ("]" if opening == "[" else "/"):
            index += 1
        return index

    def _run_end(self, start: int, end: int) -> int:
        """Return the end of a run of prose that begins with a letter or digit and can be copied unchanged."""
        data = self.marked.data
        run = start + 1
        while run < end and is_prose(data[run]) and not (data[run] == data[run - 1] and data[run] == " "):
            run += 1
        return run - 1 if data[run - 1] == " " else run

    def _add_mark(self, mark: str) -> None:
        if mark == DROPPED:
            self.pending |= GAP
        elif mark == BREAK:
            self.pending |= NEWLINE
        elif mark == SPACE or mark == "\t":
            self.pending |= WHITE
        elif mark == FRACTION:
            if self._last().isdigit():
                self.pending |= WHITE
        elif mark == SOUND:
            self._take_back_sound_words()
            self.holes.add(mark, False)
            self.pending |= GAP
        elif is_unknown(mark):
            self.holes.add(mark, not self.pending & (WHITE | NEWLINE))
            self.pending |= GAP

    def _settle_holes(self, following: str) -> None:
        """Push the mark of a hole if its sentence is incomplete, before ``following`` is pushed."""
        mark = self.holes.settle(self.out, self.floor, following, self.pending & (WHITE | NEWLINE) != 0)
        if mark != CLOSED:
            if self.pending:
                self._push_white()
            self.out.push(mark)
            self.has_hole = True

    def _last(self) -> str:
        """Return the last character of the item, or a line break."""
        return self.out.data[self.out.size - 1] if self.out.size > self.floor else "\n"

    def _push(self, character: str) -> None:
        """Append a visible character, unless it and the characters before it are leftovers of dropped markup."""
        if self.holes.mark != CLOSED:
            self._settle_holes(character)
        last = self._last()
        is_behind_gap = self.pending & GAP != 0 or self.out.size == self.gap_end
        if self.is_literal:
            pass
        elif is_closing(character):
            if self._close_parenthesis(is_behind_gap):
                return
        elif is_separator(character) or character in ".:：。":
            if self.pending & GAP:
                if last == "\n" and self.out.size == self.floor:
                    return
                if is_separator(last) or last in ":：" or (character == last and last in ".。"):
                    self._take_back()
                    last = self._last()
                if self.language != "fr" or character not in ":;":  # French puts a space in front of them
                    self.pending &= ~WHITE
            if is_behind_gap and is_opening(last) and character not in ".。":
                return
        elif self.pending & GAP and (character == "]" or (character in "!?" and self.language != "fr")):
            self.pending &= ~WHITE
        if character in "[]{}'|" and not self.is_literal and self._is_leftover(character, last):
            return
        is_behind_gap = is_behind_gap and not self.is_literal
        if self.pending:
            self._push_white()
        self.out.push(character)
        if is_behind_gap and (is_separator(character) or character in ":："):
            self.gap_end = self.out.size

    def _push_white(self) -> None:
        """Append the pending white space, unless dropped markup or a line break put it behind an opening bracket."""
        if self.pending & (GAP | NEWLINE) and is_opening(self._last()):
            self.pending = NOTHING
        elif self.out.size > self.floor:
            if self.pending & NEWLINE:
                self._trim()
                if self._last() != "\n":
                    self.out.push("\n")
            elif self.pending & WHITE and self._last() not in " \n":
                self.out.push(" ")
        self.pending = NOTHING

    def _trim(self) -> None:
        while self.out.size > self.floor and self.out.data[self.out.size - 1] == " ":
            self.out.truncate(self.out.size - 1)

    def _take_back(self) -> None:
        """Remove the last character; white space before it becomes pending again, and a gap is left."""
        self.out.truncate(self.out.size - 1)
        last = self._last()
        if last == " ":
            self._trim()
            self.pending |= WHITE
        elif last == "\n" and self.out.size > self.floor:
            self.out.truncate(self.out.size - 1)
            self.pending |= NEWLINE
        self.pending |= GAP

    def _close_parenthesis(self, is_behind_gap: bool) -> bool:
        """Remove separators left by a gap, and a pair that a gap has emptied; return whether the pair was removed.

        A pair that is empty in the source stays: ``main()``. The blank goes behind an open range: ``(1950 - )``.
        """
        if not is_behind_gap:
            self.pending &= ~(WHITE | NEWLINE) if self._last() in _DASHES else ~NEWLINE
            return False
        while self._last() == " " or is_separator(self._last()) or (self.pending & GAP and self._last() in ":："):
            self.out.truncate(self.out.size - 1)
        self.pending &= ~(WHITE | NEWLINE)
        if is_opening(self._last()):
            self._take_back()
            return True
        return False

    def _is_leftover(self, character: str, last: str) -> bool:
        """Return whether the character belongs to double brackets, braces or quotes left by broken markup."""
        if character == "]" and last == "[" and self.pending & GAP:
            self._take_back()
            return True
        if self.pending & (WHITE | NEWLINE) or self.out.size == self.literal_end:
            return False
        if self.pending & EATING and character == self.eaten:
            return True
        if (character == last and character != "|") or (character == "|" and last == "{"):
            self._take_back()
            self.eaten = character
            self.pending |= EATING
            return True
        return False

    def _take_back_sound_words(self) -> None:
        """Remove the words that introduce a dropped pronunciation: ``(pronounced ◌, born 1950)``."""
        out = self.out
        start = max(out.size - _LONGEST_SOUND_WORDS, self.floor)
        tail = out.text(start, out.size)
        kept = without_sound_words(tail + " " if self.pending & WHITE else tail)
        if len(kept) < len(tail):
            out.truncate(start + len(kept))
            self._trim()
            self.pending |= WHITE if kept.endswith(" ") else NOTHING
