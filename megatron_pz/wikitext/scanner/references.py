"""Resolve XML's five named character references, with which a dump escapes its text."""

from __future__ import annotations

try:
    import cython
except ImportError:
    from megatron_pz.wikitext import no_cython as cython

_AMPERSAND = ord("&")


def unescaped(escaped: bytes) -> bytearray | None:
    """Resolve the text's references; return None if one is of another kind and needs an XML parser."""
    data = escaped  # C arrays if compiled
    end = len(escaped)
    resolved = bytearray(end)
    out = resolved
    size = index = 0
    while True:
        start = index
        if cython.compiled:
            index = copy_before(out, size, data, _AMPERSAND, start, end)  # type: ignore[name-defined] # noqa: F821
        else:
            found = data.find(_AMPERSAND, start)
            index = found if found >= 0 else end
            out[size : size + index - start] = data[start:index]
        size += index - start
        if index == end:
            break
        index += 1
        if _stands(data, index, end, b"lt;", 3):
            out[size], index = ord("<"), index + 3
        elif _stands(data, index, end, b"gt;", 3):
            out[size], index = ord(">"), index + 3
        elif _stands(data, index, end, b"quot;", 5):
            out[size], index = ord('"'), index + 5
        elif _stands(data, index, end, b"amp;", 4):
            out[size], index = _AMPERSAND, index + 4
        elif _stands(data, index, end, b"apos;", 5):
            out[size], index = ord("'"), index + 5
        else:
            return None
        size += 1
    del resolved[size:]
    return resolved


def _stands(data: bytes, start: int, end: int, name: bytes, length: int) -> bool:
    """Return whether ``name`` occurs at ``start``."""
    if start + length > end:
        return False
    for index in range(length):  # noqa: SIM110 - all() of a generator is no C loop
        if data[start + index] != name[index]:
            return False
    return True
