"""Turn pages into articles, and decide which pages are dropped and why."""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args
from urllib.parse import quote

from megatron_pz.wikipedia.read.damage import DamageLog
from megatron_pz.wikipedia.read.dump import SiteInfo
from megatron_pz.wikipedia.read.page import WIKITEXT, Page
from megatron_pz.wikipedia.read.streams import Job
from megatron_pz.wikitext import localization
from megatron_pz.wikitext.extract import TextOptions, wikitext_to_paragraphs
from megatron_pz.wikitext.localization import Wiki
from megatron_pz.wikitext.marks import INVISIBLE
from megatron_pz.wikitext.templates.from_dump import DumpTemplates
from megatron_pz.wikitext.words import count_words

DropReason = Literal["namespace", "not_wikitext", "redirect", "disambiguation", "list", "too_short"]
TemplateSource = Literal["auto", "dump", "tables"]
DROP_REASONS: tuple[str, ...] = get_args(DropReason)

_TEMPLATE_AT_AN_END = 1 << 12
"""Characters at the beginning and the end of a page that are searched for the template of a disambiguation."""
_NOT_READ = re.compile(r"<!--(?:.*?-->|.*+)|<nowiki>(?:.*?</nowiki>|.*+)", re.DOTALL | re.IGNORECASE)
"""Matches comments and text that is not wikitext, in which a template's name is not a call."""
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_PARAGRAPH_BREAK = re.compile(r"\n[ \t]*\n\s*")


@dataclass(frozen=True)
class Article:
    """An encyclopedia article as clean text."""

    page_id: str
    revision_id: str
    """Empty if the input does not state it."""
    title: str
    url: str
    paragraphs: tuple[str, ...]
    """The paragraphs, none empty; a list is one paragraph with one item per line."""


@dataclass(frozen=True)
class ArticleOptions:
    """The options that determine which pages become articles."""

    drop_lists: bool = False
    """Drop pages whose title names a list ("List of …")."""
    min_article_words: int = 20
    """Articles with fewer words are dropped."""
    templates: TemplateSource = "auto"
    """Source of templates that the package's tables do not know: the dump's own templates, where they can be had
    without decompressing a large file twice (auto) or in any case (dump), or nothing (tables)."""


def wiki_of(site: SiteInfo, templates: DumpTemplates | None = None) -> Wiki:
    """Return the facts about a wiki that the scanner needs."""
    return Wiki(
        templates=templates,
        language=site.language,
        file_namespaces=localization.namespace_names(localization.FILE, site.language, site.namespaces),
        category_namespaces=localization.namespace_names(localization.CATEGORY, site.language, site.namespaces),
    )


class ArticleReader:
    """Turns the pages of one dump into articles."""

    def __init__(
        self, site: SiteInfo, text: TextOptions, options: ArticleOptions, templates: DumpTemplates | None = None
    ) -> None:
        self._wiki = wiki_of(site, templates)
        self._article_url = site.article_url
        self._text = text
        self._options = options
        self.dropped_sentences: dict[str, int] = {}
        """Number of sentences dropped so far because they lost a word, by reason."""
        self.lost_parts: dict[str, int] = {}
        """Number of constructs that were not understood and vanished from text that stays, by place and reason."""
        self._namespaces = localization.Namespaces(site.language, site.namespaces)
        self._disambiguation = localization.DisambiguationTemplates(
            site.language, templates.disambiguations if templates else ()
        )

    def read(self, page: Page) -> Article | DropReason:
        """Return the page's article, or the reason why it has none. The expensive conversion comes last."""
        namespace = self._namespaces.number_of(page.title) if page.namespace is None else page.namespace
        if namespace != 0:
            return "namespace"
        if page.model != WIKITEXT:
            return "not_wikitext"
        if page.redirect is not None:
            return "redirect"
        if localization.is_disambiguation_title(page.title):
            return "disambiguation"
        text = page.text
        if localization.is_redirect(text, self._wiki.language):
            return "redirect"
        ends = (
            text if len(text) <= 2 * _TEMPLATE_AT_AN_END else text[:_TEMPLATE_AT_AN_END] + text[-_TEMPLATE_AT_AN_END:]
        )
        if "<!--" in ends:  # a comment may stand inside a call
            ends = _COMMENT.sub("", ends)
        if localization.has_disambiguation_word(text, self._wiki.language) or self._disambiguation.are_in(ends):
            text_read, ends_read = (_NOT_READ.sub("", part) for part in (text, ends))
            word = localization.has_disambiguation_word(text_read, self._wiki.language)
            if word or self._disambiguation.are_in(ends_read):
                return "disambiguation"
        if self._options.drop_lists and localization.is_list_title(page.title):
            return "list"
        paragraphs = wikitext_to_paragraphs(
            text, page.title, self._wiki, self._text, self.dropped_sentences, self.lost_parts
        )
        if not _has_words(paragraphs, self._options.min_article_words):
            return "too_short"
        url = self._article_url + quote(page.title.replace(" ", "_"), safe="/:(),!*'@;")
        return Article(page.page_id, page.revision_id, page.title, url, tuple(paragraphs))


def read_extracts(job: Job, options: ArticleOptions, damage: DamageLog) -> Iterator[Article | DropReason]:
    """Yield the articles of a ``.jsonl`` file whose lines begin in the job's range.

    A line is ``{"id": …, "title": …, "text": …}`` with optional ``url`` and ``revision_id``; the text is clean, its
    paragraphs separated by blank lines. Any other line is reported with its byte offset.
    """
    for line, offset in _lines(job):
        if not line.strip():
            continue
        try:
            article = _read_extract(line, options)
        except UnicodeEncodeError as error:
            half = ascii(error.object[error.start])
            damage.report(job.path, offset, f"the line at byte {offset} holds half a surrogate pair: {half}")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            ending = " (the file ends here; it may be truncated)" if not line.endswith(b"\n") else ""
            damage.report(
                job.path,
                offset,
                f'the line at byte {offset} is not {{"id": …, "title": …, "text": "…"}}{ending}',
            )
        else:
            yield article


def _lines(job: Job) -> Iterator[tuple[bytes, int]]:
    """Yield (line, byte offset for messages) for the lines that the job owns."""
    if job.payload is not None:
        yield from ((line, job.start) for line in io.BytesIO(job.payload))
        return
    with Path(job.path).open("rb") as file:
        file.seek(max(job.start - 1, 0))
        if job.start:
            file.readline()  # this line belongs to the previous range
        while (offset := file.tell()) < job.end and (line := file.readline()):
            yield line, offset


def _read_extract(line: bytes, options: ArticleOptions) -> Article | DropReason:
    record = json.loads(line.removeprefix(b"\xef\xbb\xbf"))
    if not all(isinstance(record[name], str | int | float) for name in ("id", "title")):
        raise ValueError("an id or a title is not text")
    page_id, title, text = str(record["id"]), str(record["title"]), record["text"]
    for value in (page_id, title, text, str(record.get("revision_id")), str(record.get("url"))):
        value.encode()  # raises UnicodeEncodeError for half a surrogate pair in JSON
    title, text = _visible(title), _visible(text.replace("\r\n", "\n"))
    blocks = _PARAGRAPH_BREAK.split(text)
    if localization.is_disambiguation_title(title):
        return "disambiguation"
    if options.drop_lists and localization.is_list_title(title):
        return "list"
    lines = ([" ".join(line.split()) for line in block.split("\n")] for block in blocks)
    paragraphs = [paragraph for block in lines if (paragraph := "\n".join(line for line in block if line))]
    if not _has_words(paragraphs, options.min_article_words):
        return "too_short"
    return Article(
        page_id=page_id,
        revision_id=str(record.get("revision_id") or ""),
        title=title,
        url=str(record.get("url") or ""),
        paragraphs=tuple(paragraphs),
    )


def _visible(text: str) -> str:
    """Return a text without the control and format characters that the scanner removes from dumps."""
    return INVISIBLE.sub(lambda found: " " if found[0].isspace() else "", text) if INVISIBLE.search(text) else text


def split_of(title: str, shares: Sequence[float]) -> int:
    """Return the split to which an article belongs, by blake2b of its title.

    The title is used instead of the page id, so that an article in a dump and in an extract (under another id), or in
    dumps of two dates, is always in the same split. Case and white space are normalised.

    Args:
        title: Title of the article.
        shares: Relative size of every split.
    """
    if len(shares) == 1:
        return 0
    key = " ".join(title.replace("_", " ").split()).casefold()
    digest = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    point = int.from_bytes(digest, "big") / 2**64 * sum(shares)
    for number, share in enumerate(shares[:-1]):
        if point < share:
            return number
        point -= share
    return len(shares) - 1


def _has_words(paragraphs: Sequence[str], least: int) -> bool:
    """Return whether the paragraphs have at least a number of words, without counting long articles to their end."""
    words = 0
    for paragraph in paragraphs:
        words += count_words(paragraph)
        if words >= least:
            return True
    return least <= 0
