"""Drop sections that close an article (references, links, literature), recognized by heading and content."""

from __future__ import annotations

from megatron_pz.wikitext.marks import HEADING, INDENT, ITEM, ROW
from megatron_pz.wikitext.sections import is_citation

from .buffer import Buffer
from .state import Scan

_SHORTEST_PROSE = 20
"""Characters of a line that may be prose."""
_DEEPEST = 6
_LEAST_PROSE = 25
"""Letters that make a closing section worth a look: "See also the notes above" has fewer."""
_FIRST_WIDE = "\u2e80"
_LETTERS_OF_A_WIDE_SIGN = 3
"""One Chinese or Japanese sign says about as much as three letters of an alphabet."""


def section_end(scan: Scan, level: int) -> int:
    """Return the start, after a line break, of the next heading of this or a higher level, or the source's size."""
    data = scan.source.data
    index = scan.position
    while index < scan.size:
        index = scan.line_end(index)
        signs = index + 1
        while signs < scan.size and data[signs] == "=":
            signs += 1
        if index + 1 < signs <= index + 1 + level:
            closing = signs
            while closing < scan.size and data[closing] != "\n" and data[closing] != "=":
                closing += 1
            if closing < scan.size and data[closing] == "=":
                break
        index += 1
    return min(index, scan.size)


def may_hold_prose(scan: Scan, end: int) -> bool:
    """Return whether a line up to ``end`` looks like prose: neither a list nor a template, table or link."""
    data = scan.source.data
    index = scan.position
    while index < end:
        line_end = min(scan.line_end(index), end)
        start = scan.after_blanks(index)
        if line_end - start >= _SHORTEST_PROSE and data[start] not in "*#:;{|}!<=-":
            if data[start] != "[":
                return True
            if not scan.follows(start, "[", "["):  # [http://… label]
                index = line_end + 1
                continue
            link_end = scan.source.find("]", start, line_end)
            if link_end + 2 < line_end:
                return True
        index = line_end + 1
    return False


def begin_closing_section(scan: Scan, level: int) -> None:
    """Record that a closing section of this level begins in the output."""
    scan.closing_sections[level] = scan.out.size


def end_closing_sections(scan: Scan, level: int) -> None:
    """Drop the closing sections of this and deeper levels that have ended, unless they turned out to be prose."""
    deeper = _DEEPEST
    while deeper >= level:
        start = scan.closing_sections[deeper]
        if start >= 0:
            scan.closing_sections[deeper] = -1
            if start < scan.out.size and _is_apparatus(scan.out, start):
                scan.out.truncate(start)
        deeper -= 1


def _is_apparatus(out: Buffer, start: int) -> bool:
    """Return whether the output from ``start`` on holds lists and references rather than prose.

    This is so if lists and lines that look like citations have more letters than prose. Citations are matched by a slow
    pattern, in the longest lines first, and only until they cannot change the answer.
    """
    data = out.data
    prose = listed = 0
    lines: list[tuple[int, int, int]] = []
    while start < out.size:
        end = out.find("\n", start, out.size)
        while start < end and data[start] in " \t\x01\x02":  # DROPPED, SOUND
            start += 1
        if start < end and data[start] != HEADING:
            letters = _letters(out, start, end)
            if data[start] in (ITEM, INDENT, ROW):
                listed += letters
            else:
                prose += letters
                lines.append((-letters, start, end))
        start = end + 1
    lines.sort()
    certain = 0  # letters of the lines that are not citations
    for letters, start, end in lines:
        if prose < _LEAST_PROSE or prose <= listed:
            return True
        if certain >= _LEAST_PROSE and certain > listed + prose - certain:
            return False
        if is_citation(out.text(start, end)):
            prose += letters
            listed -= letters
        else:
            certain -= letters
    return prose < _LEAST_PROSE or prose <= listed


def _letters(out: Buffer, start: int, end: int) -> int:
    data = out.data
    letters = 0
    while start < end:
        if data[start].isalnum():
            letters += _LETTERS_OF_A_WIDE_SIGN if data[start] >= _FIRST_WIDE else 1
        start += 1
    return letters
