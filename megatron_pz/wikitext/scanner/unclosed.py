"""Handle templates without ``}}``, so that only their beginning is lost and not the text after it.

MediaWiki shows such braces unchanged. Which of a section's braces are unclosed is known only at the section's end. The
scan then goes back to the first of them, once per section, and reads it as text. A template that begins a block of
parameters loses its first line (the lines with parameters are dropped like the rows of a table without a beginning). A
template inside a sentence loses its name, and the sentence counts as incomplete.
"""

from __future__ import annotations

from megatron_pz.wikitext.marks import UNREAD

from .frames import TEMPLATE
from .state import Scan

_LONGEST_NAME_BEFORE_BAR = 100


def go_back_to_unclosed(scan: Scan) -> bool:
    """Go back to the outermost open template at the end of a section or page; return whether there is one."""
    frames = scan.frames
    if scan.position <= scan.gone_back_from:
        return False
    depth = 0
    while True:
        if depth == frames.depth:
            return False
        frame = frames.stack[depth]
        if frame.kind == TEMPLATE:
            break
        depth += 1
    begin, size = frame.source_start, frame.start
    scan.unclosed = _unclosed_braces(scan, begin)
    scan.gone_back_from = scan.position
    frames.abandon_from(depth)
    scan.out.truncate(size)
    scan.forget_searches()
    scan.position = begin
    return True


def _unclosed_braces(scan: Scan, begin: int) -> set[int]:
    """Return the positions of the unclosed double braces from ``begin`` to the scan's position."""
    data = scan.source.data
    opened = [begin]
    index = begin + 2
    while index < scan.position:
        character = data[index]
        if character != "{" and character != "}":
            index += 1
            continue
        run = index
        while run < scan.position and data[run] == character:
            run += 1
        pairs = (run - index) // 2
        if character == "{":
            opened.extend(index + 2 * pair for pair in range(pairs))
        else:
            del opened[max(len(opened) - pairs, 1) :]
        index = run
    return set(opened)


def skip_unclosed(scan: Scan) -> None:
    """Skip the text that belongs to the unclosed ``{{`` at the position and to others directly after it."""
    data = scan.source.data
    start = scan.position
    begins_line = start == 0 or data[start - 1] == "\n"
    while start + 2 in scan.unclosed:
        start += 2
    bar = start + 2
    last = min(scan.end, bar + _LONGEST_NAME_BEFORE_BAR)
    while bar < last and data[bar] not in "|{}[]<\n":
        bar += 1
    scan.position = start + 2
    if begins_line:
        line_end = scan.line_end(start)
        following = scan.after_blanks(line_end + 1)
        if bar == line_end or (following < scan.size and data[following] in "|}"):
            scan.position = line_end
            return
    scan.out.write(UNREAD)
    if bar < last and data[bar] == "|":
        scan.position = bar + 1
