"""Detect holes: places where a word was lost, because a template or an element was not understood."""

from __future__ import annotations

from megatron_pz.wikitext.marks import SOUND, UNREAD

from .buffer import Buffer
from .characters import is_closing, is_opening, is_separator

_ENDS = ".!?…。！？｡।॥؟۔։።፧។៕။།"
_CLOSERS = ")）］〕】]\"'”’»›」』"
_SIGNS = "$£€¥₹₩#=~≈<>+−±×/*-–—"
"""Signs behind which a word must stand."""
_PREFIXES = "وفبلكובלכמשה"
"""Arabic and Hebrew words of one letter: and, in, to, like."""
_LONGEST_PARENTHESIS = 2000
_FIRST_UNSPACED = "\u1100"
"""Most scripts from here on put no space between words, so a word may have been lost directly behind another one."""


def is_hole(out: Buffer, floor: int, mark: str, following: str, is_spaced: bool, is_attached: bool) -> bool:
    """Return whether the sentence lacks a word because of a construct dropped between the output and ``following``.

    The sentence is complete if the dropped construct was a note or a whole part of a parenthesis: directly after a word
    or the sentence's end and before a space or punctuation, or between the separators of a parenthesis. A template that
    is known to show text is not a note: after a word, it was a part of that word.

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
    if following == "\n" and (last == "\n" or last in _ENDS or last in _CLOSERS):
        return False
    if is_opening(last) and ends_part:
        return False
    if mark == SOUND:
        if is_separator(last) and (following == "." or ends_part):
            return False
        begins_part = is_opening(last) or is_separator(last) or last == ":"
        if (begins_part or ends_part) and is_in_parenthesis(out, floor):
            return False
    if is_separator(last) and ends_part and is_in_parenthesis(out, floor):
        return False
    if _is_prefix(out, floor) or (is_attached and last == ":" and _is_ratio(out, floor)):
        return True
    if mark == UNREAD and is_attached and last.isalnum():
        return True
    if (
        not is_attached
        or last == "\n"
        or last >= _FIRST_UNSPACED
        or last.isdigit()
        or is_opening(last)
        or last in _SIGNS
    ):
        return True
    return not (is_spaced or ends_part or following in ":]\n：" or following in _ENDS)


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
        if "\x10" <= data[start] <= "\x13":  # UNKNOWN … LOST
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
