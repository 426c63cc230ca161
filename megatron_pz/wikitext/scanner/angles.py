"""Scan constructs that begin with ``<``: comments, HTML tags and extension tags."""

from __future__ import annotations

import html

from megatron_pz.wikitext import tags
from megatron_pz.wikitext.marks import (
    BREAK,
    DROPPED,
    INVISIBLE,
    ITEM,
    LITERAL,
    LITERAL_END,
    LOST,
    OMITTED,
    PARAGRAPH,
    SOUND,
    SPACE,
)
from megatron_pz.wikitext.templates.parameters import RAISED_NUMERATOR, fraction_of, lowered, raised

from .characters import is_letter
from .frames import GALLERY, TAG
from .state import Scan

_LONGEST_BROKEN_REF = 300
_SHORTEST_HIDING = len("display:none")


def angle(scan: Scan) -> None:
    """Scan from a ``<`` at the position."""
    data = scan.source.data
    start = scan.position
    if scan.follows(start + 1, "!", "-") and scan.follows(start + 2, "-", "-"):
        _comment(scan)
        return
    if scan.is_word(start + 1, "ref") and _reference(scan):
        return
    closing = start + 1 < scan.end and data[start + 1] == "/"
    name_start = start + 2 if closing else start + 1
    name_end = name_start
    while name_end < scan.end and (is_letter(data[name_end]) or "0" <= data[name_end] <= "9"):
        name_end += 1
    end = name_end
    if name_end > name_start and is_letter(data[name_start]) and name_end < scan.end and data[name_end] in "> \t\n/":
        while end < scan.end and data[end] != ">" and data[end] != "<":
            end += 1
    else:
        end = scan.end
    name = scan.source.text(name_start, name_end).lower()
    if end < scan.end and data[end] == ">":
        scan.position = end + 1
        if not _tag(scan, name, closing, not closing and data[end - 1] == "/", name_end, end):
            scan.position = start
            scan.emit("<", 1)  # not HTML: text such as <stdio.h>
    elif name in ("ref", "references"):
        end = name_end
        last = min(scan.end, start + _LONGEST_BROKEN_REF)
        while end < last and data[end] != ">":
            end += 1
        scan.position = end + 1 if end < last else name_end
    elif scan.frames.dropping:
        scan.position += 1
    else:
        scan.emit("<", 1)


def _reference(scan: Scan) -> bool:
    """Drop a ``<ref …>`` at the position with its content; return False if it is another tag, or broken."""
    data = scan.source.data
    end = scan.position + len("<ref")
    if end >= scan.end or data[end] not in "> \t\n/":
        return False
    while end < scan.end and data[end] != ">" and data[end] != "<":
        end += 1
    if end >= scan.end or data[end] != ">":
        return False
    start = scan.position
    scan.position = end + 1
    is_closed = data[end - 1] == "/"
    if not is_closed and scan.find_closing_ref() and scan.closing_start <= scan.heading_after(scan.position):
        scan.position = scan.closing_end
        is_closed = True
    if not is_closed:  # the note ends at the end of the line or at a heading
        scan.position = scan.line_end(scan.position)
    if scan.frames.dropping:
        return True
    if is_closed:
        scan.out.push(DROPPED)
    elif _is_in_item(scan, start):
        _attach_lost(scan)
    else:
        scan.out.write(f" {LOST}")  # the rest of the sentence may be in it, also directly behind a word
    return True


def _attach_lost(scan: Scan) -> None:
    """Count something as lost directly behind the text in front of it, which stays."""
    while scan.frames.depth == 0 and scan.out.size and scan.out.data[scan.out.size - 1] == " ":
        scan.out.truncate(scan.out.size - 1)
    scan.out.push(LOST)


def _is_in_item(scan: Scan, position: int) -> bool:
    """Return whether the line of the position is an item of a list or a table, which may end without a full stop."""
    data = scan.source.data
    while position > 0 and data[position - 1] != "\n":
        position -= 1
    return data[position] in "*#:;|!"


def _comment(scan: Scan) -> None:
    data = scan.source.data
    start = scan.position
    scan.position = scan.comment_end()
    begins_line = start == 0 or data[start - 1] == "\n"
    if begins_line and scan.position < scan.end and data[scan.position] == "\n":  # its line is dropped with it
        scan.position += 1
        scan.at_line_start = True
    elif not scan.frames.dropping and scan.out.size and scan.out.data[scan.out.size - 1] in "([（":
        scan.out.push(DROPPED)


def _tag(scan: Scan, name: str, closing: bool, alone: bool, start: int, end: int) -> bool:
    """Apply the tag, whose attributes are in ``[start:end]``; return False if it is not a tag."""
    action = tags.ACTIONS.get(name, tags.UNKNOWN)
    frames = scan.frames
    if action == tags.OPAQUE:
        _opaque_tag(scan, name, closing or alone, start, end)
    elif frames.dropping:
        _tag_in_dropped(scan, name, closing, alone)
    elif action == tags.RAISING or (closing and frames.innermost(TAG, name) >= 0):
        _framed_tag(scan, name, closing, alone)
    elif not (closing or alone) and (name == "table" or _is_hidden(scan, start, end)):
        frames.push(TAG, True).name = name
    elif action == tags.BREAKING:
        scan.out.write(BREAK)
    elif action == tags.PARTING or action == tags.VERSE:
        scan.out.write(PARAGRAPH)
        scan.is_verse = action == tags.VERSE and not closing and not alone and scan.find_closing_tag(name)
    elif action == tags.ENCLOSING:
        if closing or (not alone and scan.find_closing_tag(name)):
            scan.out.push(tags.ENCLOSED[name][closing])
    elif action == tags.LISTING:
        scan.out.write("\n" if closing else f"\n{ITEM}")
    else:
        return action == tags.INLINE
    return True


def _is_hidden(scan: Scan, start: int, end: int) -> bool:
    """Return whether the attributes in ``[start:end]`` hide the content."""
    return end - start > _SHORTEST_HIDING and tags.HIDDEN.search(scan.source.text(start, end)) is not None


def _opaque_tag(scan: Scan, name: str, alone: bool, attributes_start: int, attributes_end: int) -> None:
    """Drop a tag whose content is not wikitext, or keep the content unchanged."""
    content_start = scan.position
    if name == "gallery" and scan.keeps_galleries and not scan.frames.dropping:
        _gallery(scan, alone)
        return
    begin = content_start
    if not alone:
        scan.find_closing_tag(name)
        begin = scan.closing_start
        scan.position = scan.closing_end
    if scan.frames.dropping:
        return
    if name == "nowiki":
        text = _unescaped(scan, content_start, begin)
        scan.count_brackets(text)
        is_end = scan.source.data[attributes_start - len(name) - 1] == "/"
        if text:
            _literal(scan, text)
        elif not is_end:
            scan.out.write(f"{LITERAL}{LITERAL_END}")
    elif name in tags.MATH_TAGS:
        formula = " ".join(_unescaped(scan, content_start, begin).split())
        if scan.keeps_math:
            _literal(scan, formula)
        else:
            scan.out.push(OMITTED)
    elif name in tags.LOSING_TAGS:
        scan.out.push(LOST)
    elif name == "phonos":
        scan.out.push(SOUND)
    elif name in tags.CODE_TAGS and tags.IN_LINE.search(scan.source.text(attributes_start, attributes_end)):
        _literal(scan, " ".join(_unescaped(scan, content_start, begin).split()))
    elif scan.keeps_code and name in tags.CODE_TAGS:
        code = _unescaped(scan, content_start, begin).strip("\n").replace(" ", SPACE).replace("\n", BREAK)
        scan.out.write(f"{PARAGRAPH}{SPACE}{code}{PARAGRAPH}")
    else:
        scan.out.write(PARAGRAPH if name in tags.CODE_TAGS or name in tags.BLOCK_TAGS else DROPPED)


def _literal(scan: Scan, text: str) -> None:
    """Emit text that is not cleaned up; its lines are lines of the page."""
    if text:
        broken = text.replace("\n", f"{LITERAL_END}\n{LITERAL}")
        scan.out.write(f"{LITERAL}{broken}{LITERAL_END}")


def _unescaped(scan: Scan, start: int, end: int) -> str:
    return INVISIBLE.sub("", html.unescape(scan.source.text(start, end)))


def _gallery(scan: Scan, alone: bool) -> None:
    """Turn a gallery's captions into list items; :func:`~megatron_pz.wikitext.scanner.lines.begin_line` drops files."""
    if alone:
        return
    scan.out.write(PARAGRAPH)
    scan.frames.push(GALLERY).name = "gallery"
    scan.at_line_start = True


def _tag_in_dropped(scan: Scan, name: str, closing: bool, alone: bool) -> None:
    frame = scan.frames.top()
    if frame.kind != TAG or frame.name != name or alone:
        return
    if not closing:
        frame.nested += 1
    elif frame.nested:
        frame.nested -= 1
    else:
        scan.frames.close(PARAGRAPH if name == "table" else DROPPED)


def _framed_tag(scan: Scan, name: str, closing: bool, alone: bool) -> None:
    """Open or close raised, lowered and hidden text."""
    frames = scan.frames
    if not closing:
        if not alone:
            frames.push(TAG).name = name
        return
    depth = frames.innermost(TAG, name)
    if depth >= 0:
        frames.abandon_from(depth + 1)
        content, before = frames.content(), frames.before()
        numerator = _numerator(before) if name == "sub" and content.isdecimal() else ""
        if numerator:
            frames.close("")
            scan.out.truncate(scan.out.size - len(numerator))
            scan.out.write(fraction_of(numerator, content))
        else:
            frames.close(raised(before, content) if name == "sup" else lowered(before, content))


def _numerator(before: str) -> str:
    """Return the raised digits and the stroke at the end of ``before``: ``<sup>1</sup>/<sub>2</sub>``."""
    found = RAISED_NUMERATOR.search(before) if before.endswith(("/", "⁄")) else None
    return found[0] if found else ""
