"""Outputs besides the corpus: the clean text, the cache, the manifest, a dry run; and several inputs."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import os
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from megatron_pz.corpus.manifest import file_sha256
from megatron_pz.corpus.passages import open_blend
from megatron_pz.runtime.errors import BadInput
from megatron_pz.wikipedia.pipeline.options import OutputOptions, PreprocessOptions, RunOptions
from megatron_pz.wikipedia.pipeline.pipeline import PreprocessReport, preprocess
from megatron_pz.wikipedia.pipeline.progress import Progress
from megatron_pz.wikipedia.read import streams
from megatron_pz.wikipedia.read.articles import ArticleOptions
from megatron_pz.wikipedia.read.compression import zstd
from megatron_pz.wikipedia.tokenize.passages import PassageOptions


def dump_xml(language: str, numbers: range, file_namespace: str = "File") -> str:
    """Return articles, each with a picture named in the wiki's language."""
    head = (
        f'<mediawiki xml:lang="{language}"><siteinfo><dbname>{language}wiki</dbname>'
        f"<base>https://{language}.wikipedia.org/wiki/Main</base><namespaces><namespace key="
        f'"0" /><namespace key="6">{file_namespace}</namespace></namespaces></siteinfo>\n'
    )
    pages = (
        f"<page><title>{language} river {number}</title><ns>0</ns><id>{number}</id>"
        f"<revision><id>{number + 900}</id><text>"
        f"[[{file_namespace}:Map {number}.png|thumb|A map of it.]]The {language} river number {number} is long. "
        f"{'It has a town on its bank. ' * 3}\n\nThe river number {number} has a second paragraph, and that is all."
        "</text></revision></page>\n"
        for number in numbers
    )
    return head + "".join(pages) + "</mediawiki>\n"


@pytest.fixture
def dump(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a dump of twelve articles in several jobs."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # the disk is slow, and no test interrupts the power
    monkeypatch.setattr(streams, "JOB_BYTES", {"none": 1000, "bz2": 1, "zst": 1})
    path = tmp_path / "dump.xml.bz2"
    xml = dump_xml("en", range(12)).encode()
    path.write_bytes(b"".join(bz2.compress(xml[start : start + 700]) for start in range(0, len(xml), 700)))
    return path


def run(prefix: Path, tokenizer: Path, *inputs: Path, cache: Path | None = None, **changes: object) -> PreprocessReport:
    output = {name: changes.pop(name) for name in ("split", "export", "limit", "level") if name in changes}
    return preprocess(
        PreprocessOptions(
            inputs=tuple(map(str, inputs)),
            tokenizer_model=str(tokenizer),
            output=OutputOptions(str(prefix), **output),  # type: ignore[arg-type]
            cache=str(cache or ""),
            passages=PassageOptions(max_passage_tokens=64),
            **changes,  # type: ignore[arg-type]
        )
    )


def manifest_of(prefix: object) -> dict[str, object]:
    return json.loads(Path(f"{prefix}_text_passage.manifest.json").read_text())  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_the_text_of_a_corpus_is_exported_in_its_order(
    tmp_path: Path, dump: Path, tiny_tokenizer_dir: Path, kind: str
) -> None:
    report = run(tmp_path / "wiki", tiny_tokenizer_dir, dump, split=(60, 40), export=kind)
    exported = 0
    for prefix in report.outputs:
        path = f"{prefix}.text.{kind}"
        if kind == "jsonl":
            rows = [json.loads(line) for line in Path(path).read_text().splitlines()]
        else:
            rows = pq.read_table(path).to_pylist()
        sidecar = pq.read_table(f"{prefix}.parquet").to_pylist()
        assert [row["id"] for row in rows] == [row["page_id"] for row in sidecar]
        for row in rows:
            assert (row["title"], row["revision_id"]) == (f"en river {row['id']}", str(int(row["id"]) + 900))
            assert row["url"] == f"https://en.wikipedia.org/wiki/en_river_{row['id']}"
            assert row["text"].startswith(f"The en river number {row['id']} is long. It has a town")
            assert row["text"].endswith(
                ".\n\n" + f"The river number {row['id']} has a second paragraph, and that is all."
            )
        exported += len(rows)
    assert exported == 12


def test_an_export_is_an_input(tmp_path: Path, dump: Path, tiny_tokenizer_dir: Path) -> None:
    run(tmp_path / "a" / "wiki", tiny_tokenizer_dir, dump, export="jsonl")
    text = tmp_path / "a" / "wiki_text_passage.text.jsonl"
    packed = tmp_path / "text.jsonl.gz"
    packed.write_bytes(gzip.compress(text.read_bytes()))
    for name, path in (("plain", text), ("packed", packed)):
        run(tmp_path / name / "wiki", tiny_tokenizer_dir, path)
        for suffix in (".bin", ".idx", ".parquet"):
            made = [tmp_path / folder / f"wiki_text_passage{suffix}" for folder in ("a", name)]
            assert made[0].read_bytes() == made[1].read_bytes()


def test_a_cache_stands_for_its_dump(tmp_path: Path, dump: Path, tiny_tokenizer_dir: Path) -> None:
    cache = tmp_path / "articles.zst"
    run(tmp_path / "made" / "wiki", tiny_tokenizer_dir, dump, cache=cache)
    made = cache.read_bytes()
    lines = zstd().decompress(made).decode().splitlines()
    assert [json.loads(line)["page_id"] for line in lines] == [str(number) for number in range(12)]
    run(tmp_path / "read" / "wiki", tiny_tokenizer_dir, dump, cache=cache)
    run(tmp_path / "input" / "wiki", tiny_tokenizer_dir, cache, run=RunOptions(workers=2))
    assert cache.read_bytes() == made
    for suffix in (".bin", ".idx", ".parquet"):
        expected = (tmp_path / "made" / f"wiki_text_passage{suffix}").read_bytes()
        for folder in ("read", "input"):
            assert (tmp_path / folder / f"wiki_text_passage{suffix}").read_bytes() == expected
    for folder in ("read", "input"):
        (source,) = manifest_of(tmp_path / folder / "wiki")["inputs"]  # type: ignore[misc]
        assert source["sha256"] == file_sha256(cache)
        assert source["made_from"]["inputs"] == manifest_of(tmp_path / "made" / "wiki")["inputs"]


def test_a_cache_that_lost_whole_frames_is_refused(tmp_path: Path, dump: Path, tiny_tokenizer_dir: Path) -> None:
    cache = tmp_path / "articles.zst"
    run(tmp_path / "made" / "wiki", tiny_tokenizer_dir, dump, cache=cache)
    whole = cache.read_bytes()
    last = whole.rindex(b"\x28\xb5\x2f\xfd")
    cache.write_bytes(whole[:last])
    with pytest.raises(BadInput, match=f"is truncated: {len(whole) - last} bytes of articles are missing"):
        run(tmp_path / "wiki", tiny_tokenizer_dir, cache)


def test_a_cache_of_something_else_is_refused(tmp_path: Path, dump: Path, tiny_tokenizer_dir: Path) -> None:
    cache = tmp_path / "articles.zst"
    run(tmp_path / "made" / "wiki", tiny_tokenizer_dir, dump, cache=cache)
    other = tmp_path / "other.xml"
    other.write_text(dump_xml("en", range(3)))
    for changes, words in (
        ({"articles": ArticleOptions(min_article_words=19)}, "was made with min_article_words = 20, not 19"),
        ({"limit": 3}, "--cache holds all articles and --limit"),
    ):
        with pytest.raises(BadInput, match=words):
            run(tmp_path / "wiki", tiny_tokenizer_dir, dump, cache=cache, **changes)
    with pytest.raises(BadInput, match=r"articles\.zst: was made from other inputs"):
        run(tmp_path / "wiki", tiny_tokenizer_dir, other, cache=cache)
    with pytest.raises(BadInput, match=r"other\.xml: is not a cache"):
        run(tmp_path / "wiki", tiny_tokenizer_dir, dump, cache=other)
    assert not list(tmp_path.glob("wiki*"))


def test_a_dry_run_takes_the_first_articles_whatever_the_workers(
    tmp_path: Path, dump: Path, tiny_tokenizer_dir: Path
) -> None:
    for workers in (1, 2):
        report = run(
            tmp_path / str(workers) / "wiki", tiny_tokenizer_dir, dump, limit=5, run=RunOptions(workers), split=(60, 40)
        )
        assert sum(totals.documents for totals in report.outputs.values()) == report.counts["articles"] == 5
    made = [{path.name: path.read_bytes() for path in (tmp_path / str(workers)).iterdir()} for workers in (1, 2)]
    assert made[0] == made[1]
    titles = [
        title
        for side in ("train", "valid")
        for title in pq.read_table(tmp_path / "1" / f"wiki_{side}_text_passage.parquet")["title"].to_pylist()
    ]
    assert sorted(titles) == [f"en river {number}" for number in range(5)]


def test_several_parts_and_languages_keep_their_own_site(tmp_path: Path, dump: Path, tiny_tokenizer_dir: Path) -> None:
    """Each has its own file namespace, and pictures are removed in all. An index file beside them is not needed."""
    german = tmp_path / "dewiki.xml.gz"
    german.write_bytes(gzip.compress(dump_xml("de", range(100, 103), "Datei").encode()))
    index = tmp_path / "index.txt"
    index.write_text("616:10:AccessibleComputing\n")
    run(tmp_path / "wiki", tiny_tokenizer_dir, dump, index, german, run=RunOptions(workers=2))
    blend = open_blend([str(tmp_path / "wiki_text_passage")], str(tiny_tokenizer_dir))
    passages = [blend[number] for number in range(len(blend))]
    assert not [passage.text for passage in passages if "map" in passage.text.casefold()]
    hosts = Counter(
        passage.url.split("/")[2] for passage in {passage.page_id: passage for passage in passages}.values()
    )
    assert hosts == {"en.wikipedia.org": 12, "de.wikipedia.org": 3}
    inputs = manifest_of(tmp_path / "wiki")["inputs"]
    assert [source["wiki"] for source in inputs] == ["enwiki", "dewiki"]  # type: ignore[attr-defined]


def test_the_manifest_has_checksums_of_what_it_describes(tmp_path: Path, dump: Path, tiny_tokenizer_dir: Path) -> None:
    run(tmp_path / "wiki", tiny_tokenizer_dir, dump)
    manifest = manifest_of(tmp_path / "wiki")
    prefix = f"{tmp_path}/wiki_text_passage"
    assert manifest["files"] == {suffix: file_sha256(f"{prefix}{suffix}") for suffix in (".bin", ".idx", ".parquet")}


def test_damage_is_skipped_on_request_and_recorded(tmp_path: Path, dump: Path, tiny_tokenizer_dir: Path) -> None:
    content = bytearray(dump.read_bytes())
    starts = [job.start for job in streams.plan_jobs(str(dump))]
    content[starts[4] + 30 : starts[4] + 40] = bytes(10)
    dump.write_bytes(content)
    for workers in (1, 2):
        with pytest.raises(BadInput, match=rf"stream that begins at byte {starts[4]}; .*--skip-damaged"):
            run(tmp_path / "wiki", tiny_tokenizer_dir, dump, run=RunOptions(workers))
    report = run(tmp_path / "wiki", tiny_tokenizer_dir, dump, run=RunOptions(workers=2, skip_damaged=True))
    assert report.counts["damaged"] == 1
    (damage,) = manifest_of(tmp_path / "wiki")["all_splits"]["damaged"]  # type: ignore[index]
    assert (damage["name"], damage["offset"]) == ("dump.xml.bz2", starts[4])
    assert 12 - 4 <= report.counts["articles"] < 12


def test_progress_where_no_one_watches() -> None:
    shown = io.StringIO()
    with Progress(total=4_000_000, log_interval=10, stream=shown) as progress:
        progress.resume(1_000_000)
        for articles in (5, 12, 19, 31):
            progress.update(500_000, Counter(articles=articles))
    lines = shown.getvalue().splitlines()
    assert [line.split("|")[:2] for line in lines] == [
        [" 50.0% of 4.0 MB ", " articles: 12 "],
        [" 75.0% of 4.0 MB ", " articles: 31 "],
    ]
    assert Progress(total=4_000_000, stream=shown).line(2.0, Counter()) == (
        "  0.0% of 4.0 MB | articles: 0 | MB/s: 0.00 | left: 2222:13:20"
    )
    progress = Progress(total=4_000_000, stream=shown)
    progress.resume(1_000_000)
    progress.update(1_000_000, Counter())
    assert progress.line(2.0, Counter(articles=7)) == " 50.0% of 4.0 MB | articles: 7 | MB/s: 0.50 | left: 00:04"
