"""Control characters that the scanner leaves in its text for the clean-up to act on.

XML 1.0 forbids them in a dump, and the scanner removes them from any other input, so they cannot be confused with text.
"""

from __future__ import annotations

import re
from typing import Final

DROPPED = "\x01"
"""Something that shows nothing stood here: punctuation around it may be left over."""
SOUND = "\x02"
"""A pronunciation was dropped: the words that introduce it go, too."""
SPOKEN = "\x18"
"""A pronunciation begins: its text is shown between words, and goes like :data:`SOUND` in parentheses."""
SPOKEN_END = "\x16"
"""The pronunciation ends whose text began at :data:`SPOKEN`."""
ITEM = "\x03"
"""A list item begins (at the start of a line)."""
INDENT = "\x04"
"""An indented line or a definition begins (at the start of a line)."""
PREFORMATTED = "\x19"
"""A line that begins with a space (at the start of a line): MediaWiki shows it as it stands, apart from the prose."""
BREAK = "\x05"
"""A line break inside a paragraph."""
HEADING = "\x06"
"""A heading (at the start of a line); the next character is its level as a digit."""
SPACE = "\x07"
"""A space that must not be merged with others (code)."""
ROW = "\x08"
"""A row of a kept table or infobox begins (at the start of a line)."""
CELL = "\x0e"
"""A cell of a kept table begins; gone once the table has ended."""
HEADER = "\x0f"
"""Directly after :data:`CELL`: the cell is a header."""
UNKNOWN = "\x10"
"""A template that no table knows vanished here: where words stand around it, the sentence is not whole."""
UNREAD = "\x11"
"""A template vanished here whose arguments were not understood: the same."""
OMITTED = "\x12"
"""A formula vanished here that the options drop: the same."""
LOST = "\x13"
"""Something else with words vanished here, such as a score or a hieroglyph: the same."""
FRACTION = "\x17"
"""A fraction begins: a number in front of it is a whole number, so a space goes between them."""
LITERAL = "\x14"
"""Text begins that is not cleaned up: what looks like markup in it is meant."""
LITERAL_END = "\x15"
"""Text ends that is not cleaned up."""
HOLES: Final = {
    UNKNOWN: "unknown_template",
    UNREAD: "unread_arguments",
    OMITTED: "dropped_formula",
    LOST: "unknown_element",
    SOUND: "pronunciation",
}
"""The marks that make a sentence incomplete, and the names that its reason is counted under."""
PLACES: Final = ("between_words", "in_parentheses", "behind_words", "as_list_items", "on_lines_of_their_own")
"""Places where something vanished, and the names that it is counted under unless its sentence is dropped.

A sentence that lost something between words is dropped, unless an option keeps it. In parentheses, a whole parenthesis
or a part between its separators vanished. Directly behind a word or a sentence stand notes. A list item, a definition
or a table's row vanished as a whole. Templates on lines of their own are mostly hatnotes and navigation bars.
"""
PARAGRAPH = "\n\n"
"""A paragraph ends and another begins."""

INVISIBLE = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x84\x86-\x9f\u00ad\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff"
    r"\ufff9-\ufffc\ufffe\uffff]"
)
"""Control and format characters that no text needs, these marks among them. (Joiners matter in some scripts.)"""
MARKS = re.compile(r"[\x01-\x08\x0e-\x19]")
"""All of the marks above."""
IN_ONE_LINE = {ord(mark): " " for mark in f"{ITEM}{INDENT}{BREAK}{HEADING}{ROW}{HEADER}{PREFORMATTED}"}
"""To translate the marks that part lines into spaces, where everything has to stand in one line."""
