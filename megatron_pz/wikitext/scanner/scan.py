"""Convert wikitext to text in one pass: the loop over the characters that can begin or end markup.

Plain runs are copied to the output. A construct that needs its whole content before it can be shown (template, link,
raised text) opens a frame, which records the start of its content in the output. When the frame closes, that part of
the output is replaced by the text of the construct. Inner constructs are therefore rendered before outer ones, and
nothing is read twice. A construct that is known to show nothing (most templates, tables, files) opens a frame that
drops its content and only counts its own brackets.

The time is linear for any input: content is moved once per level of nesting, of which there are at most
:data:`~megatron_pz.wikitext.scanner.frames.MAX_DEPTH` (deeper content is dropped and only brackets are counted), and
searches for a closing tag cache their results. Broken markup never consumes a whole page: a link ends with its
paragraph and all constructs end at a heading.
"""

from __future__ import annotations

from megatron_pz.wikitext.entities import entity_text
from megatron_pz.wikitext.localization import Wiki
from megatron_pz.wikitext.marks import LITERAL, LITERAL_END
from megatron_pz.wikitext.tags import MAGIC_WORDS

from .angles import angle
from .braces import begins_variant, close_braces, equals, open_braces, open_variant, template_bar
from .brackets import bar, close_bracket, open_bracket
from .buffer import Buffer
from .characters import is_letter, is_skipped, is_text
from .closing import end_closing_sections
from .frames import LINK, TABLE, TEMPLATE
from .lines import begin_line, end_heading, newline
from .paragraphs import Paragraphs
from .state import Scan
from .tables import begins_table, open_table, table_bar
from .unclosed import go_back_to_unclosed

_LONGEST_ENTITY = 40
_LONGEST_MAGIC_WORD = 44
_INSIDE = "\U000ffffd"
"""Keeps what a template expands to from the beginning and the end of a line; no text has this private character."""
_MARKUP = frozenset("[]{}'|")
_OF_MARKUP = frozenset("<>&\"'")


def scan_page(
    text: str,
    title: str,
    wiki: Wiki,
    keeps: frozenset[str],
    dropped: dict[str, int] | None = None,
    lost: dict[str, int] | None = None,
) -> list[str]:
    """Return the paragraphs of a page, in order, none empty.

    Args:
        text: Wikitext.
        title: Title of the page.
        wiki: Names that the wiki uses.
        keeps: The kept parts, as in ``TextOptions.kept``.
        dropped: Receives the number of sentences that were dropped because they lost a word, by reason.
        lost: Receives the number of constructs that vanished from text that stays, by place and reason.
    """
    scan = Scan(text, title, wiki, keeps)
    marked = marked_text(scan)
    dropped = {} if dropped is None else dropped
    lost = {} if lost is None else lost
    return Paragraphs(marked, "headings" in keeps, "holes" in keeps, scan.language, dropped, lost).all()


def marked_inline(text: str, title: str, wiki: Wiki) -> str:
    """Scan the expansion of a template in place of the template."""
    marked = marked_text(Scan(f"{_INSIDE}{text}{_INSIDE}", title, wiki, frozenset()))
    return marked.text(0, marked.size).replace(_INSIDE, "")


def marked_text(scan: Scan) -> Buffer:
    """Scan the whole text into one with the marks of :mod:`megatron_pz.wikitext.marks`."""
    while True:
        if scan.at_line_start:
            begin_line(scan)
        if scan.frames.dropping:
            _skip(scan)
        else:
            _copy(scan)
        if scan.position < scan.end:
            _special(scan, scan.source.data[scan.position])
        elif scan.heading_level:
            end_heading(scan)
        elif scan.position >= scan.size:
            if scan.frames.depth:
                if go_back_to_unclosed(scan):
                    continue
                scan.frames.abandon_from(0)
            end_closing_sections(scan, 1)
            return scan.out


def _copy(scan: Scan) -> None:
    """Copy text up to the next character that can begin or end markup."""
    data = scan.source.data
    index = scan.position
    end = scan.end
    while index < end and is_text(data[index]):
        index += 1
    scan.out.extend(scan.source, scan.position, index)
    scan.position = index


def _skip(scan: Scan) -> None:
    """Skip to the next relevant character inside dropped content."""
    data = scan.source.data
    index = scan.position
    end = scan.end
    while index < end and is_skipped(data[index]):
        index += 1
    scan.position = index


def _special(scan: Scan, character: str) -> None:
    kind = scan.frames.kind
    if character == "\n":
        newline(scan)
    elif character == "[":
        open_bracket(scan)
    elif character == "]":
        close_bracket(scan)
    elif character == "{":
        _open_brace(scan)
    elif character == "}":
        close_braces(scan)
    elif character == "<":
        angle(scan)
    elif character == "'":
        _quotes(scan)
    elif character == "&":
        _entity(scan)
    elif character == "|" and kind == TEMPLATE:
        template_bar(scan)
    elif character == "|" and kind == LINK:
        bar(scan)
    elif character == "|" and kind == TABLE:
        table_bar(scan)
    elif character == "=" and kind == TEMPLATE:
        equals(scan)
    elif character == "_" and scan.follows(scan.position, "_", "_"):
        _magic_word(scan)
    else:
        scan.out.push(character)
        scan.position += 1


def _open_brace(scan: Scan) -> None:
    if begins_variant(scan):
        open_variant(scan)
    elif scan.follows(scan.position, "{", "{"):
        open_braces(scan)
    elif scan.frames.dropping:
        scan.position += 1
    elif begins_table(scan):
        open_table(scan)
    else:
        scan.single_braces += 1
        scan.emit("{", 1)


def _quotes(scan: Scan) -> None:
    """Scan bold and italic marks. Four or more than five quotes, and sometimes three, include a literal apostrophe."""
    if scan.position >= scan.quotes_end:
        _weigh_quotes(scan)
    run = scan.run()
    if run == 1 or run == 4 or run > 5 or scan.position == scan.apostrophe:
        scan.out.push("'")
    scan.position += run


def _weigh_quotes(scan: Scan) -> None:
    """Find the three quotes of the line that are an apostrophe and an italic mark.

    They exist if the numbers of bold and of italic marks are both odd, as around ``Emma`` in "Emma's". MediaWiki takes
    the first after a word of one letter, otherwise after a longer one, otherwise after a space.
    """
    data = scan.source.data
    index = scan.position
    scan.quotes_end = scan.line_end(index)
    scan.apostrophe = -1
    italic = bold = 0
    after_letter = after_word = after_space = -1
    while True:
        start = index = scan.source.find("'", index, scan.quotes_end)
        if start >= scan.quotes_end:
            break
        while index < scan.quotes_end and data[index] == "'":
            index += 1
        run = index - start
        if run == 2 or run > 4:
            italic += 1
        if run > 2:
            bold += 1
        if run == 3:
            if start == 0 or data[start - 1] == " " or data[start - 1] == "\n":
                after_space = start if after_space < 0 else after_space
            elif start > 1 and data[start - 2] == " ":
                after_letter = start if after_letter < 0 else after_letter
            else:
                after_word = start if after_word < 0 else after_word
    if italic % 2 == 1 and bold % 2 == 1:
        scan.apostrophe = after_letter if after_letter >= 0 else after_word if after_word >= 0 else after_space


def _entity(scan: Scan) -> None:
    data = scan.source.data
    start = scan.position
    last = min(scan.end, start + _LONGEST_ENTITY)
    end = start + 1
    while end < last and (is_letter(data[end]) or "0" <= data[end] <= "9" or data[end] == "#"):
        end += 1
    if end < last and data[end] == ";":
        name = scan.source.text(start + 1, end)
        if name == "amp":
            # &amp;nbsp; comes from a text that was escaped twice; MediaWiki shows &nbsp;, which is never intended.
            # A text with an intended literal reference is about markup: &amp;lt;
            again = end + 1
            while again < last and is_letter(data[again]):
                again += 1
            if again < last and data[again] == ";" and again > end + 1:
                shown = entity_text(scan.source.text(end + 1, again))
                if shown and shown not in _OF_MARKUP:
                    scan.emit(_literal_character(shown), again + 1 - start)
                    return
        shown = entity_text(name)
        if shown is not None:
            scan.count_brackets(shown)
            scan.emit(_literal_character(shown), end + 1 - start)
            return
    scan.emit("&", 1)


def _literal_character(shown: str) -> str:
    """Mark as text a bracket, brace or quote that was written as an entity."""
    return f"{LITERAL}{shown}{LITERAL_END}" if shown in _MARKUP else shown


def _magic_word(scan: Scan) -> None:
    """Drop a magic word such as ``__NOTOC__``; other words between double underscores are text."""
    data = scan.source.data
    start = scan.position
    last = min(scan.end, start + _LONGEST_MAGIC_WORD)
    end = start + 2
    while end < last and data[end] not in " \n<>[]{}|=&'" and not scan.follows(end, "_", "_"):
        end += 1
    word = scan.source.text(start + 2, end)
    if scan.follows(end, "_", "_") and word.casefold() in MAGIC_WORDS:
        scan.position = end + 2
    else:
        run = scan.run()
        scan.out.extend(scan.source, start, start + run)
        scan.position += run
