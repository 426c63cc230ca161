"""Scan links: ``[[target|label]]`` and ``[http://… label]``."""

from __future__ import annotations

from megatron_pz.wikitext.links import is_external, is_silent, pipe_trick
from megatron_pz.wikitext.marks import DROPPED, LITERAL, LITERAL_END, LOST, SOUND, UNKNOWN
from megatron_pz.wikitext.wiki_names import folded

from .characters import is_closing, is_opening, is_separator
from .frames import EXTERNAL, LINK, Frame
from .state import Scan

_LONGEST_PROTOCOL = 12
_LONGEST_LIST = 1000
_LONGEST_SIGN = 2
_BEFORE_WORD = (":", "：", "=", "“", "„", "«", "「")
_BEHIND_WORD = ")）.,;،؛。，；”“»」"
"""Characters around a picture that stands for a word, unless it is a part of a parenthesis or of a list."""
_SOUND_FILES = (".ogg", ".oga", ".opus", ".wav", ".mp3", ".flac", ".mid", ".midi")


def open_bracket(scan: Scan) -> None:
    """Scan one or more ``[`` at the position."""
    run = scan.run()
    frames = scan.frames
    if frames.dropping:
        if frames.kind == LINK:
            frame = frames.top()
            frame.nested += run // 2
            frame.single += run % 2
        scan.position += run
    elif run == 1:
        _open_external(scan)
    else:
        if run % 2:
            scan.single_brackets += 1
            scan.emit("[", 1)
        if frames.innermost(LINK) < 0 and _is_nested_list(scan, scan.position + 2):
            scan.single_brackets += 2
            scan.emit(f"{LITERAL}[[{LITERAL_END}", 2)
        else:
            frames.push(LINK).source_start = scan.position
            scan.position += 2


def _is_nested_list(scan: Scan, start: int) -> bool:
    """Return whether the ``[[`` before ``start`` is text, as in ``[[1, 2], [3, 4]]``: link targets have no brackets.

    Unbalanced brackets belong to a link that lost one.
    """
    data = scan.source.data
    last = min(scan.end, start + _LONGEST_LIST)
    index = start
    while index < last and data[index] not in "[]|\n":
        index += 1
    if index == last or data[index] == "|" or data[index] == "\n" or scan.follows(index, "]", "]"):
        return False
    if is_external(scan.source.text(start, min(start + _LONGEST_PROTOCOL, last))):
        return False
    depth = 2
    while index < last and depth > 0 and data[index] not in "\n<" and not scan.follows(index, "{", "{"):
        if data[index] == "[":
            depth += 1
        elif data[index] == "]":
            depth -= 1
        index += 1
    return depth == 0


def _open_external(scan: Scan) -> None:
    start = scan.position + 1
    if not is_external(scan.source.text(start, min(start + _LONGEST_PROTOCOL, scan.end))):
        scan.single_brackets += 1
        scan.emit("[", 1)
        return
    data = scan.source.data
    end = start
    while end < scan.end and data[end] not in ' \t\n[]<>"':
        end += 1
    scan.position = scan.after_blanks(end)
    scan.frames.push(EXTERNAL)


def close_bracket(scan: Scan) -> None:
    """Scan one or more ``]`` at the position."""
    frames = scan.frames
    run = scan.run()
    if frames.dropping:
        if frames.kind == LINK:
            close_dropped(scan, run)
        else:
            scan.position += run
        return
    while run > 0:
        external = frames.innermost(EXTERNAL)
        link = frames.innermost(LINK)
        if external > link:
            frames.abandon_from(external + 1)
            _close_external(scan)
            used = 1
        elif link >= 0 and run >= 2:
            frames.abandon_from(link + 1)
            _close_link(scan)
            used = 2
        else:
            matched = min(run, scan.single_brackets)  # x[y[1]]
            scan.single_brackets -= matched
            if matched:
                scan.out.write(f"{LITERAL}{']' * matched}{LITERAL_END}" if matched > 1 else "]")
                used = run if run == matched + 1 else matched  # a single one more has no partner
            else:
                used = min(run, 2)
                if used == 1:
                    scan.out.push("]")
        run -= used
        scan.position += used


def close_dropped(scan: Scan, run: int) -> None:
    """Count closing brackets of a dropped frame's own kind."""
    frame = scan.frames.top()
    if run % 2 and frame.single:  # [[File:a.jpg|thumb|[http://x y]]]
        frame.single -= 1
        run -= 1
        scan.position += 1
    pairs = run // 2
    inner = min(frame.nested, pairs)
    frame.nested -= inner
    if pairs > inner:
        end = scan.position + 2 * (inner + 1)
        scan.frames.close(
            _picture(scan, frame, end)
            if frame.kind == LINK and not frame.mark
            else hole_or_gap(scan, frame, frame.mark, end)
        )
        scan.position += 2 * (inner + 1)
    else:
        scan.position += run


def _picture(scan: Scan, frame: Frame, end: int) -> str:
    """Choose what a silent link leaves; a picture in place of a word, ``(sign: [[File:…]])``, is its sign or a hole.

    Args:
        scan: The scan.
        frame: The frame of the link.
        end: The end of the link in the source.
    """
    if not _stands_for_word(scan, end):
        return DROPPED
    name, _, options = scan.source.text(frame.source_start + 2, end - 2).partition("|")
    if folded(name.partition(":")[0]) not in scan.wiki.file_namespaces:
        return DROPPED
    if name.rstrip().casefold().endswith(_SOUND_FILES):
        return SOUND
    text = options.rpartition("|")[2].strip()  # shown to readers who see no pictures
    is_sign = 0 < len(text) <= _LONGEST_SIGN and not any(map(str.isascii, text)) and not any(map(str.isalnum, text))
    return text if is_sign else LOST


def _stands_for_word(scan: Scan, end: int) -> bool:
    """Return whether the picture that ends at ``end`` is in place of a word.

    It stands behind a sign such as a colon, or is a part of a parenthesis or a list: ``([[File:…]]; born 1950)``.
    """
    if end >= scan.end:
        return False
    following = scan.source.data[end]
    ends_part = is_closing(following) or is_separator(following)
    if not ends_part and following not in _BEHIND_WORD:
        return False
    before = scan.frames.before().rstrip(f" {DROPPED}{SOUND}{LOST}")
    last = before[-1:] or "\n"
    return before.endswith(_BEFORE_WORD) or (ends_part and (is_opening(last) or is_separator(last)))


def hole_or_gap(scan: Scan, frame: Frame, mark: str, end: int) -> str:
    """Choose the mark of a template that shows no text; an unknown template that is a separate block leaves no hole.

    A template is a block if it begins its line and spans several lines, or if bold text follows directly, as after
    boxes in front of an article's first sentence, and if no sentence goes on around it. A template that holds a
    citation is a note.

    Args:
        scan: The scan.
        frame: The frame of the template.
        mark: The mark that it leaves in running text.
        end: The end of the template in the source.
    """
    if mark != UNKNOWN:
        return mark or DROPPED
    if _holds_citation(scan, frame.source_start, end):
        return DROPPED
    data = scan.source.data
    start = frame.source_start
    while start > 0 and (data[start - 1] == " " or data[start - 1] == "\t"):
        start -= 1
    if start > 0 and data[start - 1] != "\n" and data[start - 1] != "}":
        return mark
    if _goes_on(scan, start, end):
        return mark
    is_followed_by_bold = scan.follows(end, "'", "'") and scan.follows(end + 1, "'", "'")
    if is_followed_by_bold or scan.source.find("\n", frame.source_start, end) < end:
        return DROPPED
    return mark


def _goes_on(scan: Scan, start: int, end: int) -> bool:
    """Return whether a sentence of the line before ``start`` goes on in the line that begins at ``end``."""
    data = scan.source.data
    if start < 2 or end + 1 >= scan.end or data[end] != "\n" or not data[end + 1].isalnum():
        return False
    return data[start - 1] == "\n" and (data[start - 2].isalnum() or is_separator(data[start - 2]))


def _holds_citation(scan: Scan, start: int, end: int) -> bool:
    """Return whether the source of a template holds a citation, like that of a note."""
    while True:
        start = scan.source.find("{", start + 2, end)
        if start >= end:
            return False
        if scan.is_word(start, "{{cite ") or scan.is_word(start, "{{citation|"):
            return True


def _close_external(scan: Scan) -> None:
    """Keep the label of an external link; an address without a label shows nothing."""
    frames = scan.frames
    out = scan.out
    frame = frames.pop()
    index = frame.start
    while index < out.size and (out.data[index] == " " or out.data[index] == "\t"):
        index += 1
    if index == out.size:
        out.truncate(frame.start)
        out.push(DROPPED)


def _close_link(scan: Scan) -> None:
    """Keep the label, or show the target. :func:`bar` has already dropped silent links with a label."""
    frames = scan.frames
    out = scan.out
    frame = frames.top()
    if frame.bar < 0:
        begin = frame.start
        while begin < out.size and out.data[begin] in " \t\n":
            begin += 1
        if begin < out.size and out.data[begin] == ":":
            _show_target(scan, begin + 1)
        elif _has_colon(scan, frame) and is_silent(frames.content(), scan.wiki):
            frames.close(_picture(scan, frame, scan.position + 2))
        else:
            _show_target(scan, begin)
    elif _is_blank(scan, frame.bar):
        frames.close(pipe_trick(out.text(frame.start, frame.bar)))
    else:
        out.remove(frame.start, frame.bar)
        frames.pop()


def _show_target(scan: Scan, begin: int) -> None:
    frame = scan.frames.pop()
    out = scan.out
    out.remove(frame.start, begin)
    for index in range(frame.start, out.size):
        if out.data[index] == "_":
            out.data[index] = " "


def _is_blank(scan: Scan, start: int) -> bool:
    """Return whether the output holds only white space from ``start`` on."""
    data = scan.out.data
    while start < scan.out.size and (data[start] == " " or data[start] == "\t" or data[start] == "\n"):
        start += 1
    return start == scan.out.size


def bar(scan: Scan) -> None:
    """Scan a ``|`` inside a link; the first one ends its target."""
    frame = scan.frames.top()
    out = scan.out
    scan.position += 1
    if frame.bar >= 0:
        out.push("|")
        frame.last_bar = out.size
    elif _has_colon(scan, frame) and is_silent(scan.frames.content(), scan.wiki):
        scan.frames.drop_content()
    else:
        frame.bar = frame.last_bar = out.size


def _has_colon(scan: Scan, frame: Frame) -> bool:
    """Return whether the target has a ``:``, which a namespace requires."""
    data = scan.out.data
    index = frame.start
    while index < scan.out.size and data[index] != ":":
        index += 1
    return index < scan.out.size
