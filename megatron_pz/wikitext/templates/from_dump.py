"""Interpret a wiki's templates from their own wikitext in its dump.

A redirect renders as its target. A template that is a box or a notice shows no word of the article. Any other template
is expanded as in MediaWiki (parameters with defaults, ``#if``, ``#ifeq``, ``#switch``), and the result is scanned like
the text of a page. A template that needs more, such as a Lua module, stays unknown.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from megatron_pz.wikitext import templates
from megatron_pz.wikitext.localization import DisambiguationTemplates, has_disambiguation_word
from megatron_pz.wikitext.marks import DROPPED, UNKNOWN
from megatron_pz.wikitext.templates.expansion import PLACEHOLDER, Expansion, NotUnderstood, balanced, with_values

if TYPE_CHECKING:
    from megatron_pz.wikitext.localization import Wiki

_REDIRECT, _BOX, _DISAMBIGUATION, _AMBIGUOUS = ">", "box", "disambiguation", "?"
_BODY: Final = "="
_LONGEST_BODY: Final = 4000
_LONGEST_CONSTANT: Final = 60
"""Longest body without parameters, in characters. A longer one is a notice, not a part of a sentence."""
_MAX_DEPTH: Final = 6
_MAX_CALLS: Final = 50
_MAX_REDIRECTS: Final = 5
_COMMENT = re.compile(r"<!--.*?(?:-->|$)", re.DOTALL)
_SUBSTITUTION = re.compile(r"\{\{\{\|(?:safe)?subst:\}\}\}|(?<=\{\{)(?:safe)?subst:", re.IGNORECASE)
"""Matches prefixes that expand a call when the page is saved; they have no effect here."""
_ONLY_INCLUDED = re.compile(r"<onlyinclude>(.*?)(?:</onlyinclude>|$)", re.DOTALL | re.IGNORECASE)
_NOT_INCLUDED = re.compile(r"<noinclude\s*>.*?(?:</noinclude\s*>|$)", re.DOTALL | re.IGNORECASE)
_INCLUDE_TAGS = re.compile(r"</?(?:includeonly|noinclude)\s*/?>", re.IGNORECASE)
_BOX_CALL = re.compile(
    r"\{\{\s*(?:template:)?[^{}|<>]*(?:navbox|infobox|taxobox|sidebar|[atofc]?mbox|asbox|hatnote|rellink|fix(?!-span)(?:-\w+)?)\s*[|}\n]",
    re.IGNORECASE,
)
_BOX_CLASS = re.compile(
    r"class\s*=\s*[\"'][^\"']*\b(?:navbox|infobox|[atofc]?mbox|metadata|noprint|hatnote|dablink|stub|sidebar|navigation)",
    re.IGNORECASE,
)
_RAISED_NOTE = re.compile(r"<sup\b[^<>]*>[\s']*(?:\[(?!\[)|&#91;).*(?:\]|&#93;)[\s']*</sup>", re.DOTALL | re.IGNORECASE)
"""Matches a template that shows nothing but a note such as "[who?]"."""
_BLOCK = re.compile(r"\{\||<(?:div|table|center|ul|ol)\b|\{\{\(!\}\}|^[:*#;=]|\n\s*[*#:;=]|\n\s*\n", re.IGNORECASE)
_POINTER_ABROAD = re.compile(
    r"<(sup|small|span)\b[^<>]*>(?:(?!</?\1\b).)*?\[\[:(?!\{\{\{[^{}]*\}\}\}[|\]])(?:(?!</?\1\b).)*</\1\s*>",
    re.DOTALL | re.IGNORECASE,
)
"""Matches the small "(en)" after a link helper's label, a link to the article in another language."""
_INLINE_TAG = re.compile(r"<(/?)(sup|small|span)\b([^<>]*)>", re.IGNORECASE)
_NOT_PRINTED = re.compile(r"\bclass\s*=\s*[\"'][^\"']*\bnoprint\b", re.IGNORECASE)
"""Matches the attribute of an element that is no text of the article, such as a link to edit it."""
_PROBE: Final = "SHOWN"
_SHOWN_PARAMETERS: Final = ("1", "text", "content")


def summary(wikitext: str, redirect: str | None, language: str = "en") -> str | None:
    """Reduce a template's page to the parts needed for rendering; return None if it cannot be understood.

    Args:
        wikitext: Wikitext of the template's page.
        redirect: Title to which the page redirects, None for other pages.
        language: Language of the wiki.
    """
    if redirect is not None:
        return f"{_REDIRECT}{redirect}" if redirect else None
    body = _included(wikitext)
    if has_disambiguation_word(body, language) or _disambiguations(language).are_in(body):
        return _DISAMBIGUATION
    body = _printed(_POINTER_ABROAD.sub("", body)).strip()
    if _BOX_CALL.search(body):
        body = _beside_boxes(body)
    if _BOX_CLASS.search(body) or _RAISED_NOTE.fullmatch(body) or not body:
        return _BOX
    if len(body) > _LONGEST_BODY or "#invoke:" in body.casefold() or _BLOCK.search(body) or PLACEHOLDER.search(body):
        return None
    return f"{_BODY}{body}"


def by_name(of_titles: Mapping[str, str]) -> dict[str, str]:
    """Return the summaries of templates by normalised name.

    Titles that differ only in capitals share a name. If their templates differ, the name is ambiguous, and each title
    is a key of its own.

    Args:
        of_titles: Summary by title without the namespace, empty for a template that is not understood.
    """
    named: dict[str, str] = {}
    for title, found in of_titles.items():
        name = templates.template_name(title)
        leads_to_itself = found.startswith(_REDIRECT) and templates.template_name(_target(found)) == name
        if not leads_to_itself and named.setdefault(name, found) != found:
            named[name] = _AMBIGUOUS
    ambiguous = {title for title in of_titles if named.get(templates.template_name(title)) == _AMBIGUOUS}
    return {name: found for name, found in named.items() if found} | {title: of_titles[title] for title in ambiguous}


def _target(redirect: str) -> str:
    """Return the title, without the namespace, to which a redirect leads."""
    title = redirect.removeprefix(_REDIRECT)
    return title.partition(":")[2] or title


def _title(text: str) -> str:
    """Return a template's title from the name in a call: without a namespace, with a capital."""
    name = " ".join((text.partition(":")[2] or text).replace("_", " ").split())
    return name[:1].upper() + name[1:]


@functools.cache
def _disambiguations(language: str) -> DisambiguationTemplates:
    return DisambiguationTemplates(language)


def _included(wikitext: str) -> str:
    """Return the part of a template's page that is transcluded by pages that call it."""
    text = _COMMENT.sub("", wikitext)
    only = _ONLY_INCLUDED.findall(text)
    included = "".join(only) if only else _INCLUDE_TAGS.sub("", _NOT_INCLUDED.sub("", text))
    return _SUBSTITUTION.sub("", included).strip()


def _printed(body: str) -> str:
    """Remove the elements that are not printed, with those inside them."""
    parts: list[str] = []
    start = depth = 0  # of the text that is kept; elements open since one that is not printed
    opened = ""
    for tag in _INLINE_TAG.finditer(body):
        name = tag[2].casefold()
        if depth == 0 and not tag[1] and _NOT_PRINTED.search(tag[3]):
            parts.append(body[start : tag.start()])
            start, depth, opened = tag.start(), 1, name
        elif depth and name == opened and not tag[3].endswith("/"):
            depth += -1 if tag[1] else 1
            if depth == 0:
                start = tag.end()
    return "".join(parts) + body[start:]


def _beside_boxes(body: str) -> str:
    """Remove the calls of boxes and notes; nothing is left unless the rest shows the template's first parameter."""
    if len(body) > _LONGEST_BODY:
        return ""
    parts: list[str] = []
    start = 0
    try:
        while found := _BOX_CALL.search(body, start):
            parts.append(body[start : found.start()])
            start = balanced(body, found.start())[1]
        rest = ("".join(parts) + body[start:]).strip()
        shows = rest and _PROBE in Expansion(dict.fromkeys(_SHOWN_PARAMETERS, _PROBE), [], "").text(rest)
    except (NotUnderstood, RecursionError):
        return ""
    return rest if shows else ""


class DumpTemplates:
    """The templates of one dump.

    Args:
        summaries: Result of :func:`summary` for each template, by normalised name.
        language: Language of the wiki.
    """

    def __init__(self, summaries: Mapping[str, str], language: str) -> None:
        self._summaries = summaries
        self._language = language
        self._known: dict[str, tuple[str, str]] = {}
        self._depth = self._calls = 0  # templates being expanded; templates expanded for the page's own call

    @functools.cached_property
    def disambiguations(self) -> frozenset[str]:
        """Return the normalised names of the templates that make a page a disambiguation, with their redirects.

        A template that calls one of these does so, too.
        """
        named = {name: self._summary(name)[1] for name in self._summaries}
        found: set[str] = set()
        more = {name for name, summary in named.items() if summary == _DISAMBIGUATION}
        while more:
            found |= more
            known = DisambiguationTemplates(self._language, found)
            more = {name for name, text in named.items() if name not in found and "{{" in text and known.are_in(text)}
        return frozenset(found)

    def name_and_mark(self, text: str) -> tuple[str, str]:
        """Return the name under which a template is rendered, or the mark of a template without text."""
        known = self._known.get(text)
        if known is None:
            known = self._known[text] = self._name_and_mark(text)
        return known

    def _name_and_mark(self, text: str) -> tuple[str, str]:
        target, found = self._summary(text)
        by_table = templates.name_and_mark(target, False, self._language)
        if by_table[1] != UNKNOWN:
            return by_table
        if found.startswith(_BODY) and ("{{{" in found or len(found) <= _LONGEST_CONSTANT):
            return templates.LEARNED + target, ""
        return "", DROPPED if found in (_BOX, _DISAMBIGUATION) else UNKNOWN

    def _summary(self, text: str) -> tuple[str, str]:
        """Return the key of a template at the end of a chain of redirects, and its summary, empty if it has none."""
        key, found = self._found(text)
        for _ in range(_MAX_REDIRECTS):
            if not found.startswith(_REDIRECT):
                break
            key, found = self._found(_target(found))
        return key, found

    def _found(self, text: str) -> tuple[str, str]:
        """Return the key and the summary of a template whose name is written so, empty if it has none."""
        name = templates.template_name(text)
        found = self._summaries.get(name, "")
        if found != _AMBIGUOUS:
            return name, found
        title = _title(text)
        return title, self._summaries.get(title, "")

    def render(self, name: str, parameters: Mapping[str, str], title: str, wiki: Wiki) -> str:
        """Render a template, with the marks of dropped constructs.

        Args:
            name: Name returned by :meth:`name_and_mark`.
            parameters: Rendered parameters.
            title: Title of the page.
            wiki: The wiki of these templates.
        """
        from megatron_pz.wikitext.scanner_form import marked_inline  # the scanner imports this package

        self._calls = self._calls + 1 if self._depth else 1
        if self._depth >= _MAX_DEPTH or self._calls > _MAX_CALLS:
            return UNKNOWN
        values: list[str] = []
        self._depth += 1
        try:
            expanded = Expansion(parameters, values, title).text(
                self._summaries[name.removeprefix(templates.LEARNED)][1:]
            )
            if len(expanded) > _LONGEST_BODY:
                return UNKNOWN
            shown = marked_inline(expanded, title, wiki)
        except (NotUnderstood, RecursionError):
            return UNKNOWN
        finally:
            self._depth -= 1
        return with_values(shown.strip(), values) or DROPPED
