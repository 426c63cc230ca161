"""A MediaWiki ``pages-articles`` dump, read as jobs that workers can take in any order.

A job (``streams``) owns the pages whose ``<page>`` tag begins in its range; to finish the last
one it reads on past its end. So a range need not end between two pages, which covers multi-stream dumps, files of
parallel compressors (streams cut anywhere) and plain XML alike.

The XML is machine-written in one fixed form (https://www.mediawiki.org/wiki/Help:Export, schema export-0.11), in which
a literal ``<`` occurs in tags only; the tests hold this reader against a general XML parser.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree
from xml.parsers import expat

from megatron_pz.runtime.errors import BadInput
from megatron_pz.wikipedia.read.damage import DamageLog
from megatron_pz.wikipedia.read.streams import (
    DUMP_END,
    LARGEST_PAGE,
    PAGE_END,
    TAIL,
    Block,
    Job,
    check_end_of_dump,
    input_kind,
    read_blocks,
)
from megatron_pz.wikitext.scanner_form import unescaped

_PAGE = b"<page>"


@dataclass(frozen=True)
class SiteInfo:
    """The dump's own description of its wiki."""

    language: str
    """Language code, e.g. ``en``."""
    name: str
    """Database name, e.g. ``enwiki``; empty in old dumps."""
    article_url: str
    """What a title is appended to, e.g. ``https://en.wikipedia.org/wiki/``."""
    namespaces: Mapping[int, str]
    """Local name of every namespace; 0 is articles (empty name), 6 files, 10 templates, 14 categories."""


@dataclass(frozen=True, slots=True)
class Page:
    """One page in its newest revision, as the dump has it."""

    page_id: str
    revision_id: str
    title: str
    namespace: int
    redirect: str | None
    """Title that the page redirects to."""
    escaped_text: bytes
    """Wikitext as it stands in the XML. Most pages of a dump are dropped before anyone needs it decoded."""

    @property
    def text(self) -> str:
        """Wikitext, decoded anew at every call. Raises :class:`PageError` where it is not UTF-8."""
        return _unescape(self.escaped_text)


class PageError(Exception):
    """A page is not what a dump holds; the message says how."""


def read_siteinfo(path: str) -> SiteInfo:
    """Read the header of a dump. Raises :class:`BadInput` where there is none."""
    head = bytearray()
    for block in read_blocks(path, input_kind(path).compression, 0, DamageLog(), hold=0):
        head += block.data
        if b"</siteinfo>" in head or len(head) > (4 << 20):
            break
    end = head.find(b"</siteinfo>")
    if end < 0:
        raise BadInput(f"{path}: has no <siteinfo>; give a pages-articles dump with its beginning")
    try:
        root = ElementTree.fromstring(bytes(head[: end + len(b"</siteinfo>")]) + b"</mediawiki>")
    except ElementTree.ParseError as error:
        raise BadInput(f"{path}: <siteinfo> is not XML ({error}); download the dump again") from None
    values = {element.tag.rpartition("}")[2]: element for element in root.iter()}
    base = (values["base"].text or "") if "base" in values else ""
    return SiteInfo(
        language=root.get("{http://www.w3.org/XML/1998/namespace}lang", "en"),
        name=(values["dbname"].text or "") if "dbname" in values else "",
        article_url=base[: base.rfind("/") + 1],
        namespaces={
            int(element.get("key", "0")): element.text or ""
            for element in root.iter()
            if element.tag.rpartition("}")[2] == "namespace"
        },
    )


def read_pages(job: Job, damage: DamageLog | None = None, whole_streams: bool = True) -> Iterator[tuple[Page, int]]:
    """The pages that begin in the job's range, each with a byte offset of its file for messages.

    A truncated or damaged file is reported with the byte offset; without a log it raises :class:`BadInput`. The pages
    are the same without :mod:`megatron_pz.wikipedia.read.fast_bz2`.
    """
    damage = damage or DamageLog()
    if job.payload is not None:
        blocks: Iterator[Block] = iter([Block(job.payload, job.start, job.end)])
    else:
        blocks = read_blocks(job.path, job.kind.compression, job.start, damage, any_size=whole_streams)
    for element, offset in _page_elements(blocks, job, damage):
        try:
            page = _parse_page(element)
        except PageError as error:
            damage.report(job.path, offset, f"a page after byte {offset} {error}")
        else:
            yield page, offset


def _page_elements(blocks: Iterator[Block], job: Job, damage: DamageLog) -> Iterator[tuple[bytes, int]]:
    """(content of a ``<page>`` element, byte offset for messages) for the pages that the job owns."""
    buffer = bytearray()
    owned = 0  # bytes of the buffer, from its start, that lie in the job's range
    offset, seen, gaps = job.start, 0, 0
    begin, searched = -1, 0  # content of the page that is open; how far its end has been looked for
    for block in blocks:
        if block.after_gap:  # what is open ended in the gap
            buffer.clear()
            owned, begin, gaps = 0, -1, gaps + 1
        owned += block.owned_bytes(job)
        buffer += block.data
        seen += len(block.data)
        offset = block.offset
        position = 0
        while True:
            if begin < 0:
                found = buffer.find(_PAGE, position)
                if found < 0 or found >= owned:
                    break
                begin = searched = found + len(_PAGE)
            end = buffer.find(PAGE_END, searched)
            if end < 0:
                searched = max(begin, len(buffer) - len(PAGE_END) + 1)
                break
            yield _copy(buffer, begin, end), offset
            position, begin = end + len(PAGE_END), -1
        if begin < 0:
            if block.is_past(job) and not _may_begin_page(buffer, owned):
                return
            keep = max(position, len(buffer) - TAIL)  # a tag may be cut by the block's end
        elif len(buffer) - begin > LARGEST_PAGE:
            damage.report(job.path, offset, f"no </page> in {len(buffer) - begin} bytes before byte {offset}")
            keep, begin = len(buffer), -1
        else:
            keep = begin
            begin, searched = 0, searched - keep
        del buffer[:keep]
        owned = max(owned - keep, 0)
    if begin >= 0:
        damage.report(job.path, offset, f"is truncated: a page that begins after byte {offset} has no end")
    elif job.payload is None and not gaps and job.end == Path(job.path).stat().st_size:
        # A job that holds less than the closing tag may begin inside or behind it.
        tail = bytes(buffer)
        if seen > len(DUMP_END) or not DUMP_END.endswith(tail.strip()):
            check_end_of_dump(job.path, tail, job.end, damage)


def _copy(buffer: bytearray, begin: int, end: int) -> bytes:
    with memoryview(buffer) as whole:  # slicing the bytearray itself would copy twice
        return bytes(whole[begin:end])


def _may_begin_page(buffer: bytearray, owned: int) -> bool:
    """Whether a ``<page>`` tag may begin in the owned bytes and be cut by the buffer's end."""
    beyond = len(buffer) - owned
    return any(buffer.endswith(_PAGE[:length]) for length in range(beyond + 1, len(_PAGE)))


_FIELDS = re.compile(
    rb"\s*<title>([^<]*)</title>\s*<ns>(-?\d+)</ns>\s*<id>(\d+)</id>\s*(?:<redirect title=\"([^\"]*)\"\s*/>)?"
)
_FIELDS_IN_ANY_ORDER = re.compile(
    rb"<title>([^<]*)</title>|<ns>(-?\d+)</ns>|<id>(\d+)</id>|<redirect title=\"([^\"]*)\"|<revision>"
)
_REVISION = b"<revision>"
_ID = re.compile(rb"<id>(\d+)</id>")
_TEXT = re.compile(rb"<text(?:\s[^<>]*?)?(/?)>")
_EXPAT_BUFFER = 1 << 20


def _parse_page(page: bytes) -> Page:
    if fields := _FIELDS.match(page):
        title, namespace, page_id, redirect = fields.groups()
    else:
        title, namespace, page_id, redirect = _fields_in_any_order(page)
    revision = page.find(_REVISION)
    text = _TEXT.search(page, revision) if revision >= 0 else None
    if title is None or page_id is None or text is None:
        raise PageError("lacks its title, id or text")
    begin, end = text.end(), page.find(b"<", text.end())
    if page.find(_REVISION, end) >= 0:  # a full-history dump lists the newest last
        revision = page.rfind(_REVISION)
        text = _TEXT.search(page, revision) or text
        begin, end = text.end(), page.find(b"<", text.end())
    identity = _ID.search(page, revision)
    return Page(
        page_id=page_id.decode(),
        revision_id=identity[1].decode() if identity else "",
        title=_unescape(title),
        namespace=int(namespace or 0),
        redirect=None if redirect is None else _unescape(redirect),
        escaped_text=b"" if text[1] else page[begin:end],
    )


def _fields_in_any_order(page: bytes) -> list[bytes | None]:
    """Title, namespace, id and redirect of a page that is not laid out as MediaWiki does it today."""
    found: list[bytes | None] = [None] * 4
    for match in _FIELDS_IN_ANY_ORDER.finditer(page):
        if match[0] == b"<revision>":
            break
        found = [before if before is not None else now for before, now in zip(found, match.groups(), strict=True)]
    return found


def _unescape(value: bytes) -> str:
    """UTF-8 with XML's character references, as an XML parser reads it: expat where there is anything unusual."""
    try:
        if b"\r" not in value:
            if b"&" not in value:
                return value.decode()
            if unescaped is not None and (text := unescaped(value)) is not None:
                return text.decode()
        parts: list[str] = []
        parser = expat.ParserCreate("utf-8")
        parser.buffer_text, parser.buffer_size = True, _EXPAT_BUFFER
        parser.CharacterDataHandler = parts.append
        parser.Parse(b"<text>%b</text>" % value, True)
    except (UnicodeDecodeError, expat.ExpatError) as error:
        raise PageError(f"is not XML in UTF-8 ({error})") from None
    return "".join(parts)
