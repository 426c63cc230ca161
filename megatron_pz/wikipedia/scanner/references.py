"""XML's references to the five characters that it has names for, with which a dump escapes its text."""

from __future__ import annotations

_AMPERSAND = ord("&")


def unescaped(escaped: bytes) -> bytearray | None:
    """The text with its references resolved; None where one is of another kind, for an XML parser to read."""
    data = escaped  # C arrays where compiled
    end = len(escaped)
    resolved = bytearray(end)
    out = resolved
    size = index = 0
    while index < end:
        byte = data[index]
        index += 1
        if byte == _AMPERSAND:
            if _stands(data, index, end, b"lt;", 3):
                byte, index = ord("<"), index + 3
            elif _stands(data, index, end, b"gt;", 3):
                byte, index = ord(">"), index + 3
            elif _stands(data, index, end, b"quot;", 5):
                byte, index = ord('"'), index + 5
            elif _stands(data, index, end, b"amp;", 4):
                index += 4
            elif _stands(data, index, end, b"apos;", 5):
                byte, index = ord("'"), index + 5
            else:
                return None
        out[size] = byte
        size += 1
    del resolved[size:]
    return resolved


def _stands(data: bytes, start: int, end: int, name: bytes, length: int) -> bool:
    """Whether ``name`` stands at ``start``."""
    if start + length > end:
        return False
    for index in range(length):  # noqa: SIM110 - all() of a generator is no C loop
        if data[start + index] != name[index]:
            return False
    return True
