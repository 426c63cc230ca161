"""Turn Wikipedia dumps into Megatron datasets of passages, with the article of every passage beside them.

    python tools/preprocess_wikipedia.py --input enwiki-latest-pages-articles-multistream.xml.bz2 \\
        --output-prefix data/enwiki --tokenizer-type HuggingFaceTokenizer --tokenizer-model Qwen3-4B-Base \\
        --workers 32 --split 99,1

Reads dumps of any language (.xml; .xml.bz2 and .xml.zst of one stream or many; .xml.gz), and .jsonl extracts ({"id",
"title", "text"} per line, paragraphs separated by blank lines; plain or compressed). Writes <prefix>_text_passage.bin,
.idx, .parquet and .manifest.json, or one such set per split. After a kill at any point, the same command continues from
the finished work and produces the same bytes for any --workers.

On wikis that convert between language variants, -{zh-hans:…;zh-hant:…}- and similar markup gives the text of one
variant: simplified Chinese, Serbian in Cyrillic, and so on (megatron_pz/wikitext/variants.py). All other text is
unchanged.
"""

from __future__ import annotations

import argparse
import sys
from itertools import product
from typing import get_args

from megatron_pz.config.command_line import Parser
from megatron_pz.runtime.errors import BadInput, exits_with_one_line
from megatron_pz.wikipedia.filters.filters import FilterOptions
from megatron_pz.wikipedia.pipeline.options import Export, Level, OutputOptions, Part, PreprocessOptions, RunOptions
from megatron_pz.wikipedia.pipeline.pipeline import PreprocessReport, preprocess
from megatron_pz.wikipedia.pipeline.selection import REASONS
from megatron_pz.wikipedia.pipeline.working_directory import folder_of
from megatron_pz.wikipedia.read.articles import ArticleOptions, TemplateSource
from megatron_pz.wikipedia.tokenize.passages import PassageOptions, PassageUnit
from megatron_pz.wikipedia.tokenize.text_encoder import TokenizerBackend
from megatron_pz.wikitext import scanner_form
from megatron_pz.wikitext.extract import KEEPABLE, TextOptions
from megatron_pz.wikitext.marks import HOLES, PLACES

INTERRUPTED = 130


@exits_with_one_line
def main() -> None:
    options = _parse()
    if scanner_form.FORM != "compiled":
        print(f"wikitext scanner: {scanner_form.FORM}", file=sys.stderr)
    try:
        report = preprocess(options)
    except KeyboardInterrupt:
        work = folder_of(options.output.output_prefix)
        kept = (
            f"finished work is kept in {work}; give the same command again to continue"
            if work.exists()
            else "nothing done"
        )
        print(f"interrupted: {kept}", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None
    if options.run.part:
        print(f"part {options.run.part} is done; when all are, the same command without --part joins them")
    else:
        _show(report, options.output)


def _parse() -> PreprocessOptions:
    parser = Parser(__doc__ or "")
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    for add in (_add_files, _add_run, _add_tokenizer, _add_passages, _add_text, _add_filters):
        add(parser)
    flags = parser.parse_args()
    return PreprocessOptions(
        inputs=tuple(flags.input),
        tokenizer_model=flags.tokenizer_model,
        tokenizer_backend=flags.tokenizer_backend,
        output=OutputOptions(
            flags.output_prefix, flags.level, _shares(flags.split), flags.append_eod, flags.export, flags.limit
        ),
        cache=flags.cache,
        run=RunOptions(
            flags.workers, flags.overwrite, flags.fresh, flags.skip_damaged, flags.log_interval, _part(flags.part)
        ),
        text=TextOptions.keeping(flags.keep, flags.drop_formulas, flags.keep_incomplete_sentences),
        articles=ArticleOptions(flags.drop_lists, flags.min_article_words, flags.templates),
        passages=PassageOptions(
            flags.passage_unit, flags.max_passage_tokens, flags.min_passage_words, flags.max_passage_words
        ),
        filters=FilterOptions(
            flags.language,
            flags.min_language_probability,
            tuple(flags.decontaminate),
            flags.decontaminate_words,
            flags.near_duplicates,
        ),
    )


def _part(text: str) -> Part | None:
    if not text:
        return None
    number, _, parts = text.partition("/")
    if not (number.isdecimal() and parts.isdecimal()):
        raise BadInput(f"--part {text}: give a number and how many there are, e.g. 1/8")
    return Part(int(number), int(parts))


def _add_files(parser: Parser) -> None:
    group = parser.add_argument_group("input and output")
    group.add_argument("--input", nargs="+", required=True, metavar="FILE", help="dumps, extracts and caches, in order")
    group.add_argument("--output-prefix", required=True, help="path without suffix")
    group.add_argument(
        "--split",
        default="",
        help="relative sizes of train,valid or train,valid,test, e.g. 95,5; the hash of its title decides, so that an "
        "article is on the same side in every dump and extract",
    )
    group.add_argument(
        "--level",
        choices=get_args(Level),
        default="passage",
        help="unit of a sequence: a passage (default) or a whole article",
    )
    group.add_argument("--append-eod", action="store_true", help="end every article with the end-of-text token")
    group.add_argument(
        "--export", choices=get_args(Export), help="also write the articles' clean text as <corpus>.text.<this>"
    )
    group.add_argument(
        "--cache",
        default="",
        metavar="FILE",
        help="keep the clean articles here (.zst); if the file exists, it is read instead of the inputs, so that "
        "another tokenizer needs no second pass over the dump",
    )
    group.add_argument("--limit", type=int, default=0, metavar="N", help="dry run: only the first N articles")


def _add_run(parser: Parser) -> None:
    group = parser.add_argument_group("execution (without effect on the output)")
    group.add_argument("--workers", type=int, default=1, help="processes (default 1)")
    group.add_argument("--overwrite", action="store_true", help="replace existing outputs")
    group.add_argument("--fresh", action="store_true", help="discard an unfinished run instead of continuing it")
    group.add_argument(
        "--skip-damaged",
        action="store_true",
        help="leave damaged streams, pages and lines out and record them in the manifest; otherwise they end the run",
    )
    group.add_argument(
        "--log-interval",
        type=int,
        default=0,
        metavar="N",
        help="if stderr is not a terminal: a line of progress every N articles (default: every 30 seconds)",
    )
    group.add_argument(
        "--part",
        default="",
        metavar="I/N",
        help="do the I-th of N parts of the work, on a machine of its own; when all are done, the same command without "
        "--part joins them",
    )


def _add_tokenizer(parser: Parser) -> None:
    group = parser.add_argument_group("tokenizer")
    group.add_argument("--tokenizer-type", choices=("HuggingFaceTokenizer",), default="HuggingFaceTokenizer")
    group.add_argument("--tokenizer-model", required=True, metavar="DIR", help="directory with tokenizer.json")
    group.add_argument(
        "--tokenizer-backend",
        choices=get_args(TokenizerBackend),
        default="auto",
        help="library that encodes: gigatoken if it is installed and agrees with Hugging Face (default), or one of "
        "them; the ids are the same",
    )


def _add_passages(parser: Parser) -> None:
    group = parser.add_argument_group("passages")
    defaults = PassageOptions()
    group.add_argument(
        "--passage-unit",
        choices=get_args(PassageUnit),
        default=defaults.passage_unit,
        help="merge whole paragraphs (default), fill passages with whole sentences of one paragraph, or keep only the "
        "sentences that a paragraph begins with",
    )
    group.add_argument(
        "--max-passage-tokens",
        type=int,
        default=defaults.max_passage_tokens,
        help=f"maximum number of tokens in a passage (default {defaults.max_passage_tokens})",
    )
    group.add_argument("--min-passage-words", type=int, default=0, help="drop shorter passages (default 0)")
    group.add_argument(
        "--max-passage-words", type=int, default=0, help="maximum number of words in a passage; 0 (default): any"
    )


def _add_text(parser: Parser) -> None:
    group = parser.add_argument_group("articles and text")
    minimum = ArticleOptions().min_article_words
    group.add_argument(
        "--min-article-words", type=int, default=minimum, help=f"drop shorter articles (default {minimum})"
    )
    group.add_argument(
        "--templates",
        choices=get_args(TemplateSource),
        default=ArticleOptions().templates,
        help="source of templates that the tables lack: the dump's own pages unless a large file without an index "
        "would have to be decompressed twice (auto), the dump's own pages in any case (dump), or none (tables)",
    )
    group.add_argument("--drop-lists", action="store_true", help='drop "List of …" pages')
    group.add_argument(
        "--keep", default="", metavar="WHAT,…", help=f"further parts to keep: any of {', '.join(KEEPABLE)}"
    )
    group.add_argument(
        "--drop-formulas",
        action="store_true",
        help="drop the sentences that hold a formula (default: a formula stays as its TeX)",
    )
    group.add_argument(
        "--keep-incomplete-sentences",
        action="store_true",
        help="keep sentences that lost a word, for example to an unknown template, without that word, and count the "
        "lost parts (default: drop these sentences and count them by reason); a sentence that lost a part of a "
        "parenthesis or a note stays in either case, and the part is counted",
    )


def _add_filters(parser: Parser) -> None:
    group = parser.add_argument_group("filters (of articles with equal text, only the first is ever kept)")
    defaults = FilterOptions()
    group.add_argument(
        "--near-duplicates",
        type=float,
        default=0.0,
        metavar="SIMILARITY",
        help="drop articles that share this part of their word 5-grams with an earlier one, e.g. 0.8; needs rensa",
    )
    group.add_argument(
        "--decontaminate",
        nargs="+",
        default=[],
        metavar="FILE",
        help="drop passages (at --level document, articles) that have words in a row with these benchmark files in "
        "common; .jsonl, .parquet, .csv: every text in them, .txt: a question a line",
    )
    group.add_argument(
        "--decontaminate-words",
        type=int,
        default=defaults.decontaminate_words,
        help=f"number of consecutive words (default {defaults.decontaminate_words})",
    )
    group.add_argument(
        "--language", default="", metavar="CODE", help="drop articles in other languages, e.g. en; needs py3langid"
    )
    group.add_argument(
        "--min-language-probability",
        type=float,
        default=defaults.min_language_probability,
        help=f"minimum probability of the language (default {defaults.min_language_probability:g})",
    )


def _shares(split: str) -> tuple[float, ...]:
    try:
        return tuple(float(share) for share in split.split(",")) if split else ()
    except ValueError:
        raise BadInput(f"--split {split}: give two or three numbers with commas, such as 95,5") from None


def _show(report: PreprocessReport, output: OutputOptions) -> None:
    from rich.console import Console  # after the work, because this takes as long as a dump of a few megabytes
    from rich.table import Table

    console = Console()
    counts = report.counts
    table = Table("", "number", "", title="Pages")
    table.columns[1].justify = "right"
    table.add_row("read", f"{counts['pages']:,}", "")
    for reason in REASONS:
        table.add_row(f"dropped: {reason.replace('_', ' ')}", f"{counts[f'dropped_{reason}']:,}", "")
    table.add_row("articles", f"{counts['articles']:,}", "")
    for reason in HOLES.values():
        if number := counts[f"sentences_dropped_{reason}"]:
            table.add_row(f"sentences dropped: {reason.replace('_', ' ')}", f"{number:,}", "")
    for place, reason in product(PLACES, HOLES.values()):
        if number := counts[f"parts_lost_{place}_{reason}"]:
            table.add_row(f"parts lost {place.replace('_', ' ')}: {reason.replace('_', ' ')}", f"{number:,}", "")
    table.add_row(
        "passages dropped: too short", f"{counts['short_passages']:,}", f"{counts['short_passage_words']:,} words"
    )
    if counts["overlapping_passages"]:
        table.add_row(
            "passages dropped: benchmark overlap",
            f"{counts['overlapping_passages']:,}",
            f"{counts['overlapping_passage_words']:,} words",
        )
    if counts["words_after_leads"]:
        table.add_row("dropped after the leads", "", f"{counts['words_after_leads']:,} words")
    table.add_row("sentences cut to the budget", f"{counts['sentences_cut']:,}", "")
    console.print(table)
    made = Table("corpus", "articles", "passages", "tokens")
    for column in made.columns[1:]:
        column.justify = "right"
    for prefix, totals in report.outputs.items():
        made.add_row(prefix, f"{totals.documents:,}", f"{totals.passages:,}", f"{totals.tokens:,}")
    console.print(made)
    if counts["damaged"]:
        console.print(f"{counts['damaged']} damaged parts of the input were left out; the manifest names them")
    if output.limit:
        console.print(f"dry run: only the first {output.limit:,} articles (--limit)")
    train, *held_out = report.outputs
    line = f"--data-path {train}"
    if held_out:
        line += f" --valid-data-path {held_out[0]}"
    print(line)


if __name__ == "__main__":
    main()
