"""Parse a ``<page>`` element of a dump: its fields, and the text of its newest revision.

MediaWiki writes pages in one fixed form (https://www.mediawiki.org/wiki/Help:Export, schemas export-0.3 to 0.11), which
is parsed by searching for its tags. A page in any other form (fields in another order, CDATA sections, comments) is
parsed by a general XML parser.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final
from xml.etree import ElementTree
from xml.parsers import expat
from xml.sax.saxutils import escape

from megatron_pz.wikitext.scanner_form import unescaped

WIKITEXT: Final = "wikitext"
"""Content model of articles; a dump that names no model holds nothing else."""


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a dump in its newest revision."""

    page_id: str
    revision_id: str
    title: str
    namespace: int | None
    """None if the dump does not state it, as before 2012; the title's prefix then determines it."""
    redirect: str | None
    """Title that the page redirects to, empty if the dump only says that it redirects; None for other pages."""
    escaped_text: bytes
    """Wikitext as written in the XML. Most pages of a dump are dropped before it must be decoded."""
    model: str = WIKITEXT
    """Content model: JSON, Lua and style sheets are also pages."""

    @property
    def text(self) -> str:
        """Return the wikitext, decoded at every call. Raise :class:`PageError` if it is not UTF-8."""
        return _unescape(self.escaped_text)


class PageError(Exception):
    """A page is malformed; the message describes how."""


_FIELDS = re.compile(
    rb"\s*<title>([^<]*\S)</title>\s*(?:<ns>(-?\d+)</ns>\s*)?<id>(\d+)</id>\s*"
    rb"(<redirect(?:\s+title=\"([^\"]*)\")?\s*/>)?"
)
_MISPLACED = re.compile(rb"<(?:ns|redirect)\b")
_REVISION = b"<revision>"
_REVISION_END = b"</revision>"
_ID = re.compile(rb"<id>(\d+)</id>")
_TIMESTAMP = re.compile(rb"<timestamp>([^<]*)</timestamp>")
_MODEL = re.compile(rb"<model>([^<]*)</model>")
_TEXT = re.compile(rb"<text(?:\s[^<>]*?)?(/?)>")
_TEXT_END = b"</text>"
_EXPAT_BUFFER = 1 << 20


def parse_page(page: bytes) -> Page:
    """Read the content of a ``<page>`` element. Raise :class:`PageError` if it has no title or no id."""
    fields = _FIELDS.match(page)
    if fields is None:
        return _parse_any_form(page)
    title, namespace, page_id, redirects, target = fields.groups()
    begin, end = _newest_revision(page, fields.end())
    if _MISPLACED.search(page, fields.end(), begin):
        return _parse_any_form(page)
    text, model = b"", None
    if element := _TEXT.search(page, begin, end):
        text_begin = text_end = element.end()
        if not element[1]:
            text_end = page.find(b"<", text_begin, end)
            if not page.startswith(_TEXT_END, text_end):
                return _parse_any_form(page)
            text = page[text_begin:text_end]
        model = _MODEL.search(page, begin, element.start()) or _MODEL.search(page, text_end, end)
    identity = _ID.search(page, begin, end)
    return Page(
        page_id=page_id.decode(),
        revision_id=identity[1].decode() if identity else "",
        title=_unescape(title),
        namespace=None if namespace is None else int(namespace),
        redirect=None if redirects is None else _unescape(target or b""),
        escaped_text=text,
        model=_model(_unescape(model[1])) if model else WIKITEXT,
    )


def _newest_revision(page: bytes, start: int) -> tuple[int, int]:
    """Find start and end of the revision with the latest timestamp, the last one if there are several."""
    newest, newest_time = (len(page), len(page)), b""
    begin = page.find(_REVISION, start)
    while begin >= 0:
        following = _next_revision(page, begin + len(_REVISION))
        end = page.rfind(_REVISION_END, begin, following if following >= 0 else len(page))
        if following < 0 and not newest_time:
            return begin, len(page) if end < 0 else end
        stamp = _TIMESTAMP.search(page, begin, len(page) if end < 0 else end)
        time = stamp[1] if stamp else newest_time
        if time >= newest_time:
            newest, newest_time = (begin, len(page) if end < 0 else end), time
        begin = following
    return newest


def _next_revision(page: bytes, start: int) -> int:
    """Find the start of the next revision, or -1. The text between two tags is skipped, because it may be long."""
    if text := _TEXT.search(page, start):
        if (found := page.find(_REVISION, start, text.start())) >= 0:
            return found
        start = max(page.find(b"<", text.end()), text.end())
    return page.find(_REVISION, start)


def _parse_any_form(page: bytes) -> Page:
    """Read a page with a general XML parser."""
    try:
        root = ElementTree.fromstring(b"<page>%b</page>" % page)
    except ElementTree.ParseError as error:
        raise PageError(f"is not XML in UTF-8 ({error})") from None
    title, page_id = root.findtext("title"), root.findtext("id")
    if not (title and title.strip()) or page_id is None or not page_id.strip().isdecimal():
        raise PageError("lacks its title or id")
    newest, newest_time = ElementTree.Element("revision"), ""
    for revision in root.iter("revision"):
        time = revision.findtext("timestamp") or newest_time
        if time >= newest_time:
            newest, newest_time = revision, time
    namespace, redirect = root.findtext("ns"), root.find("redirect")
    try:
        number = int(namespace) if namespace else None
    except ValueError:
        raise PageError(f"has the namespace {namespace!r}, which is not a number") from None
    return Page(
        page_id=page_id.strip(),
        revision_id=(newest.findtext("id") or "").strip(),
        title=title.strip(),
        namespace=number,
        redirect=None if redirect is None else redirect.get("title", ""),
        escaped_text=escape(next((text.text or "" for text in newest.iter("text")), "")).encode(),
        model=_model(next((model.text or "" for model in newest.iter("model")), "")),
    )


def _model(name: str) -> str:
    return name.strip() or WIKITEXT


def _unescape(value: bytes) -> str:
    """Decode UTF-8 with XML's character references; use expat for unusual references."""
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
