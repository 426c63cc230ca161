"""Inspecting a corpus: the shown passages, lengths and drop reasons, compared with the whole corpus."""

from __future__ import annotations

import json
import re
import runpy
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_pz.corpus.browser import CorpusBrowser, Lengths
from megatron_pz.corpus.passages import open_blend
from megatron_pz.reports.corpus_picture import corpus_figure, even_edges, percent, short
from megatron_pz.runtime.errors import BadInput
from megatron_pz.wikipedia.pipeline.options import OutputOptions, PreprocessOptions
from megatron_pz.wikipedia.pipeline.pipeline import preprocess
from megatron_pz.wikipedia.tokenize.passages import PassageOptions

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def corpus_prefix(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer_dir: Path) -> str:
    folder = tmp_path_factory.mktemp("corpus")
    records = [
        {
            "id": number,
            "title": f"River {number}" if number != 5 else "Straße <b>& Hill</b>",
            "url": f"https://example.org/{number}",
            "text": "\n\n".join(
                f"The {number}th river has a hill, it is said: <i>{part}</i>." * 2 for part in range(number)
            ),
        }
        for number in range(3, 30)
    ]
    records.append({"id": 99, "title": "Stub", "text": "Few words."})
    (folder / "rivers.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    preprocess(
        PreprocessOptions(
            inputs=(str(folder / "rivers.jsonl"),),
            tokenizer_model=str(tiny_tokenizer_dir),
            output=OutputOptions(str(folder / "rivers"), append_eod=True),
            passages=PassageOptions(max_passage_tokens=100),
        )
    )
    prefix = str(folder / "rivers_text_passage")
    table = pq.read_table(f"{prefix}.parquet")
    pq.write_table(table, f"{prefix}.parquet", row_group_size=4)  # several row groups, as in a large corpus
    return prefix


def test_passages_are_those_that_training_reads(corpus_prefix: str, tiny_tokenizer_dir: Path) -> None:
    corpus, blend = CorpusBrowser(corpus_prefix), open_blend([corpus_prefix], str(tiny_tokenizer_dir))
    assert len(blend) == len(corpus.tokens) > 30
    for index in range(len(blend)):
        stored, passage = corpus.passage(index), blend[index]
        assert (tuple(stored.token_ids.tolist()), stored.title, stored.url, stored.page_id) == (
            passage.token_ids,
            passage.title,
            passage.url,
            passage.page_id,
        )
    for index in (-1, len(blend)):
        with pytest.raises(BadInput, match=f"has no passage {index}; they are numbered from 0 to {len(blend) - 1}"):
            corpus.passage(index)


def test_articles_are_found_by_title(corpus_prefix: str) -> None:
    corpus = CorpusBrowser(corpus_prefix)
    for number in (3, 7, 29):
        expected = [i for i in range(len(corpus.tokens)) if corpus.passage(i).title == f"River {number}"]
        assert corpus.titled(f"river_{number}") == expected
        assert expected
    assert corpus.titled("STRASSE <b>& hill</b>") == corpus.titled("Straße <b>& Hill</b>") != []
    with pytest.raises(BadInput, match="has no article with the title 'River 2'"):
        corpus.titled("River 2")


def test_samples_are_by_seed(corpus_prefix: str) -> None:
    corpus = CorpusBrowser(corpus_prefix)
    assert corpus.sample(9, 1) == corpus.sample(9, 1) != corpus.sample(9, 2)
    assert corpus.sample(10**6, 0) == list(range(len(corpus.tokens)))


def test_lengths_are_those_of_the_files(corpus_prefix: str) -> None:
    corpus = CorpusBrowser(corpus_prefix)
    rows = pq.read_table(f"{corpus_prefix}.parquet").to_pylist()
    words = [count for row in rows for count in row["words"]]
    for lengths, expected in (
        (corpus.passage_tokens(), corpus.tokens.lengths.tolist()),
        (corpus.passage_words(), words),
        (corpus.article_tokens(), [row["tokens"] for row in rows]),
    ):
        assert lengths.number == len(expected)
        assert lengths.mean == pytest.approx(np.mean(expected))
        assert (lengths.shortest, lengths.longest) == (min(expected), max(expected))
        assert lengths.quantile(0.5) == np.quantile(expected, 0.5, method="inverted_cdf")


@given(st.lists(st.integers(0, 40), min_size=1), st.lists(st.integers(0, 45), min_size=2, unique=True))
def test_bins_are_those_of_numpy(lengths: list[int], edges: list[int]) -> None:
    edges = sorted(edges)
    expected, _ = np.histogram(lengths, bins=edges)
    assert Lengths(np.bincount(lengths)).binned(np.array(edges, dtype=float)).tolist() == expected.tolist()


@given(st.integers(0, 300), st.integers(0, 3000), st.integers(1, 60))
def test_bins_hold_equally_many_lengths(shortest: int, more: int, bins: int) -> None:
    edges = even_edges(shortest, shortest + more, bins)
    assert len(set(np.diff(edges))) == 1
    assert edges[0] == shortest
    assert edges[-2] <= shortest + more < edges[-1], "the last bin is not empty by construction"
    assert len(edges) - 1 <= bins


def test_numbers_are_short() -> None:
    numbers = (0, 7, 950, 1000, 12_345, 999_800, 1_070_000, 8_500_000_000)
    assert [short(number) for number in numbers] == ["0", "7", "950", "1 k", "12.3 k", "1 M", "1.07 M", "8.5 G"]
    assert [percent(part, 10_000) for part in (0, 1, 10, 9999)] == ["0.0 %", "< 0.1 %", "0.1 %", "100.0 %"]


def inspect(monkeypatch: pytest.MonkeyPatch, *flags: str) -> None:
    monkeypatch.setattr(sys, "argv", ["inspect_corpus.py", *flags])
    runpy.run_path(str(ROOT / "tools" / "inspect_corpus.py"), run_name="__main__")


def test_the_command_shows_passages_lengths_and_pages(
    corpus_prefix: str, tiny_tokenizer_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer = ("--tokenizer-model", str(tiny_tokenizer_dir))
    inspect(monkeypatch, corpus_prefix, *tokenizer, "--title", "Straße <b>& Hill</b>", "--index", "0")
    shown = capsys.readouterr().out
    assert "https://example.org/5" in shown
    assert "https://example.org/3" in shown
    assert "https://example.org/6" not in shown
    assert "The 5th river has a hill, it is said: <i>4</i>." in " ".join(shown.split())
    assert re.search(r"dropped: too short +│ +1 │ +3.6 %", shown)
    assert "27 articles," in shown
    inspect(monkeypatch, corpus_prefix)
    assert "https://" not in capsys.readouterr().out.replace("https://creativecommons", "")


class Tags(HTMLParser):
    """Checks that tags nest, and collects links and the content outside of the drawing."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str | None] = []
        self.sources: list[str | None] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.sources += [given[name] for name in ("src", "href", "xlink:href") if name in given and tag != "a"]
        if tag == "a":
            self.links.append(given["href"])
        if tag not in ("meta", "br", "img", "link"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.sources += [value for name, value in attrs if name in ("src", "href", "xlink:href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_picture_and_page(
    corpus_prefix: str,
    tiny_tokenizer_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    flags = (corpus_prefix, "--tokenizer-model", str(tiny_tokenizer_dir), "--title", "Straße <b>& Hill</b>")
    inspect(monkeypatch, *flags, "--output", str(tmp_path / "rivers.html"))
    assert capsys.readouterr().out.endswith(f"{tmp_path / 'rivers.html'}\n")
    page = (tmp_path / "rivers.html").read_text()
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    assert set(tags.links) == {"https://example.org/5"}
    assert all(source and source.startswith("#") for source in tags.sources), "the page needs nothing beside it"
    assert "Straße &lt;b&gt;&amp; Hill&lt;/b&gt;" in page
    assert "it is said: &lt;i&gt;4&lt;/i&gt;." in page
    inspect(monkeypatch, corpus_prefix, "--output", str(tmp_path / "rivers.png"))
    assert (tmp_path / "rivers.png").read_bytes().startswith(b"\x89PNG")


def test_the_picture_has_titles_units_and_true_numbers(corpus_prefix: str) -> None:
    corpus = CorpusBrowser(corpus_prefix)
    figure = corpus_figure(corpus)
    assert figure.get_suptitle().startswith("rivers_text_passage\n27 articles, ")
    tokens, words, articles, pages = figure.axes
    labels = [(axes.get_xlabel(), axes.get_ylabel()) for axes in figure.axes]
    assert labels[:3] == [
        ("tokens in a passage", "passages"),
        ("words in a passage", "passages"),
        ("tokens in an article", "articles"),
    ]
    drawn = [sum(axes.patches[0].get_data().values) for axes in (tokens, words, articles)]
    assert drawn == [len(corpus.tokens), len(corpus.tokens), 27]
    assert [bar.get_width() for bar in pages.patches] == [27, 1]
    assert [label.get_text() for label in pages.get_yticklabels()] == ["articles", "too short"]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--output", "a.pdf"), "--output a.pdf: give a name that ends in .png or .html"),
        (("--title", "A"), "--index and --title show passages"),
        (("--passages", "-1"), "--passages -1: cannot be negative"),
        (("--seed", "-1"), "--seed -1: cannot be negative"),
        (("--output", "/nowhere/a.png"), "--output /nowhere/a.png: cannot be written"),
        (("--tokenizer-model", "OTHER"), "was made with another tokenizer"),
    ],
)
def test_what_cannot_be_shown_is_one_line(
    flags: tuple[str, ...],
    words: str,
    corpus_prefix: str,
    tiny_tokenizer_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(SystemExit) as ended:
        inspect(monkeypatch, corpus_prefix, *(str(tmp_path) if flag == "OTHER" else flag for flag in flags))
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert words in error
    assert error.count("\n") == 1


def test_a_damaged_sidecar_is_one_line(corpus_prefix: str, tmp_path: Path) -> None:
    prefix = str(tmp_path / "copy")
    for suffix in (".bin", ".idx", ".manifest.json", ".parquet"):
        Path(f"{prefix}{suffix}").write_bytes(Path(f"{corpus_prefix}{suffix}").read_bytes())
    sidecar = Path(f"{prefix}.parquet")
    sidecar.write_bytes(sidecar.read_bytes()[:-20])
    with pytest.raises(BadInput, match=r"copy.parquet: is not a Parquet file, or is truncated"):
        CorpusBrowser(prefix)
    sidecar.unlink()
    with pytest.raises(BadInput, match=r"copy.parquet: is missing"):
        CorpusBrowser(prefix)
    pq.write_table(pq.read_table(f"{corpus_prefix}.parquet").slice(1), sidecar)
    with pytest.raises(BadInput, match=r"has 26 rows where .* has 27 documents"):
        CorpusBrowser(prefix)
