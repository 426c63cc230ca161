"""Write a self-contained HTML page about a corpus: its picture, the outcomes of the pages, and passages to read."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from megatron_pz.corpus.browser import CorpusBrowser
from megatron_pz.reports.corpus_picture import corpus_figure, headline, origin, outcomes, pages_title, percent
from megatron_pz.runtime.files import write_text_whole

_STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.55 system-ui, sans-serif; color: #222; background: #fafafa; margin: 0 auto; max-width: 62rem;
  padding: 2rem 1.25rem 4rem; }
h1 { font-size: 1.6rem; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2.5rem 0 .75rem; }
.size { font-size: 1.1rem; margin: .25rem 0; }
.quiet, footer { color: #666; font-size: .9rem; }
figure { margin: 1.5rem 0; background: #fff; border: 1px solid #e2e2e2; border-radius: 6px; padding: .5rem; }
figure svg { width: 100%; height: auto; display: block; }
table { border-collapse: collapse; background: #fff; border: 1px solid #e2e2e2; }
td, th { padding: .3rem .9rem; border-bottom: 1px solid #eee; text-align: left; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
article { background: #fff; border: 1px solid #e2e2e2; border-radius: 6px; padding: .75rem 1.1rem; margin: 1rem 0; }
article h3 { margin: 0; font-size: 1rem; }
article p { margin: .5rem 0 0; white-space: pre-line; font-family: Georgia, serif; overflow-wrap: anywhere; }
a { color: #0072b2; }
"""


@dataclass(frozen=True)
class ShownPassage:
    """A passage that the page shows."""

    index: int
    title: str
    url: str
    """Empty if it is unknown."""
    text: str
    tokens: int


def write_page(corpus: CorpusBrowser, passages: Sequence[ShownPassage], path: Path) -> None:
    """Write the page. Content of the corpus is shown as text and never interpreted as HTML."""
    picture = io.StringIO()
    corpus_figure(corpus).savefig(picture, format="svg")
    svg = picture.getvalue()
    attribution = corpus.manifest["attribution"]
    write_text_whole(
        path,
        f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(corpus.name)}</title><style>{_STYLE}</style></head><body>
<h1>{escape(corpus.name)}</h1>
<p class="size">{escape(headline(corpus))}</p>
<p class="quiet">{escape(origin(corpus))}</p>
<figure>{svg[svg.index("<svg") :]}</figure>
<h2>{escape(pages_title(corpus))}</h2>
{_pages_table(corpus)}
{_passages(corpus.unit, passages)}
<footer><p>{escape(attribution)}</p></footer>
</body></html>
""",
    )


def _pages_table(corpus: CorpusBrowser) -> str:
    pages = corpus.manifest["all_splits"]
    rows = [("read", pages["pages"]), *outcomes(pages)]
    cells = [
        f'<tr><td>{escape(name)}</td><td class="number">{count:,}</td>'
        f'<td class="number">{percent(count, pages["pages"])}</td></tr>'
        for name, count in rows
    ]
    return f"<table>{''.join(cells)}</table>"


def _passages(unit: str, passages: Sequence[ShownPassage]) -> str:
    if not passages:
        return ""
    shown = [
        f"<article><h3>{_link(passage)}</h3>"
        f'<div class="quiet">{unit} {passage.index:,}, {passage.tokens:,} tokens</div>'
        f"<p>{escape(passage.text)}</p></article>"
        for passage in passages
    ]
    return f"<h2>{unit.capitalize()}s to read</h2>\n" + "\n".join(shown)


def _link(passage: ShownPassage) -> str:
    if passage.url.startswith(("https://", "http://")):
        return f'<a href="{escape(passage.url)}">{escape(passage.title)}</a>'
    return escape(passage.title)
