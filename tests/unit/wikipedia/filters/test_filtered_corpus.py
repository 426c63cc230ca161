"""The filters in the pipeline: dropped articles, counts, and the manifest."""

from __future__ import annotations

import bz2
import json
import shutil
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import pyarrow.parquet as pq
import pytest

from megatron_pz.corpus.manifest import file_sha256
from megatron_pz.corpus.passages import open_blend
from megatron_pz.runtime.errors import BadInput
from megatron_pz.wikipedia.filters.filters import FilterOptions
from megatron_pz.wikipedia.pipeline.options import OutputOptions, PreprocessOptions, RunOptions
from megatron_pz.wikipedia.pipeline.pipeline import PreprocessReport, preprocess
from megatron_pz.wikipedia.read import streams
from megatron_pz.wikipedia.read.articles import ArticleOptions
from megatron_pz.wikipedia.tokenize.passages import PassageOptions

QUESTION = "Which river gave the old town below the castle its name, and when was the railway built there?"
ENGLISH = [
    f"Hill {number} stands above the river of the town, and the river gave the hill of {number} its name in {year}."
    f"\n\nIts second paragraph has {number * 7} words, and more about the railway and the village of {year + number}."
    for number, year in zip(range(12), range(1801, 1901, 8), strict=False)
]
LONG = " ".join(f"The {number}th of its many sentences is about the {number * 13}th stone." for number in range(60))
PAGES = {
    **{f"Hill {number}": text for number, text in enumerate(ENGLISH)},
    "Exam": f"This is the first paragraph of an article with a question that a benchmark asks.\n\n{QUESTION}",
    "Question": QUESTION,
    "Fluss": "Der Fluss gab der alten Stadt ihren Namen, und die Eisenbahn kam erst viel später in das Tal. " * 3,
    "Stones": LONG,
    "Stones of another name": f"{LONG} And one more at its end.",
    "Hill 3 again": ENGLISH[3],
}


@pytest.fixture
def dump_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(streams, "JOB_BYTES", dict.fromkeys(streams.JOB_BYTES, 600))
    header = (
        '<mediawiki xml:lang="en"><siteinfo><dbname>enwiki</dbname><base>https://en.wikipedia.org/wiki/Main_Page</base>'
        '<namespaces><namespace key="0" /></namespaces></siteinfo>'
    )
    pages = [
        f"<page><title>{title}</title><ns>0</ns><id>{number}</id><revision><id>{number + 1000}</id>"
        f"<text>{escape(text)}</text></revision></page>\n"
        for number, (title, text) in enumerate(PAGES.items(), start=1)
    ]
    path = tmp_path / "dump.xml.bz2"
    parts = [header, *("".join(pages[start : start + 3]) for start in range(0, len(pages), 3)), "</mediawiki>\n"]
    path.write_bytes(b"".join(bz2.compress(part.encode()) for part in parts))
    return path


@pytest.fixture
def benchmark_path(tmp_path: Path) -> Path:
    path = tmp_path / "benchmark.jsonl"
    path.write_text(json.dumps({"question": QUESTION, "answer": "none"}) + "\n")
    return path


def run(prefix: Path, tokenizer: Path, dump: Path, filters: FilterOptions, **options: Any) -> PreprocessReport:
    output = OutputOptions(str(prefix), level=options.pop("level", "passage"))
    return preprocess(
        PreprocessOptions(
            inputs=(str(dump),),
            tokenizer_model=str(tokenizer),
            output=output,
            filters=filters,
            articles=ArticleOptions(min_article_words=5),
            passages=PassageOptions(max_passage_tokens=72),
            **options,
        )
    )


def titles(prefix: str) -> set[str]:
    return set(pq.read_table(f"{prefix}.parquet")["title"].to_pylist())


def test_filters_drop_and_count(
    tmp_path: Path, dump_path: Path, benchmark_path: Path, tiny_tokenizer_dir: Path
) -> None:
    pytest.importorskip("rensa")
    pytest.importorskip("py3langid")
    filters = FilterOptions("en", 0.5, (str(benchmark_path),), 13, 0.8)
    report = run(tmp_path / "wiki", tiny_tokenizer_dir, dump_path, filters)
    ((prefix, totals),) = report.outputs.items()
    assert set(PAGES) - titles(prefix) == {"Question", "Fluss", "Stones of another name", "Hill 3 again"}
    manifest = json.loads(Path(f"{prefix}.manifest.json").read_text())
    dropped = {reason: count for reason, count in manifest["all_splits"]["dropped"].items() if count}
    assert dropped == {"language": 1, "benchmark_overlap": 1, "exact_duplicate": 1, "near_duplicate": 1}
    assert manifest["all_splits"]["articles"] == totals.documents == len(PAGES) - 4
    overlapping = manifest["all_splits"]["overlapping_passages"]
    assert overlapping >= 2
    assert manifest["options"]["decontaminate"] == [
        {"name": "benchmark.jsonl", "sha256": file_sha256(benchmark_path), "records": 1, "too_short": 0}
    ]
    assert manifest["options"]["near_duplicates"] == 0.8
    assert set(manifest["options"]["filter_libraries"]) == {"py3langid", "rensa"}
    blend = open_blend([prefix], str(tiny_tokenizer_dir))
    texts = [passage.text for passage in (blend[index] for index in range(len(blend))) if passage.title == "Exam"]
    assert texts
    assert not any("castle" in text for text in texts)


def test_a_whole_article_goes_where_it_is_one_sequence(
    tmp_path: Path, dump_path: Path, benchmark_path: Path, tiny_tokenizer_dir: Path
) -> None:
    filters = FilterOptions(decontaminate=(str(benchmark_path),))
    report = run(tmp_path / "wiki", tiny_tokenizer_dir, dump_path, filters, level="document")
    (prefix,) = report.outputs
    assert not {"Exam", "Question"} & titles(prefix)
    assert report.counts["dropped_benchmark_overlap"] == report.counts["overlapping_passages"] == 2


def test_bytes_do_not_depend_on_workers_or_backend(
    tmp_path: Path, dump_path: Path, benchmark_path: Path, tiny_tokenizer_dir: Path
) -> None:
    pytest.importorskip("rensa")
    filters = FilterOptions(decontaminate=(str(benchmark_path),), near_duplicates=0.8)
    ways = {"one": (1, "gigatoken"), "two": (2, "gigatoken"), "slow": (1, "huggingface")}
    for name, (workers, backend) in ways.items():
        how = {"run": RunOptions(workers=workers), "tokenizer_backend": backend}
        run(tmp_path / name / "wiki", tiny_tokenizer_dir, dump_path, filters, **how)
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    for name in files:
        one, two, slow = ((tmp_path / way / name).read_bytes() for way in ways)
        assert one == two, name
        if name.endswith(".json"):
            manifests = [json.loads(content) for content in (one, slow)]
            backends = [manifest["tokenizer"].pop("backend") for manifest in manifests]
            assert [backend.split()[0] for backend in backends] == ["gigatoken", "tokenizers"]
            assert manifests[0] == manifests[1]
        else:
            assert one == slow, name


def test_a_cache_holds_what_the_filters_drop(
    tmp_path: Path, dump_path: Path, benchmark_path: Path, tiny_tokenizer_dir: Path
) -> None:
    cache = str(tmp_path / "cache.zst")
    filters = FilterOptions(decontaminate=(str(benchmark_path),))
    run(tmp_path / "first", tiny_tokenizer_dir, dump_path, filters, cache=cache)
    report = run(tmp_path / "second", tiny_tokenizer_dir, dump_path, FilterOptions(), cache=cache)
    assert "Question" in titles(next(iter(report.outputs)))


def test_filters_are_refused_before_any_work(tmp_path: Path, dump_path: Path, tiny_tokenizer_dir: Path) -> None:
    shutil.copy(dump_path, tmp_path / "other.bz2")
    for filters in (FilterOptions(decontaminate=("/nowhere/a.jsonl",)), FilterOptions(near_duplicates=2)):
        with pytest.raises(BadInput, match=r"^--(decontaminate|near-duplicates)"):
            run(tmp_path / "out" / "wiki", tiny_tokenizer_dir, dump_path, filters)
        assert not list(tmp_path.glob("out/*.bin"))
