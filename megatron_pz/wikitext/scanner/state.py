"""The state of one scan: the source and the position in it, the output, the wiki, and cached searches."""

from __future__ import annotations

from megatron_pz.wikitext import templates, variants
from megatron_pz.wikitext.localization import Wiki

from .buffer import visible_text
from .frames import Frames


class Scan:
    """The state of the scan of one page.

    Args:
        text: Wikitext.
        title: Title of the page.
        wiki: Names that the wiki uses.
        keeps: Parts to keep besides prose and lists, as in ``TextOptions.keep``.
    """

    def __init__(self, text: str, title: str, wiki: Wiki, keeps: frozenset[str]) -> None:
        self.source = visible_text(text)
        self.size = self.source.size
        self.position = 0
        self.end = self.size  # end of the scanned text: the page, or a heading's text
        self.at_line_start = True
        self.frames = Frames(self.size // 2 + 64)
        self.out = self.frames.out
        self.title = title
        self.wiki = wiki
        self.language = wiki.language
        self.has_variants = wiki.language in variants.LANGUAGES
        self.trailing_sections = wiki.trailing_sections
        self.keeps_headings = "headings" in keeps
        self.keeps_tables = "tables" in keeps
        self.keeps_infoboxes = "infoboxes" in keeps
        self.keeps_galleries = "galleries" in keeps
        self.keeps_math = "math" in keeps
        self.keeps_code = "code" in keeps
        self.is_verse = False  # in <poem>, line ends are kept
        self.single_brackets = 0  # "[" of the line that were emitted as text and are not closed by "]"
        self.single_braces = 0  # the same for "{"
        self.heading_level = 0  # level of the heading being scanned
        self.heading_start = 0  # size of the output at the start of its text
        self.heading_next = 0  # position in the source after it
        self.quotes_end = 0  # start of the line whose quotes have been weighed
        self.apostrophe = -1  # position in it of three quotes that include an apostrophe
        self.closing_tags: dict[str, tuple[int, int]] = {}
        self.closing_start = self.closing_end = 0  # name of the closing tag of the last search
        self.ref_start = self.ref_end = -1
        self.next_heading = -1
        self.next_comment_end = -1
        self.known_names = templates.known_names(self.keeps_infoboxes, self.language)
        self.unclosed: set[int] = set()  # positions of unclosed double braces
        self.gone_back_from = -1  # end of the section that was last rescanned because of them
        self.closing_sections = [-1] * 7  # by level: size of the output at the start of an undecided closing section

    def forget_searches(self) -> None:
        """Clear cached searches, because the position moves back."""
        self.quotes_end = self.next_comment_end = 0
        self.apostrophe = self.ref_start = self.ref_end = self.next_heading = -1
        self.closing_tags.clear()

    def run(self) -> int:
        """Return how often the character at the position is repeated."""
        data = self.source.data
        character = data[self.position]
        end = self.position + 1
        while end < self.end and data[end] == character:
            end += 1
        return end - self.position

    def after_blanks(self, start: int) -> int:
        """Return the end of the spaces and tabs from ``start`` on."""
        data = self.source.data
        while start < self.end and (data[start] == " " or data[start] == "\t"):
            start += 1
        return start

    def line_end(self, start: int) -> int:
        """Return the end of the line that contains ``start``."""
        return self.source.find("\n", start, self.end)

    def follows(self, start: int, first: str, second: str) -> bool:
        """Return whether these two characters occur at ``start``."""
        data = self.source.data
        return start + 1 < self.end and data[start] == first and data[start + 1] == second

    def emit(self, text: str, length: int) -> None:
        """Emit ``text`` in place of the next ``length`` characters."""
        self.out.write(text)
        self.position += length

    def count_brackets(self, text: str) -> None:
        """Count the brackets and braces that ``text``, which is no markup, leaves open on its line."""
        self.single_brackets += max(text.count("[") - text.count("]"), 0)
        self.single_braces += max(text.count("{") - text.count("}"), 0)

    def comment_end(self) -> int:
        """Return the end of ``-->`` after the position, or the source's end if it is missing."""
        if self.next_comment_end < self.position + 7:
            data = self.source.data
            last = self.size - 2
            index = self.position + 4
            while index < last and not (data[index] == "-" and data[index + 1] == "-" and data[index + 2] == ">"):
                index += 1
            self.next_comment_end = index + 3 if index < last else self.size
        return min(self.next_comment_end, self.end)

    def find_closing_tag(self, name: str) -> bool:
        """Search for ``</name>`` after the position, and return whether it exists.

        It begins at ``closing_start`` and ends at ``closing_end``; both equal the position if it is missing.
        """
        known = self.closing_tags.get(name)
        if known is None or known[0] < self.position:
            self._find_closing_tag(name, self.position)
            self.closing_tags[name] = (self.closing_start, self.closing_end)
        else:
            self.closing_start, self.closing_end = known
        return self._has_closing_tag()

    def find_closing_ref(self) -> bool:
        """Search for ``</ref>``, the most frequent closing tag, as :meth:`find_closing_tag` does."""
        if self.ref_start < self.position:
            self._find_closing_tag("ref", self.position)
            self.ref_start, self.ref_end = self.closing_start, self.closing_end
        else:
            self.closing_start, self.closing_end = self.ref_start, self.ref_end
        return self._has_closing_tag()

    def _has_closing_tag(self) -> bool:
        if self.closing_end <= self.end:
            return True
        self.closing_start = self.closing_end = self.position
        return False

    def _find_closing_tag(self, name: str, index: int) -> None:
        data = self.source.data
        length = len(name)
        last = self.size - length - 2
        while True:
            index = self.source.find("<", index, last)
            if index >= last:
                break
            if data[index + 1] == "/" and self.is_word(index + 2, name):
                end = index + 2 + length
                while end < self.size and (data[end] == " " or data[end] == "\n" or data[end] == "\t"):
                    end += 1
                if end < self.size and data[end] == ">":
                    self.closing_start, self.closing_end = index, end + 1
                    return
            index += 1
        self.closing_start = self.closing_end = self.size + 1

    def is_word(self, start: int, word: str) -> bool:
        """Return whether ``word``, in lower-case ASCII, occurs at ``start`` in any case."""
        if start + len(word) > self.size:
            return False
        data = self.source.data
        for index in range(len(word)):
            character = data[start + index]
            if character != word[index] and not ("A" <= character <= "Z" and character.lower() == word[index]):
                return False
        return True

    def heading_after(self, position: int) -> int:
        """Return the position of the line break before the next line that begins with ``==``."""
        if self.next_heading < position:
            data = self.source.data
            last = self.size - 2
            index = self.source.find("\n", position, last)
            while index < last and not (data[index + 1] == "=" and data[index + 2] == "="):
                index = self.source.find("\n", index + 1, last)
            self.next_heading = index if index < last else self.size + 1
        return self.next_heading
