"""A MediaWiki ``pages-articles`` dump, read as jobs that workers can take in any order.

A job (:mod:`megatron_pz.wikipedia.streams`) owns the pages whose ``<page>`` tag begins in its range; to finish the last
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

from megatron_pz.errors import BadInput
from megatron_pz.wikipedia.streams import (
    DUMP_END,
    LARGEST_PAGE,
    PAGE_END,
    TAIL,
    Block,
    Job,
    input_kind,
    read_blocks,
    require_end_of_dump,
)

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


@dataclass(frozen=True)
class Page:
    """One page in its newest revision, as the dump has it."""

    page_id: str
    revision_id: str
    title: str
    namespace: int
    redirect: str | None
    """Title that the page redirects to."""
    text: str
    """Wikitext."""


def read_siteinfo(path: str) -> SiteInfo:
    """Read the header of a dump. Raises :class:`BadInput` where there is none."""
    head = bytearray()
    for block in read_blocks(path, input_kind(path), 0):
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


def read_pages(job: Job) -> Iterator[Page]:
    """The pages that begin in the job's range.

    Raises :class:`BadInput` with the byte offset for a truncated or damaged file.
    """
    if job.xml is not None:
        blocks: Iterator[Block] = iter([Block(job.xml, job.start, job.end)])
    else:
        blocks = read_blocks(job.path, job.kind, job.start)
    for page, where in _page_elements(blocks, job):
        yield _parse_page(page, job.path, where)


def _page_elements(blocks: Iterator[Block], job: Job) -> Iterator[tuple[bytes, int]]:
    """(content of a ``<page>`` element, byte offset for messages) for the pages that the job owns."""
    buffer = bytearray()
    owned = 0  # bytes of the buffer, from its start, that lie in the job's range
    offset, seen = job.start, 0
    begin, searched = -1, 0  # content of the page that is open; how far its end has been looked for
    for block in blocks:
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
            yield bytes(buffer[begin:end]), offset
            position, begin = end + len(PAGE_END), -1
        if begin < 0:
            if block.is_past(job) and not _may_begin_page(buffer, owned):
                return
            keep = max(position, len(buffer) - TAIL)  # a tag may be cut by the block's end
        else:
            keep = begin
            if len(buffer) - begin > LARGEST_PAGE:
                raise BadInput(f"{job.path}: no </page> after byte {offset}; the file is damaged, download it again")
            begin, searched = 0, searched - keep
        del buffer[:keep]
        owned = max(owned - keep, 0)
    if begin >= 0:
        raise BadInput(
            f"{job.path}: is truncated: a page that begins after byte {offset} has no end; download it again"
        )
    if job.xml is None and job.end == Path(job.path).stat().st_size:
        # A job that holds less than the closing tag may begin inside or behind it.
        tail = bytes(buffer)
        if seen > len(DUMP_END) or not DUMP_END.endswith(tail.strip()):
            require_end_of_dump(job.path, tail, job.end)


def _may_begin_page(buffer: bytearray, owned: int) -> bool:
    """Whether a ``<page>`` tag may begin in the owned bytes and be cut by the buffer's end."""
    beyond = len(buffer) - owned
    return any(buffer.endswith(_PAGE[:length]) for length in range(beyond + 1, len(_PAGE)))


_FIELDS = re.compile(rb"<title>([^<]*)</title>|<ns>(-?\d+)</ns>|<id>(\d+)</id>|<redirect title=\"([^\"]*)\"|<revision>")
_ID = re.compile(rb"<id>(\d+)</id>")
_TEXT = re.compile(rb"<text(?:\s[^<>]*?)?(?:/>|>([^<]*)</text>)")
_CHARACTER_REFERENCE = re.compile(r"&#(?:x([0-9A-Fa-f]{1,6})|([0-9]{1,7}));")


def _parse_page(page: bytes, path: str, where: int) -> Page:
    title = namespace = page_id = None
    redirect: str | None = None
    for match in _FIELDS.finditer(page):
        if match[0] == b"<revision>":
            break
        title = title if match[1] is None else match[1]
        namespace = namespace if match[2] is None else match[2]
        page_id = page_id or match[3]
        redirect = redirect if match[4] is None else _unescape(match[4], path, where)
    revision = page.rfind(b"<revision>")  # a full-history dump lists the newest last
    text = _TEXT.search(page, revision) if revision >= 0 else None
    if title is None or page_id is None or text is None:
        raise BadInput(
            f"{path}: a page after byte {where} lacks its title, id or text; give a pages-articles dump, undamaged"
        )
    identity = _ID.search(page, revision)
    return Page(
        page_id=page_id.decode(),
        revision_id=identity[1].decode() if identity else "",
        title=_unescape(title, path, where),
        namespace=int(namespace or 0),
        redirect=redirect,
        text=_unescape(text[1] or b"", path, where),
    )


def _unescape(value: bytes, path: str, where: int) -> str:
    """UTF-8 with XML's character references."""
    try:
        text = value.decode()
    except UnicodeDecodeError:
        raise BadInput(f"{path}: text near byte {where} is not UTF-8; the file is damaged, download it again") from None
    if "&" not in text:
        return text
    if "&#" in text:  # a literal ampersand is &amp; here, so this is a reference
        text = _CHARACTER_REFERENCE.sub(_character, text)
    text = text.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", '"').replace("&apos;", "'")
    return text.replace("&amp;", "&")


def _character(reference: re.Match[str]) -> str:
    code = int(reference[1], 16) if reference[1] else int(reference[2])
    if code == ord("&"):
        return "&amp;"  # decoded last, with the others
    return chr(code) if code <= 0x10FFFF else reference[0]
