"""Make a small dump of articles and of dropped pages, and run the pipeline over it."""

from __future__ import annotations

import os
from pathlib import Path
from xml.sax.saxutils import escape

import pytest

from megatron_pz.wikipedia.pipeline.options import OutputOptions, PreprocessOptions, RunOptions
from megatron_pz.wikipedia.pipeline.pipeline import PreprocessReport, preprocess
from megatron_pz.wikipedia.read import streams
from megatron_pz.wikipedia.read.articles import ArticleOptions
from megatron_pz.wikipedia.tokenize.passages import PassageOptions

SUFFIXES = (".bin", ".idx", ".parquet", ".manifest.json")
HEADER = (
    '<mediawiki xml:lang="en"><siteinfo><dbname>enwiki</dbname><base>https://en.wikipedia.org/wiki/Main_Page</base>'
    '<namespaces><namespace key="0" /></namespaces></siteinfo>'
)


def page(number: int, title: str, text: str, namespace: int = 0, redirect: bool = False) -> str:
    return (
        f"<page><title>{escape(title)}</title><ns>{namespace}</ns><id>{number}</id>"
        + ('<redirect title="A" />' if redirect else "")
        + f"<revision><id>{number + 1000}</id><text>{escape(text)}</text></revision></page>\n"
    )


def pages() -> list[str]:
    articles = [
        page(
            number,
            f"River & hill {number}",
            f"'''Hill {number}''' stands above the [[river]] of the town.{{{{cn}}}} The river gave number {number} its "
            "name.\n\n"
            f"Its second paragraph has {number} words & more <ref>note</ref> about the railway and the village.\n",
        )
        for number in range(1, 31)
    ]
    dropped = [
        page(50, "Talk:A", "words " * 30, namespace=1),
        page(51, "B", "#REDIRECT [[A]]", redirect=True),
        page(52, "C", "#redirect [[A]]"),
        page(53, "Mercury", "'''Mercury''' may refer to:\n* x {{disambiguation}}"),
        page(54, "Mercury (disambiguation)", "words " * 30),
        page(55, "Stub", "Few words."),
        page(56, "List of hills", "* words " * 30),
    ]
    return [*articles[:9], *dropped, *articles[9:]]


def use_small_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # the disk is slow, and no test interrupts the power
    monkeypatch.setattr(streams, "JOB_BYTES", {"bz2": 900, "none": 1000, "zst": 900})


def run(
    prefix: Path, tokenizer: Path, *inputs: Path, how: RunOptions | None = None, cache: object = "", **output: object
) -> PreprocessReport:
    return preprocess(
        PreprocessOptions(
            inputs=tuple(map(str, inputs)),
            tokenizer_model=str(tokenizer),
            run=how or RunOptions(),
            cache=str(cache),
            output=OutputOptions(str(prefix), **output),  # type: ignore[arg-type]
            articles=ArticleOptions(drop_lists=True),
            passages=PassageOptions(max_passage_tokens=64),
        )
    )


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}
