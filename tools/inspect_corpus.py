"""Inspect a corpus: passages with title and URL, their lengths, and the outcomes of the pages.

    python tools/inspect_corpus.py data/enwiki_text_passage --tokenizer-model Qwen3-4B-Base --passages 5
    python tools/inspect_corpus.py data/enwiki_text_passage --tokenizer-model Qwen3-4B-Base --title Anarchism
    python tools/inspect_corpus.py data/enwiki_text_passage --tokenizer-model Qwen3-4B-Base --output enwiki.html

Only the shown passages and the lengths are read, for a corpus of any size.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from megatron_pz.config.command_line import Parser
from megatron_pz.corpus.browser import CorpusBrowser, Lengths
from megatron_pz.corpus.manifest import tokenizer_sha256
from megatron_pz.reports.corpus_page import ShownPassage, write_page
from megatron_pz.reports.corpus_picture import (
    draw_corpus,
    even_edges,
    headline,
    origin,
    outcomes,
    pages_title,
    percent,
)
from megatron_pz.runtime.errors import BadInput, exits_with_one_line
from megatron_pz.wikipedia.tokenize.hf_tokenizer import load_hf_tokenizer

BAR_WIDTH = 40
BINS = 12


@exits_with_one_line
def main() -> None:
    parser = Parser(__doc__ or "")
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("prefix", help="the corpus: path without .bin")
    parser.add_argument("--tokenizer-model", metavar="DIR", help="tokenizer of the corpus; needed to show passages")
    parser.add_argument("--passages", type=int, default=10, help="number of passages to draw at random (default 10)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the draw (default 0)")
    parser.add_argument("--index", type=int, nargs="+", metavar="N", help="show these passages instead, by number")
    parser.add_argument("--title", nargs="+", metavar="TITLE", help="show the passages of these articles instead")
    parser.add_argument("--output", metavar="FILE", help="also write a picture (.png) or a page (.html)")
    flags = parser.parse_args()
    if flags.passages < 0:
        raise BadInput(f"--passages {flags.passages}: cannot be negative")
    if flags.seed < 0:
        raise BadInput(f"--seed {flags.seed}: cannot be negative")
    if flags.prefix.endswith((".bin", ".idx")):
        raise BadInput(f"{flags.prefix}: give the corpus' prefix, without {flags.prefix[-4:]}")
    output = Path(flags.output) if flags.output else None
    if output and output.suffix not in (".png", ".html"):
        raise BadInput(f"--output {output}: give a name that ends in .png or .html")
    corpus = CorpusBrowser(flags.prefix)
    passages = _passages(corpus, flags.tokenizer_model, _chosen(corpus, flags))
    if output:
        try:
            write_page(corpus, passages, output) if output.suffix == ".html" else draw_corpus(corpus, output)
        except OSError as error:
            raise BadInput(f"--output {output}: cannot be written ({error.strerror or error})") from None
    _show(corpus, passages)
    if output:
        print(output)


def _chosen(corpus: CorpusBrowser, flags: argparse.Namespace) -> list[int]:
    """Return the numbers of the passages to show."""
    if flags.tokenizer_model is None:
        if flags.index or flags.title:
            raise BadInput("--index and --title show passages; give the corpus' tokenizer by --tokenizer-model")
        return []
    if not (flags.index or flags.title):
        return corpus.sample(flags.passages, flags.seed)
    return [*(flags.index or []), *(number for title in flags.title or [] for number in corpus.titled(title))]


def _passages(corpus: CorpusBrowser, tokenizer_dir: str | None, indexes: Sequence[int]) -> list[ShownPassage]:
    if tokenizer_dir is None:
        return []
    made_with = corpus.manifest["tokenizer"]
    if tokenizer_sha256(tokenizer_dir) != made_with["sha256"]:
        raise BadInput(f"{corpus.prefix}: was made with another tokenizer ({made_with['name']}) than {tokenizer_dir}")
    decode = load_hf_tokenizer(tokenizer_dir).tokenizer.decode
    return [
        ShownPassage(
            index,
            stored.title,
            stored.url,
            decode(stored.token_ids.tolist(), skip_special_tokens=False),
            len(stored.token_ids),
        )
        for index, stored in ((index, corpus.passage(index)) for index in indexes)
    ]


def _show(corpus: CorpusBrowser, passages: Sequence[ShownPassage]) -> None:
    console = Console()
    for passage in passages:
        console.print(Text(f"{passage.index}  {passage.title}", style="bold"))
        console.print(Text(passage.url or "(no URL)", style="dim"))
        console.print(Text(f"{passage.text}\n"))
    console.print(_lengths_table(corpus.passage_tokens(), "tokens", corpus.unit))
    console.print(_lengths_table(corpus.passage_words(), "words", corpus.unit))
    console.print(_pages_table(corpus))
    print(f"{headline(corpus)}; {origin(corpus)}")


def _lengths_table(lengths: Lengths, quantity: str, unit: str) -> Table:
    """Return a histogram of the passages' lengths."""
    edges = even_edges(lengths.shortest, lengths.longest, BINS)
    counts = lengths.binned(edges)
    table = Table(quantity, f"{unit}s", "", title=f"Length of {unit}s in {quantity}")
    table.columns[1].justify = "right"
    for count, (low, end) in zip(counts, pairwise(edges), strict=True):
        bar = "█" * round(BAR_WIDTH * int(count) / max(int(counts.max()), 1))
        table.add_row(f"{low} to {end - 1}" if end - 1 > low else f"{low}", f"{count:,}", bar)
    table.caption = f"median {lengths.quantile(0.5):,}, mean {lengths.mean:,.1f}, longest {lengths.longest:,}"
    return table


def _pages_table(corpus: CorpusBrowser) -> Table:
    """List the outcomes of the input's pages, over all splits."""
    pages = corpus.manifest["all_splits"]
    table = Table("", "number", "share", title=pages_title(corpus))
    for column in table.columns[1:]:
        column.justify = "right"
    for name, count in [("read", pages["pages"]), *outcomes(pages)]:
        table.add_row(name, f"{count:,}", percent(count, pages["pages"]))
    for name, count in pages.items():
        if name.endswith("passages") and count:
            table.add_row(f"{name.replace('_', ' ')}, dropped", f"{count:,}", "")
    table.add_row("sentences cut to the budget", f"{pages['sentences_cut']:,}", "")
    return table


if __name__ == "__main__":
    main()
