"""Classify holes: places where a template or an element vanished because it was not understood."""

from __future__ import annotations

from megatron_pz.wikitext.marks import HOLES, INDENT, ITEM, PLACES, ROW, SOUND, UNREAD

from .buffer import Buffer
from .characters import is_closing, is_opening, is_separator

BETWEEN_WORDS, IN_PARENTHESIS, BEHIND_WORD, WHOLE_ITEM, WHOLE_LINE = range(5)  # places of a hole, as in PLACES
CLOSED = "\0"
_ENDS = ".!?…。！？｡।॥؟۔։።፧។៕။།"
_CLOSERS = ")）］〕】]\"'”’»›」』"
_SIGNS = "$£€¥₹₩#=~≈<>+−±×/*-–—"
"""Signs behind which a word must stand."""
_PREFIXES = "وفبلكובלכמשה"
"""Arabic and Hebrew words of one letter: and, in, to, like."""
_LONGEST_PARENTHESIS = 2000
_FIRST_UNSPACED = "\u1100"
"""Most scripts from here on put no space between words, so a word may have been lost directly behind another one."""


class Holes:
    """The constructs that vanished since the last visible character, and the counts of those that cost no sentence.

    Args:
        keeps: Sentences that lost a word stay.
        lost: Receives the number of constructs that vanished from text that stays, by place and reason.
    """

    def __init__(self, keeps: bool, lost: dict[str, int]) -> None:
        self.keeps = keeps
        self.lost = lost
        self.mark = CLOSED  # mark of the hole, if there is one
        self.is_attached = False  # the hole directly follows the text in front of it
        self.vanished: list[str] = []  # marks of the constructs

    def add(self, mark: str, is_attached: bool) -> None:
        """Add a construct. Anything unknown next to a pronunciation is the hole, because a pronunciation may go."""
        if self.mark == CLOSED:
            self.is_attached = is_attached
        if self.mark == CLOSED or self.mark == SOUND:
            self.mark = mark
        self.vanished.append(mark)

    def settle(self, out: Buffer, floor: int, following: str, is_spaced: bool) -> str:
        """Return the mark of the hole if its sentence has to go, otherwise :data:`CLOSED`; no hole is left.

        The arguments are those of :func:`place_of_hole`.
        """
        mark = self.mark
        place = place_of_hole(out, floor, mark, following, is_spaced, self.is_attached)
        if place != BETWEEN_WORDS or self.keeps:
            for vanished in self.vanished:
                self._count(vanished, place)
            mark = CLOSED
        self.vanished.clear()
        self.mark = CLOSED
        return mark

    def count_line(self, text: Buffer, start: int, end: int) -> None:
        """Count the constructs of the line ``text[start:end]``, which vanishes as a whole."""
        place = WHOLE_LINE
        while start < end:
            if text.data[start] in (ITEM, INDENT, ROW):
                place = WHOLE_ITEM
            elif is_unknown(text.data[start]):
                self._count(text.data[start], place)
            start += 1

    def _count(self, mark: str, place: int) -> None:
        """Count a construct. A pronunciation is lost only between words; elsewhere it goes on purpose."""
        if mark != SOUND or place == BETWEEN_WORDS:
            name = f"{PLACES[place]}_{HOLES[mark]}"
            self.lost[name] = self.lost.get(name, 0) + 1


def is_unknown(character: str) -> bool:
    """Return whether the character is the mark of a lost word other than a pronunciation."""
    return "\x10" <= character <= "\x13"  # UNKNOWN … LOST


def place_of_hole(out: Buffer, floor: int, mark: str, following: str, is_spaced: bool, is_attached: bool) -> int:
    """Return the place of a construct dropped between the output and ``following``, an index of ``PLACES``.

    Between words, the sentence lacks one. It is complete without a note or a whole part of a parenthesis: directly
    after a word or the sentence's end and before a space or punctuation, or between the separators of a parenthesis.
    A template that is known to show text is not a note: after a word, it was a part of that word.

    Args:
        out: The paragraph so far.
        floor: Start of the present item in ``out``.
        mark: Mark of the hole.
        following: The next visible character, or a line break at the item's end.
        is_spaced: White space precedes ``following``.
        is_attached: The hole directly follows the text in front of it.
    """
    last = out.data[out.size - 1] if out.size > floor else "\n"
    ends_part = is_separator(following) or is_closing(following)
    if following == "\n" and last == "\n":
        return WHOLE_ITEM
    if following == "\n" and (last in _ENDS or last in _CLOSERS):
        return BEHIND_WORD
    if is_opening(last) and ends_part:
        return IN_PARENTHESIS
    if mark == SOUND:
        if is_separator(last) and (following == "." or ends_part):
            return BEHIND_WORD
        begins_part = is_opening(last) or is_separator(last) or last == ":"
        if (begins_part or ends_part) and is_in_parenthesis(out, floor):
            return IN_PARENTHESIS
    if is_separator(last) and ends_part and is_in_parenthesis(out, floor):
        return IN_PARENTHESIS
    if _is_prefix(out, floor) or (is_attached and last == ":" and _is_ratio(out, floor)):
        return BETWEEN_WORDS
    if mark == UNREAD and is_attached and last.isalnum():
        return BETWEEN_WORDS
    if (
        not is_attached
        or last == "\n"
        or last >= _FIRST_UNSPACED
        or last.isdigit()
        or is_opening(last)
        or last in _SIGNS
    ):
        return BETWEEN_WORDS
    if not (is_spaced or ends_part or following in ":]\n：" or following in _ENDS):
        return BETWEEN_WORDS
    return IN_PARENTHESIS if last == "[" else BEHIND_WORD


def _is_prefix(out: Buffer, floor: int) -> bool:
    """Return whether the output ends in a word of one letter that is joined to the next word."""
    last = out.size - 1
    if last < floor or out.data[last] not in _PREFIXES:
        return False
    return last == floor or not out.data[last - 1].isalnum()


def _is_ratio(out: Buffer, floor: int) -> bool:
    """Return whether a digit precedes the output's last character."""
    return out.size > floor + 1 and out.data[out.size - 2].isdigit()


def is_in_parenthesis(out: Buffer, floor: int) -> bool:
    """Return whether a parenthesis was opened recently in the item that begins at ``floor``, and is still open."""
    data = out.data
    first = max(floor, out.size - _LONGEST_PARENTHESIS)
    index = out.size - 1
    depth = 0
    while index >= first:
        if is_closing(data[index]):
            depth += 1
        elif is_opening(data[index]):
            if depth == 0:
                return True
            depth -= 1
        index -= 1
    return False


def holds_hole(text: Buffer, start: int, end: int) -> bool:
    """Return whether ``text[start:end]`` contains the mark of a lost word other than a pronunciation."""
    data = text.data
    while start < end:
        if is_unknown(data[start]):
            return True
        start += 1
    return False


def holds_word(text: Buffer, start: int, end: int) -> bool:
    """Return whether ``text[start:end]`` contains a letter, a digit or an underscore."""
    data = text.data
    while start < end:
        character = data[start]
        if character > " " and (character.isalnum() or character == "_"):
            return True
        start += 1
    return False
