"""The scanner's output and a stack of frames: constructs whose end has not been reached."""

from __future__ import annotations

from megatron_pz.wikitext.marks import DROPPED, LOST

from .buffer import Buffer

MAX_DEPTH = 40
"""Deepest nesting whose content is kept. It bounds how often a character is moved, and so makes time linear; real
articles stay far below it, and MediaWiki has such a limit too (``$wgMaxTemplateDepth``)."""

_LONGEST_CONTEXT = 12
"""Characters in front of a construct that its rendering may depend on."""

# Kinds of frames: {{…}}, [[…]], [http://…], an HTML tag with its end, {|…|}, <gallery>, -{…}-; and no frame.
NONE, TEMPLATE, LINK, EXTERNAL, TAG, TABLE, GALLERY, VARIANT = range(8)


class Frame:
    """A construct whose end has not been reached."""

    def __init__(self) -> None:
        self.open(NONE, 0, False)

    def open(self, kind: int, start: int, dropped: bool) -> None:
        self.kind = kind
        self.start = start  # size of the output when it opened, the start of its content
        self.dropped = dropped  # its content is not emitted
        self.mark = ""  # mark of a construct that shows no text
        self.source_start = 0  # start of a template or link in the source
        self.name = ""  # name of a tag, or of a template as returned by templates.name_and_mark
        self.braces = 2
        self.nested = 0  # open brackets of the frame's own kind inside it, counted if content is dropped
        self.single = 0  # open single brackets inside it, counted if content is dropped
        self.bar = -1  # size of the output at the first "|" of a link or template, or of a table's cell
        self.last_bar = -1
        if kind == TEMPLATE and not dropped:
            self.fields: list[int] = []  # size of the output at every "|"
            self.equals: list[int] = []  # size of the output at the first "=" of every field, or -1


class Frames:
    """The output and the open frames. Closing a frame replaces its content by the text of the construct."""

    def __init__(self, room: int) -> None:
        self.out = Buffer(room)
        self.stack = [Frame() for _ in range(MAX_DEPTH + 1)]
        self.depth = 0
        self.kind = NONE  # kind of the innermost frame, and whether it drops its content
        self.dropping = False

    def top(self) -> Frame:
        """Return the innermost frame, which must exist."""
        return self.stack[self.depth - 1]

    def push(self, kind: int, dropped: bool = False) -> Frame:
        """Open a frame (never inside one that drops its content). Beyond :data:`MAX_DEPTH` it drops its content."""
        frame = self.stack[self.depth]
        self.depth += 1
        self.kind = kind
        self.dropping = dropped or self.depth > MAX_DEPTH
        frame.open(kind, self.out.size, self.dropping)
        if self.depth > MAX_DEPTH:
            frame.mark = LOST
        return frame

    def pop(self) -> Frame:
        """Remove the innermost frame; its content stays."""
        self.depth -= 1
        frame = self.stack[self.depth]
        if self.depth:
            below = self.stack[self.depth - 1]
            self.kind, self.dropping = below.kind, below.dropped
        else:
            self.kind, self.dropping = NONE, False
        return frame

    def drop_content(self) -> None:
        """Drop the innermost frame's content, both present and future."""
        frame = self.top()
        frame.dropped = self.dropping = True
        self.out.truncate(frame.start)

    def close(self, shown: str) -> None:
        """Close the innermost frame: its content becomes ``shown``."""
        frame = self.pop()
        self.out.truncate(frame.start)
        self.out.write(shown)

    def abandon_from(self, depth: int) -> None:
        """Abandon the frames from ``depth`` on, whose ends are missing; kept content stays, dropped content is lost.

        Of a link, the text after its last ``|`` stays; a file without an end is a hole.
        """
        while self.depth > depth:
            frame = self.pop()
            if frame.dropped:
                self.out.write(LOST if frame.kind == LINK else DROPPED)
            elif frame.kind == LINK and frame.bar >= 0:
                self.out.remove(frame.start, frame.last_bar)

    def innermost(self, kind: int, name: str = "") -> int:
        """Return the depth of the innermost frame of this kind (and name) that may end here, or -1.

        Only a template's end crosses all frames; other ends stay within their template or table.
        """
        depth = self.depth - 1
        while depth >= 0:
            frame = self.stack[depth]
            if frame.kind == kind and (not name or frame.name == name):
                return depth
            if kind != TEMPLATE and (frame.kind == TEMPLATE or frame.kind == TABLE):
                return -1
            depth -= 1
        return -1

    def before(self) -> str:
        """Return a few characters in front of the innermost frame, within the field of the enclosing frame."""
        start = self.top().start
        floor = 0
        if self.depth > 1:
            around = self.stack[self.depth - 2]
            floor = around.last_bar if around.kind == LINK and around.bar >= 0 else around.start
            last = len(around.fields) - 1 if around.kind == TEMPLATE else -1
            if last >= 0:
                floor = max(around.fields[last], around.equals[last])
        return self.out.text(max(start - _LONGEST_CONTEXT, floor), start)

    def content(self) -> str:
        """Return the content of the innermost frame so far."""
        return self.out.text(self.top().start, self.out.size)

    def first_field(self) -> str:
        """Return the text before the innermost frame's first ``|``."""
        frame = self.top()
        return self.out.text(frame.start, frame.bar if frame.bar >= 0 else self.out.size)

    def parameters(self) -> dict[str, str]:
        """Return the innermost frame's fields after the first as a template's parameters.

        Values are stripped; those without a name are numbered from 1."""
        frame = self.top()
        named: dict[str, str] = {}
        count = 0
        last = len(frame.fields) - 1
        for number in range(last + 1):
            begin = frame.fields[number]
            end = frame.fields[number + 1] if number < last else self.out.size
            equals = frame.equals[number]
            if equals >= 0:
                named[self.out.text(begin, equals).strip()] = self.out.text(equals, end).strip()
            else:
                count += 1
                named[str(count)] = self.out.text(begin, end).strip()
        return named
