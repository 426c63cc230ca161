#!/usr/bin/env python
"""Look at a corpus: passages with title and URL, how long they are, and what became of the pages.

python tools/inspect_corpus.py data/enwiki_text_passage --tokenizer-model Qwen3-4B-Base --passages 5
"""

from __future__ import annotations

import argparse
import random

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from megatron_pz.command_line import Parser
from megatron_pz.corpus.indexed_dataset import IndexedTokens
from megatron_pz.corpus.manifest import read_manifest
from megatron_pz.corpus.passages import open_blend
from megatron_pz.errors import exits_with_one_line

BAR_WIDTH = 40
BINS = 12


@exits_with_one_line
def main() -> None:
    parser = Parser(__doc__ or "")
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("prefix", help="the corpus: path without .bin")
    parser.add_argument("--tokenizer-model", metavar="DIR", help="its tokenizer; without it no passages are shown")
    parser.add_argument("--passages", type=int, default=10, help="how many to show (default 10)")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of passages (default 0)")
    flags = parser.parse_args()
    tokens, manifest = IndexedTokens(flags.prefix), read_manifest(flags.prefix)
    console = Console()
    if flags.tokenizer_model:
        show_passages(console, flags.prefix, flags.tokenizer_model, flags.passages, flags.seed)
    console.print(lengths_table(tokens.lengths))
    console.print(pages_table(manifest))
    total = tokens.lengths.sum(dtype=np.int64)
    size = f"{len(tokens.documents) - 1:,} articles, {len(tokens):,} passages, {total:,} tokens"
    sources = ", ".join(source["name"] for source in manifest["inputs"])
    print(f"{size} of {manifest['tokenizer']['name']}, from {sources}; {manifest['license']}")


def show_passages(console: Console, prefix: str, tokenizer_dir: str, count: int, seed: int) -> None:
    blend = open_blend([prefix], tokenizer_dir)
    for index in sorted(random.Random(seed).sample(range(len(blend)), min(count, len(blend)))):
        passage = blend[index]
        console.print(Text(f"{index}  {passage.title}", style="bold"), Text(passage.url or "(no URL)", style="dim"))
        console.print(Text(f"{passage.text}\n"))


def lengths_table(lengths: np.ndarray) -> Table:
    """Histogram of the passages' lengths in tokens."""
    counts, edges = np.histogram(lengths, bins=BINS)
    table = Table("tokens", "passages", "", title="Length of passages")
    table.columns[1].justify = "right"
    for count, low in zip(counts, edges, strict=False):
        bar = "█" * round(BAR_WIDTH * int(count) / max(int(counts.max()), 1))
        table.add_row(f"from {np.ceil(low):.0f}", f"{count:,}", bar)
    table.caption = f"median {np.median(lengths):.0f}, mean {lengths.mean():.1f}, longest {lengths.max()}"
    return table


def pages_table(manifest: dict) -> Table:
    """What became of the input's pages, over all splits."""
    pages = manifest["all_splits"]
    table = Table("", "number", title="Pages")
    table.columns[1].justify = "right"
    table.add_row("read", f"{pages['pages']:,}")
    for reason, count in pages["dropped"].items():
        table.add_row(f"dropped: {reason.replace('_', ' ')}", f"{count:,}")
    table.add_row("articles", f"{pages['articles']:,}")
    table.add_row("passages dropped: too short", f"{pages['short_passages']:,}")
    table.add_row("sentences cut to the budget", f"{pages['sentences_cut']:,}")
    return table


if __name__ == "__main__":
    main()
