"""The dump's own templates: the same articles for any number of workers, and no unnecessary reads of streams."""

from __future__ import annotations

import bz2
import json
from pathlib import Path

import pytest

from megatron_pz.runtime.errors import BadInput
from megatron_pz.wikipedia.pipeline import template_pass
from megatron_pz.wikipedia.pipeline.options import OutputOptions, PreprocessOptions, RunOptions
from megatron_pz.wikipedia.pipeline.pipeline import preprocess
from megatron_pz.wikipedia.pipeline.template_pass import learn_templates
from megatron_pz.wikipedia.read import streams
from megatron_pz.wikipedia.read.articles import ArticleOptions, TemplateSource
from megatron_pz.wikipedia.read.dump import read_siteinfo

HEADER = (
    '<mediawiki xml:lang="de"><siteinfo><dbname>dewiki</dbname><base>https://de.wikipedia.org/wiki/X</base>'
    '<namespaces><namespace key="0" /><namespace key="10">Vorlage</namespace></namespaces></siteinfo>\n'
)
WORDS = "Der Ort liegt an einem Fluss und hat eine alte Kirche, eine Schule und einen kleinen Bahnhof. " * 3


def page(number: int, title: str, text: str, namespace: int = 0) -> str:
    text = text.replace("&", "&amp;").replace("<", "&lt;")
    return (
        f"<page><title>{title}</title><ns>{namespace}</ns><id>{number}</id>"
        f"<revision><id>{number + 1000}</id><text>{text}</text></revision></page>\n"
    )


PAGES = [
    page(1, "Alpha", f"Alpha ist ein {{{{Wort|schöner}}}} Ort. Er heißt {{{{W2|so}}}}. {WORDS}"),
    page(2, "Beta", f"Beta ist ein Ort mit {{{{Wort|[[Gamma|vielen]] Häusern}}}} hier. {WORDS}"),
    page(3, "Gamma", f"Gamma ist mehrdeutig. {WORDS} {{{{Klärung}}}}"),
    page(4, "Delta", f"Delta ist eine Seite. {WORDS}"),
    page(5, "Epsilon", f"Epsilon ist eine andere Seite. {WORDS[10:]}"),
    page(6, "Vorlage:Wort", "<span>{{{1}}}</span><noinclude>Doku</noinclude>", 10),
    page(7, "Vorlage:W2", "#WEITERLEITUNG [[Vorlage:Wort]]", 10),
    page(8, "Vorlage:Klärung", "{{Kasten}}__DISAMBIG__", 10),
]


def write_dump(path: Path) -> list[int]:
    """Write a dump of two pages per stream; return the starts of the streams."""
    parts = [HEADER, *("".join(PAGES[start : start + 2]) for start in range(0, len(PAGES), 2)), "</mediawiki>\n"]
    compressed = [bz2.compress(part.encode()) for part in parts]
    path.write_bytes(b"".join(compressed))
    return [sum(map(len, compressed[:number])) for number in range(len(compressed))]


def options(dump: Path, tmp_path: Path, tokenizer: Path, workers: int, source: TemplateSource) -> PreprocessOptions:
    return PreprocessOptions(
        inputs=(str(dump),),
        tokenizer_model=str(tokenizer),
        run=RunOptions(workers),
        output=OutputOptions(str(tmp_path / f"{source}{workers}"), export="jsonl", level="document"),
        articles=ArticleOptions(templates=source),
    )


@pytest.fixture(autouse=True)
def _small_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "JOB_BYTES", {"bz2": 200, "none": 1000, "zst": 200})


def test_articles_show_the_dumps_templates_for_any_number_of_workers(tmp_path: Path, tiny_tokenizer_dir: Path) -> None:
    dump = tmp_path / "dump.xml.bz2"
    write_dump(dump)
    for workers in (1, 3):
        preprocess(options(dump, tmp_path, tiny_tokenizer_dir, workers, "auto"))
    exported = (tmp_path / "auto1_text_document.text.jsonl").read_bytes()
    assert exported == (tmp_path / "auto3_text_document.text.jsonl").read_bytes()
    articles = {record["title"]: record["text"] for record in map(json.loads, exported.splitlines())}
    assert list(articles) == ["Alpha", "Beta", "Delta", "Epsilon"]
    assert articles["Alpha"].startswith("Alpha ist ein schöner Ort. Er heißt so. Der Ort")
    assert articles["Beta"].startswith("Beta ist ein Ort mit vielen Häusern hier. Der Ort")
    preprocess(options(dump, tmp_path, tiny_tokenizer_dir, 1, "tables"))
    assert "schöner" not in (tmp_path / "tables1_text_document.text.jsonl").read_text()


def test_an_index_tells_the_streams_that_hold_templates(tmp_path: Path, tiny_tokenizer_dir: Path) -> None:
    dump = tmp_path / "dewiki-latest-pages-articles-multistream.xml.bz2"
    starts = write_dump(dump)
    titles = [text.split("<title>")[1].split("<")[0] for text in PAGES]
    lines = [f"{starts[1 + number // 2]}:{number + 1}:{title}\n" for number, title in enumerate(titles)]
    index = tmp_path / "dewiki-latest-pages-articles-multistream-index.txt.bz2"
    index.write_bytes(bz2.compress("".join(lines).encode()))
    site = read_siteinfo(str(dump))
    jobs = list(template_pass._template_jobs(str(dump), site))
    assert [job.start for job in jobs] == starts[3:5]
    found = learn_templates(options(dump, tmp_path, tiny_tokenizer_dir, 1, "auto"), {str(dump): site}, tmp_path)
    assert set(found[str(dump)]) == {"wort", "w2", "klärung"}


@pytest.mark.parametrize(
    ("index", "words"),
    [
        (b"no bz2", "is damaged"),
        (bz2.compress(b"600:1:A\n")[:20], "is damaged"),
        (bz2.compress(b"600:1:\xff\n"), "is damaged"),
        (bz2.compress(b"600:A\n"), "'600:A' is not offset:id:title"),
        (bz2.compress(b"7:1:Vorlage:A\n"), "lists byte 7 of"),
    ],
)
def test_an_index_that_does_not_fit_is_refused(
    tmp_path: Path, tiny_tokenizer_dir: Path, index: bytes, words: str
) -> None:
    dump = tmp_path / "dewiki-latest-pages-articles-multistream.xml.bz2"
    write_dump(dump)
    (tmp_path / "dewiki-latest-pages-articles-multistream-index.txt.bz2").write_bytes(index)
    with pytest.raises(BadInput, match=f"index.*{words}"):
        preprocess(options(dump, tmp_path, tiny_tokenizer_dir, 1, "auto"))


def test_a_large_dump_is_not_decompressed_twice(
    tmp_path: Path, tiny_tokenizer_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dump = tmp_path / "dump.xml.bz2"
    write_dump(dump)
    monkeypatch.setattr(template_pass, "CHEAP_BYTES", 10)
    site = {str(dump): read_siteinfo(str(dump))}
    assert learn_templates(options(dump, tmp_path, tiny_tokenizer_dir, 1, "auto"), site, tmp_path) == {}
    assert learn_templates(options(dump, tmp_path, tiny_tokenizer_dir, 1, "dump"), site, tmp_path) != {}
