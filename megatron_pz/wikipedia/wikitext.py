"""Wikitext to text in one pass: a scanner with a stack of frames over the output buffer.

The scanner copies plain runs to the output and acts on the few characters that can begin or end markup. A construct
that needs its whole content before it can be shown (template, link, raised text) opens a frame, which remembers where
in the output its content begins; when it closes, that part of the output is replaced by what the construct shows. So
inner constructs are rendered before outer ones and nothing is read twice. A construct known to show nothing (most
templates, tables, files) opens a frame that drops its content and only counts its own brackets.

Time is linear whatever the input: frames are at most :data:`MAX_DEPTH` deep (content is moved once a level; below it
content is dropped and brackets are counted), and searches for a closing tag remember what they found. Broken markup
never swallows a page: a link ends with its paragraph and everything ends at a heading.

The form is that of Cython's pure-Python mode: plain loops and typed attributes, one function that looks for the next
character of interest (:meth:`_Scanner._next_special`).
"""

from __future__ import annotations

import html
import itertools
import re
from dataclasses import dataclass, field
from typing import Final

from megatron_pz.wikipedia import localization, templates
from megatron_pz.wikipedia.cleanup import paragraphs_of
from megatron_pz.wikipedia.localization import INTERLANGUAGE_PREFIX
from megatron_pz.wikipedia.marks import ALL, BREAK, DROPPED, HEADING, INDENT, INVISIBLE, ITEM, PARAGRAPH, SPACE

MAX_DEPTH: Final = 40
"""Deepest nesting whose content is kept; MediaWiki expands templates to a depth of 40 by default as well."""

TEMPLATE, LINK, EXTERNAL, TAG, TABLE = range(5)

# Characters that can begin or end markup: in running text, inside a template or link, inside dropped content.
_IN_TEXT = re.compile(r"[\n\[\]{}<&'_]")
_IN_FIELDS = re.compile(r"[\n\[\]{}<&'_|=]")
_IN_DROPPED = re.compile(r"[\n\[\]{}<]")

_URL = re.compile(r"\[(?:(?:https?|ftps?|ircs?|news|gopher|svn|git)://|//|mailto:)[^\s\[\]<>\"]*[ \t]*", re.IGNORECASE)
_ENTITY = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[a-zA-Z][a-zA-Z0-9]{1,31});")
_MAGIC_WORD = re.compile(r"__(?:[^\W\d_]|_(?!_)){3,40}__")
_TAG = re.compile(r"<(/?)([a-zA-Z][a-zA-Z0-9]*)((?:[\s/][^<>]*)?)>")
_LIST_MARKERS = re.compile(r"[*#:;]+[ \t]*")
_TABLE_MIDLINE = re.compile(r"\{\|[ \t]*(?:\n|class|style|border|width|align|cell|bgcolor|id=)")
_HIDDEN = re.compile(r"display\s*:\s*none", re.IGNORECASE)
_NEXT_HEADING = re.compile(r"\n==")
_HEADING_LINE = re.compile(r"\n(=+)[^\n]*")
_MARKS = re.compile(f"[{ALL}]")

_DROPPED_TAGS = frozenset(
    "ref references gallery timeline score imagemap graph mapframe maplink templatedata hiero inputbox templatestyles "
    "indicator chem categorytree includeonly score ce phonos style script".split()
)
_MATH_TAGS = frozenset(["math", "chem", "ce"])
_CODE_TAGS = frozenset(["syntaxhighlight", "source", "pre"])
_OPAQUE_TAGS = _DROPPED_TAGS | _MATH_TAGS | _CODE_TAGS | {"nowiki"}
_PARAGRAPH_TAGS = frozenset("p div blockquote center ul ol dl h1 h2 h3 h4 h5 h6 hr section poem".split())
_ITEM_TAGS = frozenset(["li", "dd", "dt"])
_INLINE_TAGS = frozenset(
    "b i u s a em strong small big span font tt code kbd samp var cite q abbr del ins strike mark bdi bdo dfn "
    "noinclude onlyinclude ruby rb rt rp rtc wbr nobr tr td th tbody thead caption time data label "
    "langconvert noscript img".split()
)
_CLOSING_TAGS = {name: re.compile(rf"</{name}\s*>", re.IGNORECASE) for name in _OPAQUE_TAGS}


@dataclass(frozen=True)
class TextOptions:
    """What of an article's text is kept beyond prose and lists."""

    keep_headings: bool = False
    """Keep section headings as lines of their own."""
    keep_math: bool = False
    """Keep the TeX source of formulas."""
    keep_code: bool = False
    """Keep code listings and preformatted blocks."""


@dataclass(frozen=True)
class Wiki:
    """Names that one wiki uses, from its dump's siteinfo and :mod:`megatron_pz.wikipedia.localization`."""

    language: str = "en"
    file_namespaces: frozenset[str] = localization.FILE_NAMESPACES
    category_namespaces: frozenset[str] = localization.CATEGORY_NAMESPACES
    trailing_sections: frozenset[str] = field(default_factory=lambda: localization.trailing_sections("en"))


@dataclass(slots=True)
class _Frame:
    kind: int
    start: int
    """Length of the output when it opened."""
    dropped: bool
    name: str = ""
    """Tag's name, or template's normalised name once the first ``|`` has been read."""
    braces: int = 2
    nested: int = 0
    """Brackets of the frame's own kind open inside, counted where content is dropped."""
    single: int = 0
    """Single brackets open inside, counted where content is dropped."""
    fields: list[int] = field(default_factory=list)
    """Length of the output at every ``|`` of this frame."""
    equals: list[int] = field(default_factory=list)
    """For every field, length of the output at its first ``=``, or -1."""


def wikitext_to_paragraphs(
    wikitext: str, title: str = "", wiki: Wiki | None = None, options: TextOptions | None = None
) -> list[str]:
    """Clean text of a page.

    Returns its paragraphs in order, none empty. A list is one paragraph, an item a line. Never raises, whatever the
    input; time is linear in its length.
    """
    options = options or TextOptions()
    marked = _Scanner(INVISIBLE.sub("", wikitext), title, wiki or Wiki(), options).scan()
    return paragraphs_of(marked, options.keep_headings, keep_source=options.keep_math or options.keep_code)


class _Scanner:
    def __init__(self, text: str, title: str, wiki: Wiki, options: TextOptions) -> None:
        self.text = text
        self.size = len(text)
        self.position = 0
        self.title = title
        self.wiki = wiki
        self.options = options
        self.out: list[str] = []
        self.frames: list[_Frame] = []
        self.closing_tags: dict[str, tuple[int, int]] = {}
        self.next_heading = -1

    def scan(self) -> str:
        """The whole text with the marks of :mod:`megatron_pz.wikipedia.marks`."""
        self._begin_line()
        while self.position < self.size:
            top = self.frames[-1] if self.frames else None
            end = self._next_special(top)
            if end > self.position and (top is None or not top.dropped):
                self.out.append(self.text[self.position : end])
            self.position = end
            if end < self.size:
                self._special(self.text[end], top)
        self._abandon_from(0)
        return "".join(self.out)

    def _next_special(self, top: _Frame | None) -> int:
        pattern = _IN_TEXT if top is None else _IN_DROPPED if top.dropped else _IN_FIELDS
        match = pattern.search(self.text, self.position)
        return match.start() if match else self.size

    def _special(self, character: str, top: _Frame | None) -> None:
        if character == "\n":
            self._newline(top)
        elif character == "[":
            self._open_bracket(top)
        elif character == "]":
            self._close_bracket(top)
        elif character == "{":
            self._open_brace(top)
        elif character == "}":
            self._close_brace(top)
        elif character == "<":
            self._angle(top)
        elif character == "'":
            self._quotes()
        elif character == "|":
            self._field(top)
        elif character == "=":
            self._equals(top)
        elif character == "&":
            self._entity()
        else:
            self._underscore()

    def _emit(self, text: str, length: int) -> None:
        """Put out ``text`` in place of the next ``length`` characters."""
        self.out.append(text)
        self.position += length

    def _run(self, character: str) -> int:
        """How often the character at the position is repeated."""
        end = self.position + 1
        while end < self.size and self.text[end] == character:
            end += 1
        return end - self.position

    # Frames

    def _push(self, kind: int, dropped: bool = False, name: str = "", braces: int = 2) -> None:
        outer_dropped = bool(self.frames) and self.frames[-1].dropped
        deep = len(self.frames) >= MAX_DEPTH
        self.frames.append(_Frame(kind, len(self.out), dropped or outer_dropped or deep, name, braces))

    def _close(self, shown: str) -> None:
        """Close the innermost frame: its content becomes ``shown``."""
        frame = self.frames.pop()
        del self.out[frame.start :]
        if not (self.frames and self.frames[-1].dropped):
            self.out.append(shown)

    def _abandon_from(self, depth: int) -> None:
        """Give up the frames from ``depth`` on, whose ends are missing: kept content stays, dropped content is gone."""
        while len(self.frames) > depth:
            frame = self.frames.pop()
            if frame.kind == LINK and frame.fields:
                del self.out[frame.start : frame.fields[-1]]
            if frame.dropped and not (self.frames and self.frames[-1].dropped):
                self.out.append(DROPPED)

    def _innermost(self, kind: int, name: str = "") -> int:
        """Depth of the innermost frame of this kind that may end here, or -1.

        Only a template's end reaches across everything; other ends do not leave the template or table they are in.
        """
        for depth in range(len(self.frames) - 1, -1, -1):
            frame = self.frames[depth]
            if frame.kind == kind and (not name or frame.name == name):
                return depth
            if kind != TEMPLATE and frame.kind in (TEMPLATE, TABLE):
                return -1
        return -1

    # Lines

    def _newline(self, top: _Frame | None) -> None:
        if top is None or not top.dropped:
            self.out.append("\n")
        if top is not None and (top.kind == EXTERNAL or (top.kind == LINK and not (top.fields or top.dropped))):
            self._abandon_from(len(self.frames) - 1)
        self.position += 1
        following = self.position
        while following < self.size and self.text[following] in " \t":
            following += 1
        if following < self.size and self.text[following] == "\n":
            self.position = following
            self._end_paragraph()
        else:
            self._begin_line()

    def _end_paragraph(self) -> None:
        depth = len(self.frames)
        while depth and self._ends_with_paragraph(self.frames[depth - 1]):
            depth -= 1
        self._abandon_from(depth)

    @staticmethod
    def _ends_with_paragraph(frame: _Frame) -> bool:
        if frame.kind == TAG:
            return not (frame.dropped and frame.name in ("table", "div"))
        return frame.kind in (LINK, EXTERNAL)

    def _begin_line(self) -> None:
        text, size = self.text, self.size
        start = self.position
        while start < size and text[start] in " \t":
            start += 1
        if start >= size:
            return
        character = text[start]
        top = self.frames[-1] if self.frames else None
        if character == "=" and start == self.position:
            self._heading()
        elif character in "*#:;" and not (top and (top.dropped or top.kind != TEMPLATE)):
            self._list_item(start)
        elif text.startswith("{|", start) and not text.startswith("{|}", start):
            self.position = start
            self._open_table(top)
        elif character == "|":
            self._bar_at_line_start(start, top)
        elif text.startswith("----", start) and top is None:
            self.position = start
            self._emit(PARAGRAPH, self._run("-"))

    def _open_table(self, top: _Frame | None) -> None:
        if top and top.dropped and top.kind == TABLE:
            top.nested += 1
        elif not (top and top.dropped):
            self._push(TABLE, dropped=True)
        self.position += 2

    def _bar_at_line_start(self, start: int, top: _Frame | None) -> None:
        if top is None:
            # A row of a table whose beginning is missing.
            end = self.text.find("\n", start)
            self.position = end if end >= 0 else self.size
        elif top.kind == TABLE and self.text.startswith("|}", start):
            self.position = start + 2
            if top.nested:
                top.nested -= 1
            else:
                self._close(PARAGRAPH)

    def _list_item(self, start: int) -> None:
        match = _LIST_MARKERS.match(self.text, start)
        assert match is not None
        markers = match[0]
        self.out.append(ITEM if "*" in markers or "#" in markers else INDENT)
        self.position = match.end()
        if self.text.startswith("{|", self.position):
            self._open_table(self.frames[-1] if self.frames else None)

    def _heading(self) -> None:
        end = self.text.find("\n", self.position)
        end = end if end >= 0 else self.size
        line = self.text[self.position : end]
        comment = line.find("<!--")
        if comment >= 0:
            end, line = self.position + comment, line[:comment]
        line = line.rstrip()
        level = min(len(line) - len(line.lstrip("=")), len(line) - len(line.rstrip("=")), 6)
        if len(line) <= 2 * level or level < (2 if self.frames else 1):
            return
        self._abandon_from(0)
        heading = _plain(line[level:-level], self.wiki)
        self.position = end
        if heading.casefold().rstrip(":") in self.wiki.trailing_sections:
            self._skip_section(level)
        else:
            self.out.append(f"{PARAGRAPH}{HEADING}{level}{heading}{PARAGRAPH}")

    def _skip_section(self, level: int) -> None:
        """Go on at the next heading of this level or a higher one."""
        for match in _HEADING_LINE.finditer(self.text, self.position):
            if len(match[1]) <= level and "=" in match[0].lstrip("\n="):
                self.position = match.start()
                return
        self.position = self.size

    # Brackets

    def _open_bracket(self, top: _Frame | None) -> None:
        run = self._run("[")
        if top and top.dropped:
            if top.kind == LINK:
                top.nested += run // 2
                top.single += run % 2
            self.position += run
        elif run == 1:
            url = _URL.match(self.text, self.position)
            if url:
                self.position = url.end()
                self._push(EXTERNAL)
            else:
                self._emit("[", 1)
        else:
            if run % 2:
                self._emit("[", 1)
            self.position += 2
            self._push(LINK)

    def _close_bracket(self, top: _Frame | None) -> None:
        run = self._run("]")
        if top and top.dropped:
            self._close_dropped(top, LINK, run)
            return
        while run > 0:
            external, link = self._innermost(EXTERNAL), self._innermost(LINK)
            if external > link:
                self._abandon_from(external + 1)
                used = 1
                self._close("".join(self.out[self.frames[-1].start :]).strip() or DROPPED)
            elif link >= 0 and run >= 2:
                self._abandon_from(link + 1)
                used = 2
                self._close_link()
            else:
                used = min(run, 2)
                if used == 1:
                    self.out.append("]")
            run -= used
            self.position += used

    def _close_dropped(self, top: _Frame, kind: int, run: int) -> None:
        """Closing brackets inside dropped content: only those of the frame's own kind count."""
        if top.kind != kind:
            self.position += run
            return
        if run % 2 and top.single:  # [[File:a.jpg|thumb|[http://x y]]]
            top.single -= 1
            run -= 1
            self.position += 1
        pairs = run // 2
        if pairs == 0:
            self.position += run
            return
        inner = min(top.nested, pairs)
        top.nested -= inner
        if pairs > inner:
            self._close(DROPPED)
            self.position += 2 * (inner + 1)
        else:
            self.position += run

    def _close_link(self) -> None:
        target, *labels = self._fields(self.frames[-1])
        target = target.strip()
        namespace = self._namespace(target)
        if target.startswith(":"):
            target = target[1:].lstrip()
        elif self._is_silent_namespace(namespace) or (not labels and INTERLANGUAGE_PREFIX.match(namespace)):
            self._close(DROPPED)
            return
        if labels:
            label = "|".join(labels)
            if not label.strip():  # the "pipe trick", expanded by MediaWiki when a page is saved
                label = re.sub(r"\s*\([^()]*\)$|,.*$", "", target.rpartition(":")[2])
        else:
            label = target.replace("_", " ")
        self._close(label)

    @staticmethod
    def _namespace(target: str) -> str:
        prefix, colon, _ = target.partition(":")
        return prefix.strip().replace(" ", "_").casefold() if colon else ""

    def _is_silent_namespace(self, namespace: str) -> bool:
        return namespace in self.wiki.file_namespaces or namespace in self.wiki.category_namespaces

    def _fields(self, frame: _Frame) -> list[str]:
        edges = [frame.start, *frame.fields, len(self.out)]
        return ["".join(self.out[begin:end]) for begin, end in itertools.pairwise(edges)]

    # Braces

    def _open_brace(self, top: _Frame | None) -> None:
        run = self._run("{")
        if top and top.dropped and top.kind == TEMPLATE:
            top.nested += run // 2
            self.position += run
        elif run == 1:
            if top and top.dropped:
                self.position += 1
            elif _TABLE_MIDLINE.match(self.text, self.position):  # after a template that ends in a line break
                self._open_table(top)
            else:
                self._emit("{", 1)
        else:
            braces = 3 if run == 3 else 2
            self.position += braces
            self._push(TEMPLATE, braces=braces)

    def _close_brace(self, top: _Frame | None) -> None:
        run = self._run("}")
        if top and top.dropped and top.kind == TEMPLATE:
            self._close_dropped(top, TEMPLATE, run)
            return
        depth = self._innermost(TEMPLATE)
        if depth < 0 or run == 1:
            if run == 1 and not (top and top.dropped):
                self.out.append("}")
            self.position += run
            return
        self._abandon_from(depth + 1)
        frame = self.frames[-1]
        self.position += min(run, frame.braces)
        if frame.dropped:
            self._close(DROPPED)
        else:
            self._close_template(frame, is_parameter=frame.braces == 3 and run >= 3)

    def _field(self, top: _Frame | None) -> None:
        """A ``|``: it ends a field of a template or link, and tells what the construct is."""
        if top is None or top.kind not in (TEMPLATE, LINK):
            self._emit("|", 1)
            return
        self.position += 1
        if not top.fields:
            first = "".join(self.out[top.start :])
            if top.kind == LINK:
                silent = self._is_silent_namespace(self._namespace(first.strip()))
            else:
                top.name = templates.template_name(_MARKS.sub("", first))
                silent = top.braces == 2 and not templates.is_shown(top.name)
            if silent:
                top.dropped = True
                del self.out[top.start :]
                return
        top.fields.append(len(self.out))
        top.equals.append(-1)

    def _equals(self, top: _Frame | None) -> None:
        if top is not None and top.kind == TEMPLATE and top.fields and top.equals[-1] < 0:
            top.equals[-1] = len(self.out)
            self.position += 1
        else:
            self._emit("=", 1)

    def _close_template(self, frame: _Frame, is_parameter: bool) -> None:
        first, *rest = self._fields(frame)
        if is_parameter:  # {{{name|default}}}
            self._close(rest[0] if rest else "")
            return
        name = frame.name or templates.template_name(_MARKS.sub("", first))
        if name in ("pagename", "fullpagename", "basepagename", "subst:pagename"):
            self._close(self.title)
        elif templates.is_shown(name):
            self._close(templates.render(name, first, self._parameters(frame)))
        else:
            self._close(DROPPED)

    def _parameters(self, frame: _Frame) -> dict[str, str]:
        parameters: dict[str, str] = {}
        count = 0
        edges = [*frame.fields, len(self.out)]
        for number, (begin, end) in enumerate(itertools.pairwise(edges)):
            equals = frame.equals[number]
            if equals >= 0:
                parameters["".join(self.out[begin:equals]).strip()] = "".join(self.out[equals:end]).strip()
            else:
                count += 1
                parameters[str(count)] = "".join(self.out[begin:end]).strip()
        return parameters

    # Tags, comments, entities, quotes

    def _angle(self, top: _Frame | None) -> None:
        if self.text.startswith("<!--", self.position):
            self._comment()
            return
        match = _TAG.match(self.text, self.position)
        dropped = bool(top and top.dropped)
        if match is None:
            self._broken_tag(dropped)
            return
        name = match[2].lower()
        closing, alone = bool(match[1]), match[3].endswith("/")
        start = self.position
        self.position = match.end()
        if name in _OPAQUE_TAGS:
            self._opaque_tag(name, closing or alone, dropped)
        elif dropped:
            self._tag_in_dropped(name, closing, alone)
        elif name in ("sup", "sub") or (closing and self._innermost(TAG, name) >= 0):
            self._framed_tag(name, closing, alone)
        elif not (closing or alone) and (name == "table" or _HIDDEN.search(match[3])):
            self._push(TAG, dropped=True, name=name)
        elif name == "br":
            self.out.append(BREAK)
        elif name in _PARAGRAPH_TAGS:
            self.out.append(PARAGRAPH)
        elif name in _ITEM_TAGS:
            self.out.append("\n" if closing else f"\n{ITEM}")
        elif name not in _INLINE_TAGS and name != "table":
            self.position = start
            self._emit("<", 1)  # not HTML: text such as <stdio.h>

    def _comment(self) -> None:
        start = self.position
        end = self.text.find("-->", start + 4)
        self.position = end + 3 if end >= 0 else self.size
        alone = (start == 0 or self.text[start - 1] == "\n") and self.text.startswith("\n", self.position)
        if alone:  # its line goes with it
            self.position += 1
            self._begin_line()

    def _broken_tag(self, dropped: bool) -> None:
        opening = re.compile(r"</?(?:ref|references)\b", re.IGNORECASE).match(self.text, self.position)
        if opening:
            end = self.text.find(">", self.position, self.position + 300)
            self.position = end + 1 if end >= 0 else opening.end()
        elif dropped:
            self.position += 1
        else:
            self._emit("<", 1)

    def _opaque_tag(self, name: str, alone: bool, dropped: bool) -> None:
        """A tag whose content is no wikitext: drop it, or keep it as it is."""
        content_start = self.position
        begin, end = (content_start, content_start) if alone else self._closing_tag(name)
        missing = not alone and end == content_start
        if name == "ref" and (missing or begin > self._heading_after(content_start)):
            # The end is missing: what follows the line, or a heading, is no part of the note.
            newline = self.text.find("\n", content_start)
            begin = end = newline if newline >= 0 else self.size
        self.position = end
        if dropped:
            return
        content = INVISIBLE.sub("", html.unescape(self.text[content_start:begin]))
        if name == "nowiki":
            self.out.append(content)
        elif name in _MATH_TAGS and self.options.keep_math:
            self.out.append(" ".join(content.split()))
        elif name in _CODE_TAGS and self.options.keep_code:
            code = content.strip("\n").replace(" ", SPACE).replace("\n", BREAK)
            self.out.append(f"{PARAGRAPH}{SPACE}{code}{PARAGRAPH}")
        else:
            self.out.append(DROPPED)

    def _closing_tag(self, name: str) -> tuple[int, int]:
        """Where the closing tag begins and ends; here and here if it is missing."""
        known = self.closing_tags.get(name, (-1, -1))
        if known[0] < self.position:
            match = _CLOSING_TAGS[name].search(self.text, self.position)
            known = self.closing_tags[name] = (match.start(), match.end()) if match else (self.size + 1, self.size + 1)
        return known if known[0] <= self.size else (self.position, self.position)

    def _heading_after(self, position: int) -> int:
        if self.next_heading < position:
            match = _NEXT_HEADING.search(self.text, position)
            self.next_heading = match.start() if match else self.size + 1
        return self.next_heading

    def _tag_in_dropped(self, name: str, closing: bool, alone: bool) -> None:
        top = self.frames[-1]
        if top.kind != TAG or top.name != name or alone:
            return
        if not closing:
            top.nested += 1
        elif top.nested:
            top.nested -= 1
        else:
            self._close(PARAGRAPH if name == "table" else DROPPED)

    def _framed_tag(self, name: str, closing: bool, alone: bool) -> None:
        if not closing:
            if not alone:
                self._push(TAG, name=name)
            return
        depth = self._innermost(TAG, name)
        if depth >= 0:
            self._abandon_from(depth + 1)
            content = "".join(self.out[self.frames[-1].start :])
            self._close(templates.superscript(content) if name == "sup" else templates.subscript(content))

    def _quotes(self) -> None:
        """Bold and italic marks; four and more than five hold an apostrophe of the text."""
        run = self._run("'")
        self._emit("'" if run in (1, 4) or run > 5 else "", run)

    def _entity(self) -> None:
        match = _ENTITY.match(self.text, self.position)
        if match:
            self._emit(INVISIBLE.sub("", html.unescape(match[0])), len(match[0]))
        else:
            self._emit("&", 1)

    def _underscore(self) -> None:
        match = _MAGIC_WORD.match(self.text, self.position)
        if match and match[0] == match[0].upper():
            self.position = match.end()
        else:
            self._emit("_", 1)


def _plain(heading: str, wiki: Wiki) -> str:
    """A heading's text, on one line."""
    text = _Scanner(f"\u200b{heading}", "", wiki, TextOptions()).scan()
    return " ".join(_MARKS.sub("", text).replace("\u200b", "").split())
