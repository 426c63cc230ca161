"""Make a large dump from a small real one by repeating its pages with different ids, titles and words.

Copies must differ, because the pipeline drops duplicates and tokenizers cache words. In every copy one in sixteen of
the longer words of the prose has two letters swapped, different words in every copy. New words are then at least as
frequent as in further text of Wikipedia. Markup is unchanged.
"""

from __future__ import annotations

import bz2
import re
from collections.abc import Iterator
from pathlib import Path

VERSION = 1
"""Version of the output; a dump of another version is made again."""
STREAM_BYTES = 400_000
"""XML of one bz2 stream, about what a hundred pages make in the dumps that Wikimedia publishes."""

_PAGE = re.compile(rb"<page>.*?</page>\s*", re.DOTALL)
_TITLE = re.compile(rb"<title>([^<]*)</title>")
_ID = re.compile(rb"<id>(\d+)</id>")
_PROSE_WORD = re.compile(rb"(?<=[a-z] )[a-z]{6,}(?= [a-z])")
_IDS_A_COPY = 1_000_000_000
_ONE_IN = 16


def make_dump(source: Path, target: Path, megabytes: float) -> int:
    """Write a multi-stream dump of about ``megabytes`` of XML; return its number of bytes of XML.

    Args:
        source: A small .xml.bz2 dump.
        target: The dump to make; an existing one is kept. ``<target>.bytes`` beside it records the size of its XML.
        megabytes: Size of the XML in millions of bytes; a whole number of pages is written.
    """
    note = target.with_name(f"{target.name}.bytes")
    if target.exists() and note.exists():
        return int(note.read_text())
    xml = bz2.decompress(source.read_bytes())
    first = xml.index(b"<page>")
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f"{target.name}.unfinished")
    written = 0
    with unfinished.open("wb") as file:
        for stream in _streams(xml[:first], _copies(xml), int(megabytes * 1e6)):
            file.write(bz2.compress(stream))
            written += len(stream)
    unfinished.replace(target)
    note.write_text(str(written))
    return written


def _streams(header: bytes, pages: Iterator[bytes], size: int) -> Iterator[bytes]:
    """Yield the content of every stream: the header, then pages, then the closing tag."""
    yield header
    stream = bytearray()
    left = size
    for page in pages:
        stream += page
        left -= len(page)
        if len(stream) >= STREAM_BYTES or left <= 0:
            yield bytes(stream)
            stream.clear()
        if left <= 0:
            break
    yield b"</mediawiki>\n"


def _copies(xml: bytes) -> Iterator[bytes]:
    pages = _PAGE.findall(xml)
    copy = 0
    while True:
        yield from (_copied(page, copy) for page in pages) if copy else pages
        copy += 1


def _copied(page: bytes, copy: int) -> bytes:
    page = _TITLE.sub(lambda match: b"<title>%s %d</title>" % (match[1], copy), page, count=1)
    page = _ID.sub(lambda match: b"<id>%d</id>" % (int(match[1]) + copy * _IDS_A_COPY), page, count=2)
    number = copy * 7

    def other(match: re.Match[bytes]) -> bytes:
        nonlocal number
        number += 1
        if number % _ONE_IN:
            return match[0]
        word = match[0]
        place = 1 + (copy + number // _ONE_IN) % (len(word) - 3)
        return word[:place] + word[place + 1 : place + 2] + word[place : place + 1] + word[place + 2 :]

    return _PROSE_WORD.sub(other, page)
