"""The scanner's output with a stack of frames over it."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Final

from megatron_pz.wikipedia.marks import DROPPED

MAX_DEPTH: Final = 40
"""Deepest nesting whose content is kept. It bounds how often a character is moved, and so makes time linear; real
articles stay far below it, and MediaWiki has such a limit too (``$wgMaxTemplateDepth``)."""

TEMPLATE, LINK, EXTERNAL, TAG, TABLE = range(5)
"""Kinds of frames: ``{{…}}``, ``[[…]]``, ``[http://…]``, an HTML tag with its end, ``{|…|}``."""


@dataclass(slots=True)
class Frame:
    """A construct whose end has not been reached."""

    kind: int
    start: int
    """Pieces in the output when it opened: its content begins there."""
    dropped: bool
    """Its content is not put out."""
    name: str = ""
    """Tag's name, or template's normalised name once the first ``|`` has been read."""
    braces: int = 2
    nested: int = 0
    """Brackets of the frame's own kind open inside, counted where content is dropped."""
    single: int = 0
    """Single brackets open inside, counted where content is dropped."""
    fields: list[int] = field(default_factory=list)
    """Pieces in the output at every ``|`` of this frame."""
    equals: list[int] = field(default_factory=list)
    """For every field, pieces in the output at its first ``=``, or -1."""


class FramedOutput:
    """Pieces of text in order. Closing a frame replaces its content by what the construct shows."""

    def __init__(self) -> None:
        self.pieces: list[str] = []
        self.frames: list[Frame] = []

    @property
    def top(self) -> Frame | None:
        """The innermost open frame."""
        return self.frames[-1] if self.frames else None

    @property
    def is_dropping(self) -> bool:
        return bool(self.frames) and self.frames[-1].dropped

    def push(self, kind: int, dropped: bool = False, name: str = "", braces: int = 2) -> None:
        """Open a frame. It drops its content where the frame around it does, and beyond :data:`MAX_DEPTH`."""
        dropped = dropped or self.is_dropping or len(self.frames) >= MAX_DEPTH
        self.frames.append(Frame(kind, len(self.pieces), dropped, name, braces))

    def close(self, shown: str) -> None:
        """Close the innermost frame: its content becomes ``shown``."""
        frame = self.frames.pop()
        del self.pieces[frame.start :]
        if not self.is_dropping:
            self.pieces.append(shown)

    def abandon_from(self, depth: int) -> None:
        """Give up the frames from ``depth`` on, whose ends are missing: kept content stays, dropped content is gone.

        Of a link, the text after its last ``|`` stays.
        """
        while len(self.frames) > depth:
            frame = self.frames.pop()
            if frame.kind == LINK and frame.fields:
                del self.pieces[frame.start : frame.fields[-1]]
            if frame.dropped and not self.is_dropping:
                self.pieces.append(DROPPED)

    def innermost(self, kind: int, name: str = "") -> int:
        """Depth of the innermost frame of this kind (and name) that may end here, or -1.

        Only a template's end reaches across everything; other ends do not leave the template or table they are in.
        """
        for depth in range(len(self.frames) - 1, -1, -1):
            frame = self.frames[depth]
            if frame.kind == kind and (not name or frame.name == name):
                return depth
            if kind != TEMPLATE and frame.kind in (TEMPLATE, TABLE):
                return -1
        return -1

    def content(self) -> str:
        """What the innermost frame holds so far."""
        return "".join(self.pieces[self.frames[-1].start :])

    def fields(self) -> list[str]:
        """The innermost frame's content, cut at its ``|``."""
        frame = self.frames[-1]
        edges = [frame.start, *frame.fields, len(self.pieces)]
        return ["".join(self.pieces[begin:end]) for begin, end in itertools.pairwise(edges)]

    def parameters(self) -> dict[str, str]:
        """The innermost frame's fields after the first as a template's parameters, stripped; those without a name are
        numbered from 1."""
        frame = self.frames[-1]
        named: dict[str, str] = {}
        count = 0
        for number, (begin, end) in enumerate(itertools.pairwise([*frame.fields, len(self.pieces)])):
            equals = frame.equals[number]
            if equals >= 0:
                named["".join(self.pieces[begin:equals]).strip()] = "".join(self.pieces[equals:end]).strip()
            else:
                count += 1
                named[str(count)] = "".join(self.pieces[begin:end]).strip()
        return named
