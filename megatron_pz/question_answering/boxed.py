r"""Read the contents of ``\boxed{…}``, in time linear in the text."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

_BRACE: Final = re.compile(r"[{}]")
_BOX: Final = re.compile(r"\\boxed\{")


def boxes(text: str, deepest: int | None = None) -> Iterator[str]:
    r"""Iterate over the contents of boxes from left to right, without those inside another box.

    A box counts if its brace is closed and its content nests at most ``deepest`` levels of braces (None: any number).
    A brace counts with or without a preceding backslash.

    >>> list(boxes(r"\boxed{1} and \boxed{\frac{1}{2}} and \boxed{3"))
    ['1', '\\frac{1}{2}']
    """
    closing: dict[
        int, tuple[int, int]
    ] = {}  # offset of an opening brace: offset of the closing brace, and levels inside
    opened: list[int] = []
    levels: list[int] = [0]
    for brace in _BRACE.finditer(text):
        if brace.group() == "{":
            opened.append(brace.start())
            levels.append(0)
        elif opened:
            inside = levels.pop()
            closing[opened.pop()] = brace.start(), inside
            levels[-1] = max(levels[-1], inside + 1)
    position = 0
    while box := _BOX.search(text, position):
        position = box.end()
        end, inside = closing.get(box.end() - 1, (-1, 0))
        if end >= 0 and (deepest is None or inside <= deepest):
            yield text[box.end() : end]
            position = end + 1


def last_boxed(text: str, deepest: int | None = None) -> str | None:
    r"""Return the content of the last box of :func:`boxes`, or None.

    >>> last_boxed(r"first \boxed{A}, then \boxed{B}")
    'B'
    """
    content = None
    for content in boxes(text, deepest):  # noqa: B007
        pass
    return content
