#!/usr/bin/env python
"""Turn Wikipedia dumps into Megatron datasets of passages, with the article of every passage beside them.

    python tools/preprocess_wikipedia.py --input enwiki-latest-pages-articles-multistream.xml.bz2 \\
        --output-prefix data/enwiki --tokenizer-model Qwen3-4B-Base --workers 32 --split 99,1

Reads .xml.bz2 (one stream or many), .xml, and .jsonl extracts ({"id", "title", "text"} a line, paragraphs separated by
blank lines). Writes <prefix>_text_passage.bin, .idx, .parquet and .manifest.json, or one such set a split.
"""

from __future__ import annotations

import argparse
import sys
from typing import get_args

from rich.console import Console
from rich.table import Table

from megatron_pz.command_line import Parser
from megatron_pz.errors import BadInput, exits_with_one_line
from megatron_pz.wikipedia.articles import DROP_REASONS, ArticleOptions
from megatron_pz.wikipedia.duplicates import DUPLICATE_REASONS
from megatron_pz.wikipedia.passages import PassageOptions, PassageUnit
from megatron_pz.wikipedia.pipeline import PreprocessReport, preprocess
from megatron_pz.wikipedia.text_encoder import TokenizerBackend
from megatron_pz.wikipedia.wikitext import TextOptions
from megatron_pz.wikipedia.worker import OutputOptions, PreprocessOptions

INTERRUPTED = 130


@exits_with_one_line
def main() -> None:
    options = _parse()
    try:
        report = preprocess(options)
    except KeyboardInterrupt:
        print("interrupted: nothing was written", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None
    _show(report)


def _parse() -> PreprocessOptions:
    parser = Parser(__doc__ or "")
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    files = parser.add_argument_group("input and output")
    files.add_argument("--input", nargs="+", required=True, metavar="FILE", help="dumps and .jsonl extracts")
    files.add_argument("--output-prefix", required=True, help="path without suffix")
    files.add_argument("--workers", type=int, default=1, help="processes; the output does not depend on it (default 1)")
    files.add_argument("--split", default="", help="sizes of train,valid or train,valid,test, by title; e.g. 95,5")
    files.add_argument(
        "--level",
        choices=("passage", "document"),
        default="passage",
        help="what one sequence is: a passage (default) or a whole article",
    )
    files.add_argument("--append-eod", action="store_true", help="end every article with the end-of-text token")
    files.add_argument("--overwrite", action="store_true", help="replace existing outputs")

    tokenizer = parser.add_argument_group("tokenizer")
    tokenizer.add_argument("--tokenizer-type", choices=("HuggingFaceTokenizer",), default="HuggingFaceTokenizer")
    tokenizer.add_argument("--tokenizer-model", required=True, metavar="DIR", help="folder with tokenizer.json")
    tokenizer.add_argument(
        "--tokenizer-backend",
        choices=get_args(TokenizerBackend),
        default="auto",
        help="library that encodes: gigatoken where it is installed and agrees with Hugging Face (default), or one of "
        "them; the ids are the same",
    )

    passages = parser.add_argument_group("passages")
    defaults = PassageOptions()
    passages.add_argument(
        "--passage-unit",
        choices=get_args(PassageUnit),
        default=defaults.passage_unit,
        help="merge whole paragraphs (default), fill passages with whole sentences of one paragraph, or keep only the "
        "sentences that a paragraph begins with",
    )
    passages.add_argument(
        "--max-passage-tokens",
        type=int,
        default=defaults.max_passage_tokens,
        help=f"most tokens in a passage (default {defaults.max_passage_tokens})",
    )
    passages.add_argument("--min-passage-words", type=int, default=0, help="drop shorter passages (default 0)")
    passages.add_argument("--max-passage-words", type=int, default=0, help="most words in a passage (default 0: any)")

    text = parser.add_argument_group("articles and text")
    minimum = ArticleOptions().min_article_words
    text.add_argument(
        "--min-article-words", type=int, default=minimum, help=f"drop shorter articles (default {minimum})"
    )
    text.add_argument("--drop-lists", action="store_true", help='drop "List of …" pages')
    text.add_argument("--keep-headings", action="store_true", help="keep section headings as paragraphs")
    text.add_argument("--keep-math", action="store_true", help="keep the TeX source of formulas")
    text.add_argument("--keep-code", action="store_true", help="keep code listings")
    flags = parser.parse_args()
    return PreprocessOptions(
        inputs=tuple(flags.input),
        tokenizer_model=flags.tokenizer_model,
        workers=flags.workers,
        tokenizer_backend=flags.tokenizer_backend,
        output=OutputOptions(flags.output_prefix, flags.level, _shares(flags.split), flags.append_eod, flags.overwrite),
        text=TextOptions(flags.keep_headings, flags.keep_math, flags.keep_code),
        articles=ArticleOptions(flags.drop_lists, flags.min_article_words),
        passages=PassageOptions(
            flags.passage_unit, flags.max_passage_tokens, flags.min_passage_words, flags.max_passage_words
        ),
    )


def _shares(split: str) -> tuple[float, ...]:
    try:
        return tuple(float(share) for share in split.split(",")) if split else ()
    except ValueError:
        raise BadInput(f"--split {split}: give two or three numbers with commas, such as 95,5") from None


def _show(report: PreprocessReport) -> None:
    console = Console()
    counts = report.counts
    table = Table("", "number", "", title="Pages")
    table.columns[1].justify = "right"
    table.add_row("read", f"{counts['pages']:,}", "")
    for reason in (*DROP_REASONS, *DUPLICATE_REASONS):
        table.add_row(f"dropped: {reason.replace('_', ' ')}", f"{counts[f'dropped_{reason}']:,}", "")
    table.add_row("articles", f"{counts['articles']:,}", "")
    table.add_row(
        "passages dropped: too short", f"{counts['short_passages']:,}", f"{counts['short_passage_words']:,} words"
    )
    if counts["words_after_leads"]:
        table.add_row("dropped behind the leads", "", f"{counts['words_after_leads']:,} words")
    table.add_row("sentences cut to the budget", f"{counts['sentences_cut']:,}", "")
    console.print(table)
    made = Table("corpus", "articles", "passages", "tokens")
    for column in made.columns[1:]:
        column.justify = "right"
    for prefix, totals in report.outputs.items():
        made.add_row(prefix, f"{totals.documents:,}", f"{totals.passages:,}", f"{totals.tokens:,}")
    console.print(made)
    train, *held_out = report.outputs
    line = f"--data-path {train}"
    if held_out:
        line += f" --valid-data-path {held_out[0]}"
    print(line)


if __name__ == "__main__":
    main()
