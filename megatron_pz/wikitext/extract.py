"""Turn wikitext into text."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Literal, get_args

from megatron_pz.runtime.errors import BadInput
from megatron_pz.wikitext.localization import Wiki
from megatron_pz.wikitext.scanner_form import scan_page

Kept = Literal["headings", "tables", "infoboxes", "galleries", "math", "code"]
"""Optional parts of an article's text beyond prose and lists: section headings on lines of their own, tables with one
row a line and ``|`` between cells, infoboxes with one ``name: value`` a line, the captions of galleries, code listings
and ``<pre>`` blocks. Formulas (``math``) stay as their TeX by default; the name is accepted for older command lines."""
KEEPABLE: tuple[str, ...] = get_args(Kept)


@dataclass(frozen=True)
class TextOptions:
    """Parts of an article that its text keeps."""

    keep: tuple[Kept, ...] = ()
    """Parts to keep beyond prose, lists and formulas: any of :data:`KEEPABLE`."""
    drop_formulas: bool = False
    """Drop the sentences that hold a formula; otherwise formulas stay as their TeX."""
    keep_incomplete_sentences: bool = False
    """Keep sentences that lost a word, such as the text of an unknown template, without that word.

    A sentence that lost a part of a parenthesis or a note stays in either case.
    """

    def __post_init__(self) -> None:
        if self.drop_formulas and "math" in self.keep:
            raise BadInput("--drop-formulas contradicts --keep math; leave one of them out")

    @property
    def kept(self) -> frozenset[str]:
        """Return the kept parts by the names that the scanner uses."""
        kept: set[str] = set(self.keep)
        if not self.drop_formulas:
            kept.add("math")
        if self.keep_incomplete_sentences:
            kept.add("holes")
        return frozenset(kept)

    @classmethod
    def keeping(cls, names: str, drop_formulas: bool = False, keep_incomplete_sentences: bool = False) -> TextOptions:
        """Parse names separated by commas, the form of ``--keep``. Raise :class:`BadInput` for an unknown name."""
        keep = names.replace(",", " ").split()
        for name in keep:
            if name not in KEEPABLE:
                raise BadInput(f"--keep {name}: is none of {', '.join(KEEPABLE)}")
        names_in_order = tuple(name for name in KEEPABLE if name in keep)
        return cls(names_in_order, drop_formulas, keep_incomplete_sentences)  # type: ignore[arg-type]


@functools.cache
def _english_wikipedia() -> Wiki:
    return Wiki()


def wikitext_to_paragraphs(
    wikitext: str,
    title: str = "",
    wiki: Wiki | None = None,
    options: TextOptions | None = None,
    dropped: dict[str, int] | None = None,
    lost: dict[str, int] | None = None,
) -> list[str]:
    """Turn a page into clean text. This never raises, for any input, and the time is linear in its length.

    Args:
        wikitext: The page.
        title: Title of the page.
        wiki: Names that the wiki uses; by default those of English Wikipedia.
        options: Parts that are kept.
        dropped: Receives the number of sentences that were dropped because they lost a word, by reason (the values of
            :data:`megatron_pz.wikitext.marks.HOLES`).
        lost: Receives the number of constructs that were not understood and vanished from text that stays, by place
            and reason: ``in_parentheses_unknown_template`` (:data:`megatron_pz.wikitext.marks.PLACES`).

    Returns:
        The paragraphs in order, none empty. A list is one paragraph with one item per line.
    """
    return scan_page(wikitext, title, wiki or _english_wikipedia(), (options or TextOptions()).kept, dropped, lost)
