"""Wikitext to text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from megatron_pz.runtime.errors import BadInput
from megatron_pz.wikitext.localization import Wiki
from megatron_pz.wikitext.scanner_form import scan_page

Kept = Literal["headings", "tables", "infoboxes", "galleries", "math", "code"]
"""What an article's text can hold beyond prose and lists: section headings as lines of their own, tables with one row a
line and ``|`` between cells, infoboxes with one ``name: value`` a line, the captions of galleries, formulas as TeX,
code listings and preformatted blocks."""
KEEPABLE: tuple[str, ...] = get_args(Kept)


@dataclass(frozen=True)
class TextOptions:
    """What of an article's text is kept beyond prose and lists."""

    keep: tuple[Kept, ...] = ()
    """Any of :data:`KEEPABLE`."""

    @classmethod
    def keeping(cls, names: str) -> TextOptions:
        """From names with commas between them, as ``--keep`` has them. Raises :class:`BadInput` for an unknown one."""
        keep = names.replace(",", " ").split()
        for name in keep:
            if name not in KEEPABLE:
                raise BadInput(f"--keep {name}: is none of {', '.join(KEEPABLE)}")
        return cls(tuple(name for name in KEEPABLE if name in keep))  # type: ignore[misc]


def wikitext_to_paragraphs(
    wikitext: str, title: str = "", wiki: Wiki | None = None, options: TextOptions | None = None
) -> list[str]:
    """Clean text of a page.

    Returns its paragraphs in order, none empty. A list is one paragraph, an item a line. Never raises, whatever the
    input; time is linear in its length.
    """
    return scan_page(wikitext, title, wiki or Wiki(), frozenset(options.keep if options else ()))
