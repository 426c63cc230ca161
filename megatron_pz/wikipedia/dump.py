"""A MediaWiki ``pages-articles`` dump, read as jobs that workers can take in any order.

A job is a byte range of the file and owns the pages whose ``<page>`` tag begins in it; to finish its last page it reads
on past its end. So a range need not end between two pages, which covers multi-stream dumps (a run of bz2 streams),
files of parallel compressors (streams cut anywhere) and plain XML alike. A bz2 file that cannot be entered in the
middle (one stream) is decompressed once, by the process that plans the jobs, and its jobs carry their XML.

The XML is machine-written in one fixed form (https://www.mediawiki.org/wiki/Help:Export, schema export-0.11), in which
a literal ``<`` occurs in tags only; the tests hold this reader against a general XML parser.
"""

from __future__ import annotations

import bz2
import mmap
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from xml.etree import ElementTree

from megatron_pz.errors import BadInput

InputKind = Literal["bz2", "xml", "jsonl"]

JOB_BYTES = {"bz2": 4 << 20, "xml": 16 << 20, "jsonl": 16 << 20}
"""Size of a job in bytes of the file: some seconds of work, some tens of MB of memory."""
ONE_STREAM_JOB_BYTES = 4 << 20
"""Size in bytes of XML of a job of a bz2 file whose streams are too large to be jobs."""
LARGEST_STREAM = 64 << 20
"""A bz2 stream above this size is decompressed while planning. Official multi-stream dumps stay below 2 MB."""
LARGEST_PAGE = 256 << 20
"""MediaWiki stores at most 2 MB of wikitext a page; past this size ``</page>`` is missing."""

LARGEST_BLOCK = 4 << 20
"""A decompressor hands out at most this many bytes at a time, whatever the input does."""

_READ = 1 << 18
_TAIL = 64
_STREAM_HEADER = re.compile(rb"BZh[1-9]1AY&SY")
_PAGE = b"<page>"
_PAGE_END = b"</page>"
_DUMP_END = b"</mediawiki>"


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


@dataclass(frozen=True)
class Job:
    """A piece of one input file. Jobs depend on the file alone, never on the number of workers."""

    path: str
    kind: InputKind
    start: int
    end: int
    """Bytes [start, end) of the file."""
    xml: bytes | None = None
    """The decompressed pages, where the file could not be entered at ``start``."""


def input_kind(path: str) -> InputKind:
    """What the file holds, by its first bytes. Raises :class:`BadInput` for a missing, empty or foreign file."""
    try:
        with Path(path).open("rb") as file:
            head = file.read(4096)
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror}); give a Wikipedia dump or a .jsonl file") from None
    if not head:
        raise BadInput(f"{path}: is empty; download it again")
    if head.startswith(b"BZh"):
        return "bz2"
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if text.startswith(b"<"):
        return "xml"
    if text.startswith(b"{"):
        return "jsonl"
    raise BadInput(f"{path}: is neither a .xml.bz2 or .xml dump nor .jsonl; decompress it or give another file")


def read_siteinfo(path: str) -> SiteInfo:
    """Read the header of a dump. Raises :class:`BadInput` where there is none."""
    head = bytearray()
    for block in _blocks(path, input_kind(path), 0):
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


def plan_jobs(path: str) -> Iterator[Job]:
    """Cut an input file into jobs, in the file's order."""
    kind = input_kind(path)
    size = Path(path).stat().st_size
    if kind == "bz2":
        starts = _stream_starts(path)
        sizes = [end - start for start, end in zip(starts, [*starts[1:], size], strict=True)]
        if len(starts) == 1 or max(sizes) > LARGEST_STREAM:
            yield from _jobs_of_one_stream(path, size)
            return
    else:
        starts = list(range(0, size, JOB_BYTES[kind]))
    begin = starts[0]
    for start in starts[1:]:
        if start - begin >= JOB_BYTES[kind]:
            yield Job(path, kind, begin, start)
            begin = start
    yield Job(path, kind, begin, size)


def read_pages(job: Job) -> Iterator[Page]:
    """The pages that begin in the job's range.

    Raises :class:`BadInput` with the byte offset for a truncated or damaged file.
    """
    if job.xml is not None:
        blocks: Iterator[_Block] = iter([_Block(job.xml, job.start, job.end)])
    else:
        blocks = _blocks(job.path, job.kind, job.start)
    for page, where in _page_elements(blocks, job):
        yield _parse_page(page, job.path, where)


@dataclass(frozen=True)
class _Block:
    data: bytes
    offset: int
    """Where its bz2 stream begins in the file; in plain XML, where the data itself begins."""
    read_to: int
    """How far the file had been read."""

    def owned_bytes(self, job: Job) -> int:
        """How many of the data's bytes lie in the job's range."""
        if job.xml is not None:
            return len(self.data)
        if job.kind == "bz2":
            return len(self.data) if self.offset < job.end else 0
        return max(min(len(self.data), job.end - self.offset), 0)

    def is_past(self, job: Job) -> bool:
        """Whether all text of the job's range has been seen with this block."""
        if job.xml is not None:
            return False
        return self.offset >= job.end if job.kind == "bz2" else self.read_to > job.end


def _stream_starts(path: str) -> list[int]:
    """Byte offsets of all bz2 streams: a stream header followed by the magic number of a block, 80 bits in all."""
    with Path(path).open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        starts = [match.start() for match in _STREAM_HEADER.finditer(content)]
    if not starts or starts[0] != 0:
        raise BadInput(f"{path}: no bz2 block at byte 0; the file is damaged, download it again")
    return starts


def _jobs_of_one_stream(path: str, size: int) -> Iterator[Job]:
    buffer, begin, searched, tail = bytearray(), 0, 0, b""
    for block in _blocks(path, "bz2", 0):
        buffer += block.data
        tail = (tail + block.data)[-_TAIL:]
        if len(buffer) < ONE_STREAM_JOB_BYTES:
            continue
        cut = buffer.rfind(_PAGE_END, max(searched - len(_PAGE_END), 0)) + len(_PAGE_END)
        searched = len(buffer)
        if cut >= len(_PAGE_END):
            yield Job(path, "bz2", begin, block.read_to, bytes(buffer[:cut]))
            del buffer[:cut]
            begin, searched = block.read_to, 0
        elif len(buffer) > LARGEST_PAGE:
            raise BadInput(f"{path}: no </page> in {len(buffer)} bytes after byte {begin}; the file is damaged")
    _require_end_of_dump(path, tail, size)
    yield Job(path, "bz2", begin, size, bytes(buffer))


def _blocks(path: str, kind: InputKind, start: int) -> Iterator[_Block]:
    """The file's decompressed content from byte ``start`` (the start of a stream) to the file's end."""
    if kind == "bz2":
        yield from _bz2_blocks(path, start)
        return
    with Path(path).open("rb") as file:
        file.seek(start)
        while data := file.read(_READ):
            yield _Block(data, file.tell() - len(data), file.tell())


def _bz2_blocks(path: str, start: int) -> Iterator[_Block]:
    with Path(path).open("rb") as file:
        file.seek(start)
        fed, pending = start, b""
        while True:
            if len(pending) < len(b"BZh9"):
                more = file.read(_READ)
                pending, fed = pending + more, fed + len(more)
            if not pending:
                return
            stream, decompressor = fed - len(pending), bz2.BZ2Decompressor()
            if not pending.startswith(b"BZh"):
                raise BadInput(f"{path}: no bz2 stream at byte {stream}; the file is damaged, download it again")
            yield _Block(b"", stream, fed)  # tells a job that its last stream is over before the next is decompressed
            while not decompressor.eof:
                try:
                    data = decompressor.decompress(pending, max_length=LARGEST_BLOCK)
                except (OSError, ValueError):
                    raise BadInput(
                        f"{path}: is damaged before byte {fed}, in the bz2 stream that begins at byte {stream}; "
                        "download it again"
                    ) from None
                if data:
                    yield _Block(data, stream, fed)
                pending = b""
                if decompressor.needs_input and not decompressor.eof:
                    pending = file.read(_READ)
                    fed += len(pending)
                    if not pending:
                        raise BadInput(
                            f"{path}: is truncated: it ends at byte {fed}, inside the bz2 stream that begins at byte "
                            f"{stream}; download it again"
                        )
            pending = decompressor.unused_data


def _page_elements(blocks: Iterator[_Block], job: Job) -> Iterator[tuple[bytes, int]]:
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
            end = buffer.find(_PAGE_END, searched)
            if end < 0:
                searched = max(begin, len(buffer) - len(_PAGE_END) + 1)
                break
            yield bytes(buffer[begin:end]), offset
            position, begin = end + len(_PAGE_END), -1
        if begin < 0:
            if block.is_past(job) and not _may_begin_page(buffer, owned):
                return
            keep = max(position, len(buffer) - _TAIL)  # a tag may be cut by the block's end
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
        if seen > len(_DUMP_END) or not _DUMP_END.endswith(tail.strip()):
            _require_end_of_dump(job.path, tail, job.end)


def _may_begin_page(buffer: bytearray, owned: int) -> bool:
    """Whether a ``<page>`` tag may begin in the owned bytes and be cut by the buffer's end."""
    beyond = len(buffer) - owned
    return any(buffer.endswith(_PAGE[:length]) for length in range(beyond + 1, len(_PAGE)))


def _require_end_of_dump(path: str, tail: bytes, size: int) -> None:
    if _DUMP_END not in tail:
        raise BadInput(f"{path}: is truncated: it ends at byte {size} without </mediawiki>; download it again")


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
