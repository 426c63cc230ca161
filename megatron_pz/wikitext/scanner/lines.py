"""Scan constructs at the beginning and the end of a line: paragraphs, list items, headings, tables."""

from __future__ import annotations

import re

from megatron_pz.wikitext.marks import BREAK, HEADING, HOLES, INDENT, ITEM, MARKS, PARAGRAPH, PREFORMATTED, UNREAD
from megatron_pz.wikitext.sections import is_closing_heading

from .closing import begin_closing_section, end_closing_sections, may_hold_prose, section_end
from .frames import EXTERNAL, GALLERY, LINK, NONE, TABLE, TAG, TEMPLATE, VARIANT, Frame
from .state import Scan
from .tables import close_table, open_table, table_line
from .unclosed import go_back_to_unclosed

_MARKS_BUT_HOLES = re.compile(f"(?![{''.join(HOLES)}]){MARKS.pattern}")
_DEEPEST_HEADING = 6
_LONGEST_PARAGRAPH = 1000
"""Characters of a caption that are looked at behind a blank line."""


def newline(scan: Scan) -> None:
    """Scan a line break at the position."""
    frames = scan.frames
    scan.single_brackets = scan.single_braces = 0
    if not frames.dropping:
        scan.out.push(BREAK if scan.is_verse else "\n")
        if frames.kind == EXTERNAL or (frames.kind == LINK and frames.top().bar < 0):
            frames.abandon_from(frames.depth - 1)
    scan.position += 1
    following = scan.after_blanks(scan.position)
    if following < scan.end and scan.source.data[following] == "\n":
        scan.position = following
        if scan.is_verse and not frames.dropping:
            scan.out.write(PARAGRAPH)
        if frames.depth:
            was_dropping = frames.dropping
            _end_paragraph(scan)
            if was_dropping and not frames.dropping:
                scan.out.write(PARAGRAPH)
    else:
        scan.at_line_start = True


def _end_paragraph(scan: Scan) -> None:
    depth = scan.frames.depth
    while depth and _ends_with_paragraph(scan, scan.frames.stack[depth - 1]):
        depth -= 1
    scan.frames.abandon_from(depth)


def _ends_with_paragraph(scan: Scan, frame: Frame) -> bool:
    if frame.kind == TAG:
        return not (frame.dropped and frame.name in ("table", "div"))
    return frame.kind == EXTERNAL or (frame.kind == LINK and not (frame.dropped and _caption_goes_on(scan, frame)))


def _caption_goes_on(scan: Scan, frame: Frame) -> bool:
    """Return whether the brackets of a file that is not shown end not far behind a blank line, before a heading."""
    index = scan.position
    last = min(scan.end, index + _LONGEST_PARAGRAPH)
    depth = frame.nested + 1
    while index < last and not scan.follows(index, "\n", "="):
        if scan.follows(index, "[", "["):
            depth += 1
            index += 1
        elif scan.follows(index, "]", "]"):
            depth -= 1
            index += 1
            if depth == 0:
                return True
        index += 1
    return False


def begin_line(scan: Scan) -> None:
    """Scan the beginning of a line, at whose start the position is."""
    data = scan.source.data
    start = scan.after_blanks(scan.position)
    scan.at_line_start = False
    if start >= scan.end:
        return
    character = data[start]
    if data[scan.position] == " " and scan.frames.depth == 0 and not scan.is_verse and character not in "\n{|*#:;=":
        scan.out.write(PREFORMATTED)
    if is_letter_of_text(character):
        if scan.frames.kind == GALLERY:
            _gallery_line(scan)
    elif character == "=" and start == scan.position:
        _heading(scan)
    elif character in "*#:;":
        if scan.frames.depth == 0 or (scan.frames.kind in (TEMPLATE, VARIANT) and not scan.frames.dropping):
            _list_item(scan, start)
    elif character == "{" and scan.follows(start, "{", "|") and not scan.follows(start + 1, "|", "}"):
        scan.position = start
        open_table(scan)
    elif character == "|" or character == "!":
        _bar_or_mark(scan, start)
    elif (
        character == "-"
        and scan.frames.depth == 0
        and scan.follows(start + 1, "-", "-")
        and scan.follows(start + 2, "-", "-")
    ):
        scan.position = start
        scan.emit(PARAGRAPH, scan.run())


def is_letter_of_text(character: str) -> bool:
    """Return whether the character begins no markup at the start of a line; exact for all letters."""
    return character >= "A" and character != "{" and character != "|"


def _gallery_line(scan: Scan) -> None:
    """Turn ``File:a.jpg|alt=text|caption`` into an item with the caption; a name with braces is no file."""
    data = scan.source.data
    end = scan.position
    is_file = True
    is_name = True
    while end < scan.end and data[end] != "\n" and data[end] != "<":
        if is_name and data[end] == "{":
            is_file = False
        if is_file and data[end] == "|":
            is_name = False
            if not (scan.is_word(end + 1, "alt=") or scan.is_word(end + 1, "link=")):
                scan.position = end + 1
                scan.out.write(ITEM)
                return
        end += 1
    scan.position = end


def _bar_or_mark(scan: Scan, start: int) -> None:
    frames = scan.frames
    data = scan.source.data
    if frames.kind == TABLE:
        if data[start] == "|" and scan.follows(start, "|", "}"):
            scan.position = start + 2
            close_table(scan)
        elif not frames.dropping:
            scan.position = start
            table_line(scan)
    elif data[start] == "|" and frames.kind == NONE:
        scan.position = scan.line_end(start)  # a row of a table whose beginning is missing
        scan.out.push(UNREAD)


def _list_item(scan: Scan, start: int) -> None:
    data = scan.source.data
    is_item = False
    while start < scan.end and data[start] in "*#:;":
        is_item = is_item or data[start] in "*#"
        start += 1
    scan.out.write(ITEM if is_item else INDENT)
    scan.position = scan.after_blanks(start)
    if scan.follows(scan.position, "{", "|"):
        open_table(scan)


def _heading(scan: Scan) -> None:
    """Begin a heading between equals signs. Its text is scanned next, up to ``scan.end``, then :func:`end_heading`."""
    if scan.heading_level:
        return
    data = scan.source.data
    begin = scan.position
    line_end = _heading_end(scan)
    last = line_end
    while last > begin and data[last - 1] in " \t":
        last -= 1
    level = 0
    while level < _DEEPEST_HEADING and begin + level < last and data[begin + level] == "=":
        level += 1
    closing = 0
    while closing < level and data[last - 1 - closing] == "=":
        closing += 1
    level = closing
    if last - begin <= 2 * level or level < (2 if scan.frames.depth else 1):
        return
    if scan.frames.depth:
        if go_back_to_unclosed(scan):
            return
        scan.frames.abandon_from(0)
    end_closing_sections(scan, level)
    scan.is_verse = False
    scan.position = begin + level
    scan.end = last - level
    scan.heading_level = level
    scan.heading_start = scan.out.size
    scan.heading_next = line_end


def _heading_end(scan: Scan) -> int:
    """Find the end of the line at the position, or the comment after the heading's closing signs."""
    data = scan.source.data
    index = scan.position
    line_end = scan.source.find("\n", index, scan.size)
    has_text = False
    last = "="  # the last character that is neither white space nor in a comment
    while index < line_end:
        if scan.follows(index, "<", "!"):
            end = scan.source.find(">", index, line_end)
            if (has_text and last == "=") or end == line_end:
                break
            index = end
        elif data[index] != " " and data[index] != "\t":
            last = data[index]
            has_text = has_text or last != "="
        index += 1
    return index


def end_heading(scan: Scan) -> None:
    """Emit a heading whose text has been scanned, or skip the section that it begins."""
    out = scan.out
    scan.frames.abandon_from(0)
    marked = out.text(scan.heading_start, out.size)
    heading = " ".join(MARKS.sub("", marked).split())
    level = scan.heading_level
    out.truncate(scan.heading_start)
    scan.heading_level = 0
    scan.position = scan.heading_next
    scan.end = scan.size
    scan.at_line_start = False
    if is_closing_heading(heading, scan.trailing_sections):
        end = section_end(scan, level)
        if not may_hold_prose(scan, end):
            scan.position = end
            return
        begin_closing_section(scan, level)
    shown = " ".join(_MARKS_BUT_HOLES.sub("", marked).split()) if scan.keeps_headings else heading
    out.write(f"{PARAGRAPH}{HEADING}{level}{shown}{PARAGRAPH}")
