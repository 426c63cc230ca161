"""A growing sequence of code points: a C array if compiled, a list of one-character strings if interpreted.

This is the only class with two forms. All other code reads and writes ``buffer.data[index]`` and ``buffer.size``, and
compares the data with one-character strings.
"""

from __future__ import annotations

from megatron_pz.wikitext.marks import INVISIBLE

try:
    import cython
except ImportError:  # the interpreted form does not use Cython
    from megatron_pz.wikitext import no_cython as cython


class Buffer:
    """Code points ``data[0]`` … ``data[size - 1]``."""

    data: list[str]
    size: int

    def __init__(self, room: int = 256) -> None:
        self.size = 0
        if cython.compiled:
            self.room = room
            self.data = allocate(room)  # type: ignore[name-defined] # noqa: F821 - in buffer.pxd
        else:
            self.data = []

    def __dealloc__(self) -> None:
        if cython.compiled:
            release(self.data)  # type: ignore[name-defined] # noqa: F821 - in buffer.pxd

    def push(self, character: str) -> None:
        """Append one code point."""
        if cython.compiled:
            if self.size == self.room:
                self.reserve(1)
            self.data[self.size] = character
        else:
            self.data.append(character)
        self.size += 1

    def extend(self, other: Buffer, start: int, end: int) -> None:
        """Append ``other[start:end]``."""
        if end > start:
            if cython.compiled:
                self.reserve(end - start)
                copy(self.data, self.size, other.data, start, end - start)  # type: ignore[name-defined] # noqa: F821
            else:
                self.data += other.data[start:end]
            self.size += end - start

    def write(self, text: str) -> None:
        """Append a string."""
        length = len(text)
        if length:
            if cython.compiled:
                self.reserve(length)
                copy_text(self.data, self.size, text, length)  # type: ignore[name-defined] # noqa: F821
            else:
                self.data += text
            self.size += length

    def truncate(self, size: int) -> None:
        """Drop all but the first ``size`` code points."""
        if not cython.compiled:
            del self.data[size:]
        self.size = size

    def remove(self, start: int, end: int) -> None:
        """Remove ``[start:end]`` and move the rest down."""
        if cython.compiled:
            move(self.data, start, end, self.size - end)  # type: ignore[name-defined] # noqa: F821
        else:
            del self.data[start:end]
        self.size -= end - start

    def text(self, start: int, end: int) -> str:
        """Return ``[start:end]`` as a string."""
        if end <= start:
            return ""
        if cython.compiled:
            return text_of(self.data, start, end - start)  # type: ignore[name-defined] # noqa: F821
        return "".join(self.data[start:end])

    def find(self, character: str, start: int, end: int) -> int:
        """Return the first index of the character in ``[start:end]``, or the larger of the two if there is none."""
        if cython.compiled:
            return find_in(self.data, character, start, end)  # type: ignore[name-defined] # noqa: F821
        try:
            return self.data.index(character, start, end)
        except ValueError:
            return max(start, end)

    def reserve(self, more: int) -> None:
        """Make room for ``more`` code points."""
        if cython.compiled and self.size + more > self.room:
            self.room = 2 * self.room + more
            self.data = reallocate(self.data, self.room)  # type: ignore[name-defined] # noqa: F821


def visible_text(text: str) -> Buffer:
    """Fill a buffer with the text, except matches of :data:`~megatron_pz.wikitext.marks.INVISIBLE`."""
    buffer = Buffer(len(text) + 1)
    if cython.compiled and not copy_and_search(buffer.data, text):  # type: ignore[name-defined] # noqa: F821
        buffer.size = len(text)
    else:
        buffer.write(INVISIBLE.sub("", text))
    return buffer
