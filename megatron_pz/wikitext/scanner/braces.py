"""Scan templates ``{{name|field|name=field}}``, and parameters ``{{{name|default}}}`` of a page that is a template.

On wikis with language variants, also scan ``-{variant:text;…}-``.
"""

from __future__ import annotations

from megatron_pz.wikitext import templates, variants
from megatron_pz.wikitext.marks import LITERAL, LITERAL_END, UNKNOWN

from .brackets import bar, close_dropped, hole_or_gap
from .frames import LINK, TEMPLATE, VARIANT
from .state import Scan
from .tables import table_sign
from .unclosed import skip_unclosed

_LONGEST_NAME = 255
_LONGEST_SET = 1000


def open_braces(scan: Scan) -> None:
    """Scan two or more ``{`` at the position."""
    run = scan.run()
    frames = scan.frames
    if (run == 2 or scan.is_word(scan.position, "{{{!}}")) and table_sign(scan):
        return
    if frames.dropping:
        if frames.kind == TEMPLATE:
            frame = frames.top()
            frame.nested += run // 2
        scan.position += run
        return
    start = scan.position
    if scan.unclosed and start in scan.unclosed:
        skip_unclosed(scan)
        return
    if run == 2 and frames.kind == LINK and scan.is_word(start, "{{!}}"):
        scan.position += 4
        bar(scan)
        return
    braces = 3 if run == 3 else 2
    scan.position += braces
    name_end = _name_end(scan)
    if run == 2 and name_end >= 0 and _is_nested_set(scan, name_end):
        scan.single_braces += 2
        scan.emit(f"{LITERAL}{{{{{LITERAL_END}", 0)
        return
    name = ""
    if name_end >= 0 and run == 2:
        name, mark = _name_and_mark(scan, scan.source.text(scan.position, name_end))
        if not name:
            frame = frames.push(TEMPLATE, True)
            frame.mark = mark
            frame.source_start = start
            scan.position = name_end
            return
    frame = frames.push(TEMPLATE)
    frame.braces = braces
    frame.name = name
    frame.source_start = start


def _name_end(scan: Scan) -> int:
    """Return the end of the name if it is plain text, else -1; it is then known at the first ``|`` or the end."""
    data = scan.source.data
    index = scan.position
    last = min(scan.end, index + _LONGEST_NAME)
    while index < last:
        character = data[index]
        if character == "|" or character == "}":
            return index
        if character in "{[<&]'_=":
            return -1
        index += 1
    return -1


def _is_nested_set(scan: Scan, start: int) -> bool:
    """Return whether the ``{{`` whose name ends at ``start`` is text, as in ``{{1}, {2}}``: names have no braces."""
    data = scan.source.data
    if data[start] != "}" or scan.follows(start, "}", "}") or scan.frames.innermost(TEMPLATE) >= 0:
        return False
    last = min(scan.end, start + _LONGEST_SET)
    index = start
    depth = 2
    while index < last and depth > 0 and data[index] != "\n" and not scan.follows(index, "{", "{"):
        if data[index] == "{":
            depth += 1
        elif data[index] == "}":
            depth -= 1
        index += 1
    return depth == 0


def begins_variant(scan: Scan) -> bool:
    """Return whether the ``{`` at the position forms ``-{`` with a preceding ``-``, and not a template after a dash."""
    out = scan.out
    start = scan.position
    return (
        scan.has_variants
        and start > 0
        and scan.source.data[start - 1] == "-"
        and not scan.frames.dropping
        and out.size > 0
        and out.data[out.size - 1] == "-"
        and scan.run() % 2 == 1
    )


def open_variant(scan: Scan) -> None:
    """Open a variant at the ``{`` of ``-{``; both characters stay in the output until its end confirms the variant."""
    scan.position += 1
    scan.out.push("{")
    scan.frames.push(VARIANT)


def _close_variant(scan: Scan) -> bool:
    """Scan a single ``}`` at the position; return whether it belongs to a ``}-`` that ended a variant."""
    frames = scan.frames
    if not scan.follows(scan.position, "}", "-") or (frames.dropping and frames.kind != VARIANT):
        return False
    depth = frames.innermost(VARIANT)
    if depth < 0:
        return False
    frames.abandon_from(depth + 1)
    scan.position += 2
    shown = variants.shown(frames.content(), scan.language)
    frames.close("")
    scan.out.truncate(scan.out.size - len("-{"))
    scan.out.write(shown)
    return True


def close_braces(scan: Scan) -> None:
    """Scan one or more ``}`` at the position."""
    run = scan.run()
    frames = scan.frames
    if run == 1 and scan.has_variants and _close_variant(scan):
        return
    if frames.dropping:
        if frames.kind == TEMPLATE:
            close_dropped(scan, run)
        else:
            scan.position += run
        return
    depth = frames.innermost(TEMPLATE) if run > 1 else -1
    if depth < 0:
        if 1 < run <= scan.single_braces:  # {a, {b}}
            scan.out.write(f"{LITERAL}{'}' * run}{LITERAL_END}")
        elif run == 1:
            scan.out.push("}")
        scan.single_braces = max(scan.single_braces - run, 0)
        scan.position += run
        return
    frames.abandon_from(depth + 1)
    frame = frames.top()
    scan.position += min(run, frame.braces)
    if frame.braces == 3 and run >= 3:
        _close_parameter(scan)
    else:
        _close_template(scan)


def _close_parameter(scan: Scan) -> None:
    """Show a parameter's default, or a hole without one."""
    frame = scan.frames.top()
    out = scan.out
    if frame.bar < 0:
        scan.frames.close(UNKNOWN)
        return
    end = frame.fields[1] if len(frame.fields) > 1 else out.size
    scan.frames.close(out.text(frame.bar, end))


def _close_template(scan: Scan) -> None:
    frames = scan.frames
    frame = frames.top()
    learned = scan.wiki.templates
    first = frames.first_field()
    name, mark = frame.name, ""
    if not name:
        name, mark = _name_and_mark(scan, first)
    if not name:
        frames.close(hole_or_gap(scan, frame, mark, scan.position))
    elif name in templates.PAGE_TITLE:
        frames.close(scan.title)
    elif learned is not None and name.startswith(templates.LEARNED):
        stands_alone = _stands_alone(scan, frame.start)
        frames.close(UNKNOWN if stands_alone else learned.render(name, frames.parameters(), scan.title, scan.wiki))
    else:
        frames.close(templates.render(name, first, frames.parameters(), scan.language, frames.before()))


def _name_and_mark(scan: Scan, text: str) -> tuple[str, str]:
    """Find the name of a template that shows text, or the mark of another; the dump supplies unknown templates."""
    known = scan.known_names.get(text)
    if known is None:
        known = templates.name_and_mark(text, scan.keeps_infoboxes, scan.language)
    if known[1] == UNKNOWN and scan.wiki.templates is not None:
        return scan.wiki.templates.name_and_mark(text)
    return known


def _stands_alone(scan: Scan, start: int) -> bool:
    """Return whether the template that ends at the position and begins at ``start`` is alone on its line."""
    out = scan.out
    return (start == 0 or out.data[start - 1] == "\n") and (
        scan.position >= scan.end or scan.source.data[scan.position] == "\n"
    )


def template_bar(scan: Scan) -> None:
    """Scan a ``|`` inside a template; the first one completes its name."""
    frames = scan.frames
    frame = frames.top()
    out = scan.out
    scan.position += 1
    if frame.bar < 0:
        if not frame.name and frame.braces == 2:
            frame.name, frame.mark = _name_and_mark(scan, frames.content())
            if not frame.name:
                frames.drop_content()
                return
        frame.bar = out.size
    frame.fields.append(out.size)
    frame.equals.append(-1)
    scan.at_line_start = _begins_list(scan)


def _begins_list(scan: Scan) -> bool:
    """Return whether a list begins at the position, after a ``|``: the next line has another item."""
    data = scan.source.data
    if scan.position >= scan.end or data[scan.position] not in "*#":
        return False
    following = scan.line_end(scan.position) + 1
    return following < scan.end and data[following] == data[scan.position]


def equals(scan: Scan) -> None:
    """Scan a ``=`` inside a template; the first one in a field ends its name."""
    frame = scan.frames.top()
    scan.position += 1
    last = len(frame.equals) - 1
    if last >= 0 and frame.equals[last] < 0:
        frame.equals[last] = scan.out.size
    else:
        scan.out.push("=")
