"""Wikitext to text in one pass: a scanner with a stack of frames over the output buffer.

The scanner copies plain runs to the output and acts on the few characters that can begin or end markup. A construct
that needs its whole content before it can be shown (template, link, raised text) opens a frame, which remembers where
in the output its content begins; when it closes, that part of the output is replaced by what the construct shows. So
inner constructs are rendered before outer ones and nothing is read twice. A construct known to show nothing (most
templates, tables, files) opens a frame that drops its content and only counts its own brackets.

Time is linear whatever the input: content is moved once a level of nesting, of which there are at most
:data:`~megatron_pz.wikipedia.frames.MAX_DEPTH` (below it content is dropped and brackets are counted), and searches for
a closing tag remember what they found. Broken markup never swallows a page: a link ends with its paragraph and
everything ends at a heading.

The form is that of Cython's pure-Python mode: plain loops and typed attributes, one function that looks for the next
character of interest (:meth:`_Scanner._next_special`).
"""

from __future__ import annotations

import html
import re
from dataclasses import dataclass

from megatron_pz.wikipedia import tags, templates
from megatron_pz.wikipedia.cleanup import paragraphs_of
from megatron_pz.wikipedia.frames import EXTERNAL, LINK, TABLE, TAG, TEMPLATE, Frame, FramedOutput
from megatron_pz.wikipedia.links import is_silent, shown_link
from megatron_pz.wikipedia.localization import Wiki
from megatron_pz.wikipedia.marks import ALL, BREAK, DROPPED, HEADING, INDENT, INVISIBLE, ITEM, PARAGRAPH, SPACE

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


@dataclass(frozen=True)
class TextOptions:
    """What of an article's text is kept beyond prose and lists."""

    keep_headings: bool = False
    """Keep section headings as lines of their own."""
    keep_math: bool = False
    """Keep the TeX source of formulas."""
    keep_code: bool = False
    """Keep code listings and preformatted blocks."""


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
        self.out = FramedOutput()
        self.closing_tags: dict[str, tuple[int, int]] = {}
        self.next_heading = -1

    def scan(self) -> str:
        """The whole text with the marks of :mod:`megatron_pz.wikipedia.marks`."""
        self._begin_line()
        while self.position < self.size:
            top = self.out.top
            end = self._next_special(top)
            if end > self.position and (top is None or not top.dropped):
                self.out.pieces.append(self.text[self.position : end])
            self.position = end
            if end < self.size:
                self._special(self.text[end], top)
        self.out.abandon_from(0)
        return "".join(self.out.pieces)

    def _next_special(self, top: Frame | None) -> int:
        pattern = _IN_TEXT if top is None else _IN_DROPPED if top.dropped else _IN_FIELDS
        match = pattern.search(self.text, self.position)
        return match.start() if match else self.size

    def _special(self, character: str, top: Frame | None) -> None:
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
        self.out.pieces.append(text)
        self.position += length

    def _run(self, character: str) -> int:
        """How often the character at the position is repeated."""
        end = self.position + 1
        while end < self.size and self.text[end] == character:
            end += 1
        return end - self.position

    # Lines

    def _newline(self, top: Frame | None) -> None:
        if top is None or not top.dropped:
            self.out.pieces.append("\n")
        if top is not None and (top.kind == EXTERNAL or (top.kind == LINK and not (top.fields or top.dropped))):
            self.out.abandon_from(len(self.out.frames) - 1)
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
        depth = len(self.out.frames)
        while depth and self._ends_with_paragraph(self.out.frames[depth - 1]):
            depth -= 1
        self.out.abandon_from(depth)

    @staticmethod
    def _ends_with_paragraph(frame: Frame) -> bool:
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
        top = self.out.top
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

    def _open_table(self, top: Frame | None) -> None:
        if top and top.dropped and top.kind == TABLE:
            top.nested += 1
        elif not (top and top.dropped):
            self.out.push(TABLE, dropped=True)
        self.position += 2

    def _bar_at_line_start(self, start: int, top: Frame | None) -> None:
        if top is None:
            # A row of a table whose beginning is missing.
            end = self.text.find("\n", start)
            self.position = end if end >= 0 else self.size
        elif top.kind == TABLE and self.text.startswith("|}", start):
            self.position = start + 2
            if top.nested:
                top.nested -= 1
            else:
                self.out.close(PARAGRAPH)

    def _list_item(self, start: int) -> None:
        match = _LIST_MARKERS.match(self.text, start)
        assert match is not None
        markers = match[0]
        self.out.pieces.append(ITEM if "*" in markers or "#" in markers else INDENT)
        self.position = match.end()
        if self.text.startswith("{|", self.position):
            self._open_table(self.out.top)

    def _heading(self) -> None:
        end = self.text.find("\n", self.position)
        end = end if end >= 0 else self.size
        line = self.text[self.position : end]
        comment = line.find("<!--")
        if comment >= 0:
            end, line = self.position + comment, line[:comment]
        line = line.rstrip()
        level = min(len(line) - len(line.lstrip("=")), len(line) - len(line.rstrip("=")), 6)
        if len(line) <= 2 * level or level < (2 if self.out.frames else 1):
            return
        self.out.abandon_from(0)
        heading = _plain(line[level:-level], self.wiki)
        self.position = end
        if heading.casefold().rstrip(":") in self.wiki.trailing_sections:
            self._skip_section(level)
        else:
            self.out.pieces.append(f"{PARAGRAPH}{HEADING}{level}{heading}{PARAGRAPH}")

    def _skip_section(self, level: int) -> None:
        """Go on at the next heading of this level or a higher one."""
        for match in _HEADING_LINE.finditer(self.text, self.position):
            if len(match[1]) <= level and "=" in match[0].lstrip("\n="):
                self.position = match.start()
                return
        self.position = self.size

    # Brackets

    def _open_bracket(self, top: Frame | None) -> None:
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
                self.out.push(EXTERNAL)
            else:
                self._emit("[", 1)
        else:
            if run % 2:
                self._emit("[", 1)
            self.position += 2
            self.out.push(LINK)

    def _close_bracket(self, top: Frame | None) -> None:
        run = self._run("]")
        if top and top.dropped:
            self._close_dropped(top, LINK, run)
            return
        while run > 0:
            external, link = self.out.innermost(EXTERNAL), self.out.innermost(LINK)
            if external > link:
                self.out.abandon_from(external + 1)
                used = 1
                self.out.close(self.out.content().strip() or DROPPED)
            elif link >= 0 and run >= 2:
                self.out.abandon_from(link + 1)
                used = 2
                target, *labels = self.out.fields()
                self.out.close(shown_link(target, labels, self.wiki))
            else:
                used = min(run, 2)
                if used == 1:
                    self.out.pieces.append("]")
            run -= used
            self.position += used

    def _close_dropped(self, top: Frame, kind: int, run: int) -> None:
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
            self.out.close(DROPPED)
            self.position += 2 * (inner + 1)
        else:
            self.position += run

    # Braces

    def _open_brace(self, top: Frame | None) -> None:
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
            self.out.push(TEMPLATE, braces=braces)

    def _close_brace(self, top: Frame | None) -> None:
        run = self._run("}")
        if top and top.dropped and top.kind == TEMPLATE:
            self._close_dropped(top, TEMPLATE, run)
            return
        depth = self.out.innermost(TEMPLATE)
        if depth < 0 or run == 1:
            if run == 1 and not (top and top.dropped):
                self.out.pieces.append("}")
            self.position += run
            return
        self.out.abandon_from(depth + 1)
        frame = self.out.frames[-1]
        self.position += min(run, frame.braces)
        if frame.dropped:
            self.out.close(DROPPED)
        else:
            self._close_template(frame, is_parameter=frame.braces == 3 and run >= 3)

    def _field(self, top: Frame | None) -> None:
        """A ``|``: it ends a field of a template or link, and tells what the construct is."""
        if top is None or top.kind not in (TEMPLATE, LINK):
            self._emit("|", 1)
            return
        self.position += 1
        if not top.fields:
            first = self.out.content()
            if top.kind == LINK:
                silent = is_silent(first, self.wiki)
            else:
                top.name = templates.template_name(_MARKS.sub("", first))
                silent = top.braces == 2 and not templates.is_shown(top.name)
            if silent:
                top.dropped = True
                del self.out.pieces[top.start :]
                return
        top.fields.append(len(self.out.pieces))
        top.equals.append(-1)

    def _equals(self, top: Frame | None) -> None:
        if top is not None and top.kind == TEMPLATE and top.fields and top.equals[-1] < 0:
            top.equals[-1] = len(self.out.pieces)
            self.position += 1
        else:
            self._emit("=", 1)

    def _close_template(self, frame: Frame, is_parameter: bool) -> None:
        first, *rest = self.out.fields()
        if is_parameter:  # {{{name|default}}}
            self.out.close(rest[0] if rest else "")
            return
        name = frame.name or templates.template_name(_MARKS.sub("", first))
        if name in ("pagename", "fullpagename", "basepagename", "subst:pagename"):
            self.out.close(self.title)
        elif templates.is_shown(name):
            self.out.close(templates.render(name, first, self.out.parameters(), self.wiki.language))
        else:
            self.out.close(DROPPED)

    # Tags, comments, entities, quotes

    def _angle(self, top: Frame | None) -> None:
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
        if name in tags.OPAQUE_TAGS:
            self._opaque_tag(name, closing or alone, dropped)
        elif dropped:
            self._tag_in_dropped(name, closing, alone)
        elif name in tags.RAISING_TAGS or (closing and self.out.innermost(TAG, name) >= 0):
            self._framed_tag(name, closing, alone)
        elif not (closing or alone) and (name == "table" or _HIDDEN.search(match[3])):
            self.out.push(TAG, dropped=True, name=name)
        elif name == "br":
            self.out.pieces.append(BREAK)
        elif name in tags.PARAGRAPH_TAGS:
            self.out.pieces.append(PARAGRAPH)
        elif name in tags.ITEM_TAGS:
            self.out.pieces.append("\n" if closing else f"\n{ITEM}")
        elif name not in tags.INLINE_TAGS:
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
            self.out.pieces.append(content)
        elif name in tags.MATH_TAGS and self.options.keep_math:
            self.out.pieces.append(" ".join(content.split()))
        elif name in tags.CODE_TAGS and self.options.keep_code:
            code = content.strip("\n").replace(" ", SPACE).replace("\n", BREAK)
            self.out.pieces.append(f"{PARAGRAPH}{SPACE}{code}{PARAGRAPH}")
        else:
            self.out.pieces.append(DROPPED)

    def _closing_tag(self, name: str) -> tuple[int, int]:
        """Where the closing tag begins and ends; here and here if it is missing."""
        known = self.closing_tags.get(name, (-1, -1))
        if known[0] < self.position:
            match = tags.CLOSING_TAGS[name].search(self.text, self.position)
            known = self.closing_tags[name] = (match.start(), match.end()) if match else (self.size + 1, self.size + 1)
        return known if known[0] <= self.size else (self.position, self.position)

    def _heading_after(self, position: int) -> int:
        if self.next_heading < position:
            match = _NEXT_HEADING.search(self.text, position)
            self.next_heading = match.start() if match else self.size + 1
        return self.next_heading

    def _tag_in_dropped(self, name: str, closing: bool, alone: bool) -> None:
        top = self.out.frames[-1]
        if top.kind != TAG or top.name != name or alone:
            return
        if not closing:
            top.nested += 1
        elif top.nested:
            top.nested -= 1
        else:
            self.out.close(PARAGRAPH if name == "table" else DROPPED)

    def _framed_tag(self, name: str, closing: bool, alone: bool) -> None:
        if not closing:
            if not alone:
                self.out.push(TAG, name=name)
            return
        depth = self.out.innermost(TAG, name)
        if depth >= 0:
            self.out.abandon_from(depth + 1)
            content = self.out.content()
            self.out.close(templates.superscript(content) if name == "sup" else templates.subscript(content))

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
