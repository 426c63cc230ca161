"""Scan tables from ``{|`` to ``|}``, which are dropped, or kept as one row per line."""

from __future__ import annotations

from megatron_pz.wikitext.marks import CELL, HEADER, IN_ONE_LINE, PARAGRAPH, ROW

from .frames import TABLE
from .state import Scan

_SEPARATOR = " | "


def open_table(scan: Scan) -> None:
    """Scan a ``{|`` at the position, at the start of a line."""
    frames = scan.frames
    if not frames.dropping:
        frames.push(TABLE, not scan.keeps_tables)
        if not frames.dropping:
            scan.out.write(ROW)
            scan.position = scan.line_end(scan.position)  # the table's attributes
            return
    elif frames.kind == TABLE:
        frame = frames.top()
        frame.nested += 1
    scan.position += 2


def begins_table(scan: Scan) -> bool:
    """Return whether ``{|`` at the position, inside a line, begins a table, as after a template's line break."""
    if not scan.follows(scan.position, "{", "|"):
        return False
    return _has_attributes(scan, scan.position + 2)


def _has_attributes(scan: Scan, position: int) -> bool:
    """Return whether a table's attributes or a line break follow."""
    start = scan.after_blanks(position)
    if start < scan.end and scan.source.data[start] == "\n":
        return True
    word = scan.source.text(start, min(start + 8, scan.end))
    return word.startswith(("class", "style", "border", "width", "align", "cell", "bgcolor", "id="))


def table_sign(scan: Scan) -> bool:
    """Scan ``{{!}}`` or a similar template at the position as the table sign that it stands for, if it is one.

    Return whether it is one. Templates write these signs because a bar would end a parameter: ``{{(!}}`` and
    ``{{{!}}`` are ``{|``, ``{{!-}}`` is ``|-``, ``{{!!}}`` is ``||`` and ``{{!)}}`` is ``|}``, as is ``{{!}}`` before a
    brace.
    """
    data = scan.source.data
    frames = scan.frames
    start = scan.position
    if start + 5 > scan.end or data[start + 2] not in "!({":
        return False
    if scan.is_word(start, "{{(!}}") or scan.is_word(start, "{{{!}}"):
        if (frames.dropping and frames.kind != TABLE) or not _may_begin_table(scan, start):
            return False
        scan.position = start + 4
        open_table(scan)
        return True
    if frames.kind != TABLE:
        if not scan.is_word(start, "{{!)}}"):
            return False
        scan.position = start + 6
        return True
    begins_line = start == 0 or data[start - 1] == "\n"
    if scan.is_word(start, "{{!)}}") or (begins_line and scan.is_word(start, "{{!}}}")):
        scan.position = start + 6
        close_table(scan)
        return True
    if frames.dropping:
        return False
    frame = frames.top()
    if scan.is_word(start, "{{!-}}"):
        scan.out.write(ROW)
        scan.position = scan.line_end(start)
    elif scan.is_word(start, "{{!!}}") or (begins_line and scan.is_word(start, "{{!}}")):
        scan.out.write(CELL)
        scan.position = start + (6 if data[start + 3] == "!" else 5)
        frame.bar = scan.out.size
    elif scan.is_word(start, "{{!}}"):
        scan.position = start + 4
        table_bar(scan)
    else:
        return False
    return True


def _may_begin_table(scan: Scan, start: int) -> bool:
    """Return whether ``{{(!}}`` or ``{{{!}}`` at ``start`` begins a line or a parameter, or attributes follow it."""
    data = scan.source.data
    before = start - 1
    while before >= 0 and data[before] in " \t:":
        before -= 1
    return before < 0 or data[before] in "\n|=}>" or _has_attributes(scan, start + len("{{(!}}"))


def close_table(scan: Scan) -> None:
    """Close the table after ``|}``."""
    frames = scan.frames
    frame = frames.top()
    if frame.nested:
        frame.nested -= 1
    elif frame.dropped:
        frames.close(PARAGRAPH)
    else:
        rows = rows_of(frames.content())
        frames.close("")
        scan.out.write(rows.translate(IN_ONE_LINE).replace("\n", " ") if frames.kind == TABLE else rows)


def table_line(scan: Scan) -> None:
    """Scan ``|`` or ``!`` at the start of a line of a kept table: a row, a caption or cells."""
    data = scan.source.data
    frame = scan.frames.top()
    start = scan.position
    if scan.follows(start, "|", "-"):
        scan.out.write(ROW)
        scan.position = scan.line_end(start)
        return
    is_caption = scan.follows(start, "|", "+")
    if is_caption:
        scan.position += 1
    if is_caption or frame.single:  # a separate row, followed by a new one
        scan.out.write(ROW)
    frame.single = is_caption
    scan.out.write(CELL + HEADER if data[start] == "!" else CELL)
    scan.position += 1
    frame.bar = scan.out.size


def table_bar(scan: Scan) -> None:
    """Scan ``|`` inside a line of a kept table: ``||`` begins a cell, and a single one ends a cell's attributes."""
    frame = scan.frames.top()
    if scan.follows(scan.position, "|", "|"):
        scan.out.write(CELL)
        scan.position += 2
        frame.bar = scan.out.size
    elif frame.bar >= 0:
        scan.out.truncate(frame.bar)
        scan.position += 1
        frame.bar = -1
    else:
        scan.emit("|", 1)


def rows_of(content: str) -> str:
    """List the rows of a table, with bars between cells and without empty rows."""
    shown = ""
    for row in content.split(ROW):
        cells = [" ".join(cell.translate(IN_ONE_LINE).split()) for cell in _cells(row)]
        if any(cells):
            shown += f"\n{ROW}{_SEPARATOR.join(cells)}"
    return f"{PARAGRAPH}{shown}{PARAGRAPH}" if shown else PARAGRAPH


def _cells(row: str) -> list[str]:
    """Split a row into cells.

    A header's line holds several between ``!!``, each with its own attributes before a ``|``.
    """
    cells: list[str] = []
    for cell in row.split(CELL)[1:]:
        if cell.startswith(HEADER):
            cells += [header.rpartition("|")[2] for header in cell[1:].split("!!")]
        else:
            cells.append(cell)
    return cells
