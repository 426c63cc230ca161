"""The pages and lines that become articles."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from megatron_pz.runtime.errors import BadInput
from megatron_pz.wikipedia.read.articles import Article, ArticleOptions, ArticleReader, read_extracts
from megatron_pz.wikipedia.read.damage import DamageLog
from megatron_pz.wikipedia.read.dump import SiteInfo
from megatron_pz.wikipedia.read.page import Page
from megatron_pz.wikipedia.read.streams import plan_jobs
from megatron_pz.wikitext.extract import TextOptions

OPTIONS = ArticleOptions(min_article_words=1)


@pytest.mark.parametrize(
    ("text", "is_article"),
    [
        ("A is b. {{disambiguation}}", False),
        ("A is b. __DISAMBIG__", False),
        ("A is b. <!-- c --> {{disambiguation}} <nowiki>d</nowiki>", False),
        ("A is b. {{disambiguation<!-- c -->}}", False),
        ("A is b. {{<!-- c -->disambiguation|geo}}", False),
        ("A is b. <!-- {{disambiguation}} once -->", True),
        ("A is b. <!-- {{disambiguation}} and no end", True),
        ("Write <nowiki>{{disambiguation}}</nowiki> there.", True),
        ("Write <nowiki>__DISAMBIG__</nowiki> there.", True),
    ],
)
def test_a_template_s_name_that_is_not_read_makes_no_disambiguation(text: str, is_article: bool) -> None:
    reader = ArticleReader(SiteInfo("en", "enwiki", "", {}), TextOptions(), OPTIONS)
    page = Page("1", "2", "A", 0, None, text.encode().replace(b"<", b"&lt;"))
    assert isinstance(reader.read(page), Article) == is_article


@pytest.mark.parametrize(
    "line",
    [
        '{"id": 2, "title": "B", "text": ' + "[" * 100_000,
        '{"id": null, "title": "B", "text": "c"}',
        '{"id": 2, "title": ["B"], "text": "c"}',
        '{"id": 2, "title": "B", "text": ["c"]}',
        '{"id": ' + "9" * 5000 + ', "title": "B", "text": "c"}',
    ],
)
def test_a_line_that_is_no_article_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "leads.jsonl"
    first = json.dumps({"id": 1, "title": 1984, "text": "A book."}) + "\n"
    path.write_text(first + line + "\n")
    (job,) = plan_jobs(str(path))
    with pytest.raises(BadInput, match=f"the line at byte {len(first)} is not"):
        list(read_extracts(job, OPTIONS, DamageLog()))
