"""Read a MediaWiki ``pages-articles`` dump as jobs that workers can process in any order.

A job (:mod:`.streams`) owns the pages whose ``<page>`` tag begins in its range; to finish the last one it reads past
its end. A range therefore may end within a page, which allows multi-stream dumps, files of parallel compressors (with
streams cut anywhere) and plain XML.

The XML is machine-written in one fixed form (https://www.mediawiki.org/wiki/Help:Export, schema export-0.11), in which
a literal ``<`` occurs only in tags; the tests compare this reader with a general XML parser.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from megatron_pz.runtime.errors import BadInput
from megatron_pz.wikipedia.read.damage import DamageLog
from megatron_pz.wikipedia.read.page import Page, PageError, parse_page
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
from megatron_pz.wikitext.wiki_names import code_of_database, language_codes, wiki_code

_PAGE = b"<page>"
_CDATA, _CDATA_END = b"<![CDATA[", b"]]>"
_END_OR_CDATA = re.compile(b"|".join(map(re.escape, (PAGE_END, _PAGE, _CDATA))))
"""Tags are searched with ``re`` because ``find`` takes longer for words of six bytes and more."""
_SITEINFO_END = b"</siteinfo>"
_LARGEST_HEAD = 4 << 20
_PREFIXED = re.compile(rb"<([A-Za-z_][\w.-]*):(?:siteinfo|page)\b")
_OTHER_PAGE = re.compile(rb"<(?:[A-Za-z_][\w.-]*:page\b|page\b(?!>))[^<>]*>")
_HOST = re.compile(r"(?:https?:)?//([a-z-]+)(?:\.m)?\.[a-z]+\.org/")
_NUMBER = re.compile(r"-?\d{1,9}", re.ASCII)


@dataclass(frozen=True)
class SiteInfo:
    """The dump's own description of its wiki."""

    language: str
    """Code in the wiki's address, e.g. ``en``, ``simple`` or ``zh-yue``."""
    name: str
    """Database name, e.g. ``enwiki``; empty in old dumps."""
    article_url: str
    """Prefix that a title is appended to, e.g. ``https://en.wikipedia.org/wiki/``."""
    namespaces: Mapping[int, str]
    """Local name of every namespace; 0 is articles (empty name), 6 files, 10 templates, 14 categories."""


def read_siteinfo(path: str) -> SiteInfo:
    """Read the header of a dump. Raise :class:`BadInput` if there is none."""
    head = bytearray()
    for block in read_blocks(path, input_kind(path).compression, 0, DamageLog(), hold=0):
        head += block.data
        if b"</siteinfo>" in head or len(head) > _LARGEST_HEAD:
            break
    end = head.find(_SITEINFO_END)
    if end < 0:
        if prefixed := _PREFIXED.search(head):
            raise BadInput(
                f"{path}: its tags have the prefix {prefixed[1].decode()}: (<{prefixed[1].decode()}:page>); remove it, "
                f"as with sed 's,<\\(/*\\){prefixed[1].decode()}:,<\\1,g'"
            )
        raise BadInput(f"{path}: has no <siteinfo>; give a pages-articles dump with its beginning")
    if other := _OTHER_PAGE.search(head, end):
        raise BadInput(f"{path}: a page begins with {other[0].decode(errors='replace')}; MediaWiki writes <page>")
    try:
        root = ElementTree.fromstring(bytes(head[: end + len(_SITEINFO_END)]) + b"</mediawiki>")
    except ElementTree.ParseError as error:
        raise BadInput(f"{path}: <siteinfo> is not XML ({error}); download the dump again") from None
    values = {element.tag.rpartition("}")[2]: element.text or "" for element in root.iter()}
    base, name = values.get("base", "").strip(), values.get("dbname", "").strip()
    return SiteInfo(
        language=_language(name, base, root.get("{http://www.w3.org/XML/1998/namespace}lang", "")),
        name=name,
        article_url=base[: base.rfind("/") + 1],
        namespaces={
            int(key): element.text or ""
            for element in root.iter()
            if element.tag.rpartition("}")[2] == "namespace" and _NUMBER.fullmatch(key := element.get("key", ""))
        },
    )


def _language(name: str, base: str, declared: str) -> str:
    """Return the code of the wiki's own tables.

    The database's name and the wiki's address distinguish ``simple`` from ``en`` and ``zh-yue`` from ``yue``;
    ``xml:lang`` only names the language of the content.
    """
    host = _HOST.match(base)
    code = wiki_code(declared)
    candidates = (wiki_code(host[1]) if host else "", code, code.partition("-")[0])  # xml:lang="pt-BR"
    return code_of_database(name) or next((known for known in candidates if known in language_codes()), code) or "en"


def read_pages(job: Job, damage: DamageLog | None = None, whole_streams: bool = True) -> Iterator[tuple[Page, int]]:
    """Yield the pages that begin in the job's range, each with a byte offset of its file for messages.

    A truncated or damaged file is reported with the byte offset; without a log it raises :class:`BadInput`. The pages
    are the same without :mod:`megatron_pz.wikipedia.read.fast_bz2`.
    """
    damage = damage or DamageLog()
    if job.payload is not None:
        blocks: Iterator[Block] = iter([Block(job.payload, job.start, job.end)])
    else:
        blocks = read_blocks(job.path, job.kind.compression, job.start, damage, whole_to=job.end * whole_streams)
    for element, offset in _page_elements(blocks, job, damage):
        try:
            page = parse_page(element)
        except PageError as error:
            damage.report(job.path, offset, f"a page after byte {offset} {error}")
        else:
            yield page, offset


def _page_elements(blocks: Iterator[Block], job: Job, damage: DamageLog) -> Iterator[tuple[bytes, int]]:
    """Yield (content of a ``<page>`` element, byte offset for messages) for the pages that the job owns."""
    buffer = bytearray()
    owned = 0  # bytes of the buffer, from its start, that lie in the job's range
    offset, seen, gaps = job.start, 0, 0
    begin, searched = -1, 0  # start of the open page's content, and the position up to which its end has been searched
    for block in blocks:
        if block.after_gap:  # the open page ended in the gap
            buffer.clear()
            owned, begin, gaps = 0, -1, gaps + 1
        owned += block.owned_bytes(job)
        buffer += block.data
        seen += len(block.data)
        offset = block.offset if block.data else offset  # some readers skip empty streams, and messages must not differ
        position = 0
        while True:
            if begin < 0:
                found = buffer.find(_PAGE, position)
                if found < 0 or found >= owned:
                    break
                begin = searched = found + len(_PAGE)
            end, searched = _end_of_page(buffer, searched)
            if (len(buffer) if end < 0 else end) - begin > LARGEST_PAGE:
                damage.report(job.path, offset, f"no </page> in {LARGEST_PAGE} bytes before byte {offset}")
                position, begin = begin + LARGEST_PAGE, -1
                continue
            if end < 0:
                break
            if buffer.startswith(_PAGE, end):
                damage.report(job.path, offset, f"a page near byte {offset} has no </page>")
                position, begin = end, -1
                continue
            yield _copy(buffer, begin, end), offset
            position, begin = end + len(PAGE_END), -1
        if begin < 0:
            if block.is_past(job) and not _may_begin_page(buffer, owned):
                return
            keep = max(position, len(buffer) - TAIL)  # the end of the block may cut a tag
        else:
            keep = begin
            begin, searched = 0, searched - keep
        del buffer[:keep]
        owned = max(owned - keep, 0)
    if begin >= 0:
        damage.report(job.path, offset, f"is truncated: a page that begins after byte {offset} has no end")
    elif job.payload is None and not gaps and job.end == Path(job.path).stat().st_size:
        # A job shorter than the closing tag may begin inside or after it.
        tail = bytes(buffer)
        if seen > len(DUMP_END) or not DUMP_END.endswith(tail.strip()):
            check_end_of_dump(job.path, tail, job.end, damage)


def _end_of_page(buffer: bytearray, searched: int) -> tuple[int, int]:
    """Find the end of the page's content, or the next page's tag, from ``searched`` on; skip CDATA sections.

    Returns:
        Its index, or -1 if the buffer does not hold it; and where a search of a longer buffer continues.
    """
    while found := _END_OR_CDATA.search(buffer, searched):
        if found[0] != _CDATA:
            return found.start(), searched
        if (end := buffer.find(_CDATA_END, found.end())) < 0:
            return -1, found.start()
        searched = end
    return -1, max(len(buffer) - len(_CDATA) + 1, searched)


def _copy(buffer: bytearray, begin: int, end: int) -> bytes:
    with memoryview(buffer) as whole:  # slicing the bytearray itself would copy twice
        return bytes(whole[begin:end])


def _may_begin_page(buffer: bytearray, owned: int) -> bool:
    """Return whether a ``<page>`` tag may begin in the owned bytes and continue beyond the buffer's end."""
    beyond = len(buffer) - owned
    return any(buffer.endswith(_PAGE[:length]) for length in range(beyond + 1, len(_PAGE)))
