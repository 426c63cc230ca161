"""Dump to corpus: the same bytes for any number of workers, every token traceable, and nothing half-written."""

from __future__ import annotations

import bz2
import errno
import json
import os
import runpy
import shutil
import sys
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer

from megatron_pz.corpus.indexed_dataset import IndexedTokens
from megatron_pz.corpus.manifest import file_sha256, tokenizer_sha256
from megatron_pz.corpus.passages import open_blend
from megatron_pz.runtime.errors import BadInput
from megatron_pz.wikipedia.pipeline import shards
from megatron_pz.wikipedia.pipeline.options import OutputOptions, Part, PreprocessOptions, RunOptions
from megatron_pz.wikipedia.pipeline.pipeline import PreprocessReport, preprocess
from megatron_pz.wikipedia.pipeline.working_directory import working_folder
from megatron_pz.wikipedia.read import streams
from megatron_pz.wikipedia.read.articles import ArticleOptions, split_of
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


@pytest.fixture(autouse=True)
def _small_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    small_jobs(monkeypatch)


def small_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # the disk is slow, and no test cuts the power
    monkeypatch.setattr(streams, "JOB_BYTES", {"bz2": 900, "none": 1000, "zst": 900})


@pytest.fixture
def dump_path(tmp_path: Path) -> Path:
    """A multi-stream dump of five pages a stream, in several jobs."""
    every = pages()
    parts = [HEADER, *("".join(every[start : start + 5]) for start in range(0, len(every), 5)), "</mediawiki>\n"]
    path = tmp_path / "dump.xml.bz2"
    path.write_bytes(b"".join(bz2.compress(part.encode()) for part in parts))
    assert len(list(streams.plan_jobs(str(path)))) > 2
    return path


@pytest.fixture
def leads_path(tmp_path: Path) -> Path:
    records = [
        {"id": f"lead-{number}", "title": f"river  & Hill {number}", "text": f"Lead {number}. " + "It is a hill. " * 6}
        for number in range(1, 13)
    ]
    path = tmp_path / "leads.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


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


def test_pages_are_dropped_for_a_reason_and_articles_kept(
    tmp_path: Path, dump_path: Path, tiny_tokenizer_dir: Path
) -> None:
    report = run(tmp_path / "out" / "wiki", tiny_tokenizer_dir, dump_path)
    reasons = {"namespace": 1, "redirect": 2, "disambiguation": 2, "too_short": 1, "list": 1}
    assert {name: count for name, count in report.counts.items() if name.startswith("dropped_")} == {
        f"dropped_{reason}": count for reason, count in reasons.items()
    }
    assert (report.counts["pages"], report.counts["articles"]) == (37, 30)
    prefix = tmp_path / "out" / "wiki_text_passage"
    manifest = json.loads(Path(f"{prefix}.manifest.json").read_text())
    assert {reason: count for reason, count in manifest["all_splits"]["dropped"].items() if count} == reasons
    assert manifest["all_splits"]["damaged"] == []
    assert manifest["highest_token_id"] == np.fromfile(f"{prefix}.bin", dtype=manifest["dtype"]).max()
    assert manifest["inputs"] == [
        {
            "name": "dump.xml.bz2",
            "bytes": dump_path.stat().st_size,
            "sha256": file_sha256(dump_path),
            "wiki": "enwiki",
            "language": "en",
        }
    ]
    assert manifest["tokenizer"]["sha256"] == tokenizer_sha256(tiny_tokenizer_dir)
    assert manifest["license"] == "CC BY-SA 4.0"
    assert sorted(path.name for path in prefix.parent.iterdir()) == sorted(f"{prefix.name}{end}" for end in SUFFIXES)


@pytest.mark.parametrize("backend", ["huggingface", "gigatoken"])
@pytest.mark.parametrize(
    ("highest", "dtype"),
    [(330, np.uint16), (65_498, np.uint16), (65_499, np.int32), (65_536, np.int32), (70_000, np.int32)],
)
def test_the_highest_id_of_a_small_vocabulary_decides_the_type(
    highest: int, dtype: type, backend: str, tmp_path: Path, dump_path: Path, tiny_tokenizer_dir: Path
) -> None:
    folder = tmp_path / "with_a_gap"
    shutil.copytree(tiny_tokenizer_dir, folder)
    definition = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = definition["model"]["vocab"]
    space = vocabulary["Ġ"]
    last = next(token for token, number in vocabulary.items() if number == max(vocabulary.values()))
    vocabulary["Ġ"], vocabulary[last] = highest, space  # a space before a digit is a token of its own
    (folder / "tokenizer.json").write_text(json.dumps(definition))

    report = preprocess(
        PreprocessOptions(
            inputs=(str(dump_path),),
            tokenizer_model=str(folder),
            tokenizer_backend=backend,  # type: ignore[arg-type]
            output=OutputOptions(str(tmp_path / "wiki")),
            passages=PassageOptions(max_passage_tokens=64),
        )
    )
    prefix = str(tmp_path / "wiki_text_passage")
    tokens = IndexedTokens(prefix)
    manifest = json.loads(Path(f"{prefix}.manifest.json").read_text())
    assert report.counts["articles"] > 20
    assert tokens.dtype == dtype
    assert manifest["dtype"] == np.dtype(dtype).name
    assert manifest["highest_token_id"] == tokens.highest_id() == highest
    read_back = Tokenizer.from_file(str(folder / "tokenizer.json")).decode(tokens[0].tolist())
    assert read_back.startswith("Hill 1 stands above the river")


def test_every_passage_leads_to_its_article(tmp_path: Path, dump_path: Path, tiny_tokenizer_dir: Path) -> None:
    run(tmp_path / "wiki", tiny_tokenizer_dir, dump_path, append_eod=True)
    prefix = str(tmp_path / "wiki_text_passage")
    blend = open_blend([prefix], str(tiny_tokenizer_dir))
    texts: dict[str, str] = {}
    for index in range(len(blend)):
        passage = blend[index]
        assert passage.index == index
        assert len(passage.token_ids) <= 64
        texts[passage.page_id] = texts.get(passage.page_id, "") + " " + " ".join(passage.text.split())
        assert passage.title == f"River & hill {passage.page_id}"
        assert passage.url == f"https://en.wikipedia.org/wiki/River_%26_hill_{passage.page_id}"
    assert texts["7"].strip() == (
        "Hill 7 stands above the river of the town. The river gave number 7 its name. "
        "Its second paragraph has 7 words & more about the railway and the village."
    )
    tokens, rows = IndexedTokens(prefix), pq.read_table(f"{prefix}.parquet").to_pylist()
    assert [row["first_passage"] for row in rows] == tokens.documents[:-1].tolist()
    assert [row["offset"] for row in rows] == [int(tokens.offsets[row["first_passage"]]) for row in rows]
    assert [row["document"] for row in rows] == list(range(30))
    assert rows[6]["revision_id"] == "1007"
    assert sum(row["tokens"] for row in rows) == tokens.lengths.sum()
    ends = [tokens[int(end) - 1][-1] for end in tokens.documents[1:]]
    assert set(ends) == {0}, "an article ends in the end-of-text token"


def test_bytes_do_not_depend_on_the_number_of_workers(
    tmp_path: Path, dump_path: Path, leads_path: Path, tiny_tokenizer_dir: Path
) -> None:
    for workers in (1, 2):
        how = RunOptions(workers)
        run(tmp_path / f"{workers}" / "wiki", tiny_tokenizer_dir, dump_path, leads_path, how=how, split=(80, 20))
    names = sorted(path.name for path in (tmp_path / "1").iterdir())
    assert len(names) == 8
    for name in names:
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes(), name


def test_bytes_do_not_depend_on_the_number_of_machines(
    tmp_path: Path, dump_path: Path, leads_path: Path, tiny_tokenizer_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = (dump_path, leads_path)
    whole = run(tmp_path / "one" / "wiki", tiny_tokenizer_dir, *inputs, split=(80, 20))
    prefix = tmp_path / "three" / "wiki"
    for number in (3, 1, 2):
        report = run(prefix, tiny_tokenizer_dir, *inputs, how=RunOptions(part=Part(number, 3)), split=(80, 20))
        assert report.outputs == {} and sum(report.counts.values()) > 0, "every part has work"
    assert [path.name for path in (tmp_path / "three").iterdir()] == ["wiki.working"]

    def no_job_is_left(*_: object) -> None:
        raise AssertionError("done twice")

    monkeypatch.setattr("megatron_pz.wikipedia.pipeline.jobs.process_job", no_job_is_left)
    joined = run(prefix, tiny_tokenizer_dir, *inputs, split=(80, 20))
    assert joined.counts == whole.counts
    assert contents(tmp_path / "three") == contents(tmp_path / "one")


def test_a_part_that_failed_is_made_up_for(
    tmp_path: Path, dump_path: Path, leads_path: Path, tiny_tokenizer_dir: Path
) -> None:
    inputs = (dump_path, leads_path)
    run(tmp_path / "one" / "wiki", tiny_tokenizer_dir, *inputs)
    run(tmp_path / "two" / "wiki", tiny_tokenizer_dir, *inputs, how=RunOptions(part=Part(1, 2)))
    run(tmp_path / "two" / "wiki", tiny_tokenizer_dir, *inputs)
    assert contents(tmp_path / "two") == contents(tmp_path / "one")


def test_parts_work_side_by_side_and_nobody_beside_the_join(tmp_path: Path) -> None:
    prefix = str(tmp_path / "wiki")
    with working_folder(prefix, fresh=False, part=Part(1, 2)), working_folder(prefix, fresh=False, part=Part(2, 2)):
        for part in (None, Part(1, 2)):
            with pytest.raises(BadInput, match="another run writes there"), working_folder(prefix, False, part):
                pass
    part = working_folder(prefix, fresh=False, part=Part(1, 2))
    with working_folder(prefix, fresh=False), pytest.raises(BadInput, match="another run writes there"), part:
        pass


def test_no_title_is_on_both_sides_of_a_split(
    tmp_path: Path, dump_path: Path, leads_path: Path, tiny_tokenizer_dir: Path
) -> None:
    report = run(tmp_path / "wiki", tiny_tokenizer_dir, dump_path, leads_path, split=(70, 30))
    assert list(report.outputs) == [str(tmp_path / f"wiki_{name}_text_passage") for name in ("train", "valid")]
    sides = [
        {" ".join(title.casefold().split()) for title in pq.read_table(f"{prefix}.parquet")["title"].to_pylist()}
        for prefix in report.outputs
    ]
    assert not sides[0] & sides[1]
    assert len(sides[0]) + len(sides[1]) == 30, "the twelve leads are articles of the dump"
    assert sum(totals.documents for totals in report.outputs.values()) == 42


def test_a_repeated_article_is_dropped_whatever_its_title_and_its_split(
    tmp_path: Path, leads_path: Path, tiny_tokenizer_dir: Path
) -> None:
    """Without the repetitions in the input the corpus is the same, byte for byte but for the manifest."""
    unique = leads_path.read_text().splitlines()
    repeated = [json.dumps(json.loads(line) | {"id": f"again {n}", "title": f"T {n}"}) for n, line in enumerate(unique)]
    mixed = leads_path.with_name("mixed.jsonl")
    mixed.write_text("\n".join([*unique[:7], *repeated[2:5], *unique[7:], *repeated[6:]]) + "\n")
    reports = [
        run(tmp_path / name / "wiki", tiny_tokenizer_dir, path, split=(60, 40), append_eod=True)
        for name, path in (("unique", leads_path), ("mixed", mixed))
    ]
    assert reports[1].counts["dropped_exact_duplicate"] == 3 + 6
    assert reports[1].counts["articles"] == reports[0].counts["articles"] == 12
    for name in ("train", "valid"):
        for suffix in (".bin", ".idx", ".parquet"):
            made = [tmp_path / folder / f"wiki_{name}_text_passage{suffix}" for folder in ("unique", "mixed")]
            if suffix == ".parquet":
                assert pq.read_table(made[0]).equals(pq.read_table(made[1]))
            else:
                assert made[0].read_bytes() == made[1].read_bytes(), (name, suffix)


def test_split_is_by_share_and_by_title() -> None:
    sides = [split_of(f"Title {number}", (90, 5, 5)) for number in range(4000)]
    assert [round(sides.count(side) / 4000, 2) for side in range(3)] == pytest.approx([0.9, 0.05, 0.05], abs=0.015)
    assert split_of("Old  Town_Hall", (1, 1)) == split_of("old town hall", (1, 1))


def test_whole_articles_as_sequences(tmp_path: Path, dump_path: Path, tiny_tokenizer_dir: Path) -> None:
    report = run(tmp_path / "wiki", tiny_tokenizer_dir, dump_path, level="document")
    (totals,) = report.outputs.values()
    assert (totals.documents, totals.passages) == (30, 30)
    blend = open_blend([str(tmp_path / "wiki_text_document")], str(tiny_tokenizer_dir))
    assert blend[0].text.count("\n\n") == 1


def test_an_output_is_not_overwritten_unasked(tmp_path: Path, dump_path: Path, tiny_tokenizer_dir: Path) -> None:
    prefix = tmp_path / "wiki"
    Path(f"{prefix}_text_passage.bin").write_bytes(b"precious")
    with pytest.raises(BadInput, match=r"wiki_text_passage.bin: exists; give --overwrite"):
        run(prefix, tiny_tokenizer_dir, dump_path)
    assert Path(f"{prefix}_text_passage.bin").read_bytes() == b"precious"
    run(prefix, tiny_tokenizer_dir, dump_path, how=RunOptions(overwrite=True))
    assert len(open_blend([f"{prefix}_text_passage"], str(tiny_tokenizer_dir))) > 0


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("failure", ["full disk", "damaged dump", "interrupt"])
def test_a_failure_keeps_what_is_finished_and_what_was_there(
    tmp_path: Path,
    dump_path: Path,
    tiny_tokenizer_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    failure: str,
    workers: int,
) -> None:
    expected: type[BaseException] = BadInput
    words = None
    if failure == "full disk":
        words = "the disk is full"

        def full(*arguments: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(shards, "write_tokens", full)
    elif failure == "interrupt":
        expected = KeyboardInterrupt

        def interrupt(*arguments: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(shards, "write_index", interrupt)
    else:
        words = "is truncated: it ends at byte"
        whole = dump_path.read_bytes()
        dump_path.write_bytes(whole[: len(whole) - 30])
    out = tmp_path / "out"
    out.mkdir()
    (out / "wiki_text_passage.bin").write_bytes(b"the last good one")
    with pytest.raises(expected, match=words):
        run(out / "wiki", tiny_tokenizer_dir, dump_path, how=RunOptions(workers, overwrite=True))
    assert (out / "wiki_text_passage.bin").read_bytes() == b"the last good one"
    kept = ["wiki.working"] if failure != "full disk" else []  # which struck in the first job
    assert sorted(path.name for path in out.iterdir()) == [*kept, "wiki_text_passage.bin"]

    monkeypatch.undo()
    small_jobs(monkeypatch)
    if failure == "damaged dump":
        with pytest.raises(BadInput, match=r"wiki\.working: holds an unfinished run with another input; .*--fresh"):
            dump_path.write_bytes(whole)
            run(out / "wiki", tiny_tokenizer_dir, dump_path, how=RunOptions(workers, overwrite=True))
    run(
        out / "wiki",
        tiny_tokenizer_dir,
        dump_path,
        how=RunOptions(workers, overwrite=True, fresh=failure == "damaged dump"),
    )
    run(tmp_path / "whole" / "wiki", tiny_tokenizer_dir, dump_path)
    assert contents(out) == contents(tmp_path / "whole")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"inputs": ()}, "--input names no file"),
        ({"inputs": ("/nowhere/dump.xml.bz2",)}, "cannot be read"),
        ({"run": RunOptions(workers=0)}, "--workers 0"),
        ({"run": RunOptions(part=Part(3, 2))}, "--part 3/2: give 1/2 to 2/2"),
        ({"run": RunOptions(part=Part(1, 2), fresh=True)}, "--part goes with neither"),
        ({"output": OutputOptions("x", split=(1.0,))}, "--split 1"),
        ({"passages": PassageOptions(max_passage_tokens=3)}, "--max-passage-tokens 3"),
        ({"passages": PassageOptions("paragraph", 64, 9, 8)}, "--min-passage-words 9 is above"),
        ({"passages": PassageOptions(min_passage_words=-1)}, "--min-passage-words -1: cannot be negative"),
        ({"passages": PassageOptions(max_passage_words=-2)}, "--max-passage-words -2: cannot be negative"),
        ({"tokenizer_model": "/nowhere"}, "no tokenizer.json there"),
    ],
)
def test_impossible_options_are_refused(
    dump_path: Path, tmp_path: Path, tiny_tokenizer_dir: Path, changes: dict[str, object], words: str
) -> None:
    options: dict[str, object] = {
        "inputs": (str(dump_path),),
        "tokenizer_model": str(tiny_tokenizer_dir),
        "output": OutputOptions(str(tmp_path / "wiki")),
    }
    with pytest.raises(BadInput, match=words):
        preprocess(PreprocessOptions(**(options | changes)))  # type: ignore[arg-type]


def test_after_an_empty_corpus_other_options_may_be_tried(tmp_path: Path, tiny_tokenizer_dir: Path) -> None:
    path, prefix = tmp_path / "leads.jsonl", tmp_path / "out" / "wiki"
    path.write_text(json.dumps({"id": 1, "title": "A", "text": "word " * 30}) + "\n")
    with pytest.raises(BadInput, match="would hold no article; give more input or another --split"):
        run(prefix, tiny_tokenizer_dir, path, split=(50, 50))
    assert not list(prefix.parent.iterdir())
    assert run(prefix, tiny_tokenizer_dir, path).counts["articles"] == 1


def test_a_line_that_is_no_article_is_named_by_its_byte(tmp_path: Path, tiny_tokenizer_dir: Path) -> None:
    good = json.dumps({"id": 1, "title": "A", "text": "word " * 30}) + "\n"
    path = tmp_path / "leads.jsonl"
    path.write_text(good + good[:20])
    with pytest.raises(BadInput, match=rf"the line at byte {len(good)} is not .*may be truncated"):
        run(tmp_path / "wiki", tiny_tokenizer_dir, path)


def test_half_a_surrogate_pair_is_one_line_or_counted(tmp_path: Path, tiny_tokenizer_dir: Path) -> None:
    good = json.dumps({"id": 1, "title": "A", "text": "word " * 30}) + "\n"
    for bad in (
        json.dumps({"id": 2, "title": "B", "text": "a \ud800 " * 30}),
        json.dumps({"id": 2, "title": "B \udc00", "text": "a " * 30}),
        json.dumps({"id": 2, "title": "B", "text": "a " * 30, "url": "https://a.b/\ud83d"}),
    ):
        path, prefix = tmp_path / "leads.jsonl", tmp_path / str(len(bad)) / "wiki"
        path.write_text(good + bad + "\n" + good.replace("word", "other").replace('"A"', '"C"'))
        with pytest.raises(
            BadInput, match=rf"the line at byte {len(good)} holds half a surrogate pair: '.ud[8c][03][0d]'"
        ):
            run(prefix, tiny_tokenizer_dir, path)
        how = RunOptions(skip_damaged=True)
        report = run(prefix, tiny_tokenizer_dir, path, how=how)
        assert (report.counts["articles"], report.counts["damaged"]) == (2, 1)


def test_characters_that_dumps_lose_are_lost_from_extracts(tmp_path: Path, tiny_tokenizer_dir: Path) -> None:
    path = tmp_path / "leads.jsonl"
    text = "\ufeffA ri\u00adver\x00 ran\u200b down\u200e a\x0c hill.\rIt did. \u200b \n\nNext " + "word " * 30
    path.write_text(json.dumps({"id": 1, "title": "A\u200b", "text": text}) + "\n")
    run(tmp_path / "wiki", tiny_tokenizer_dir, path, export="jsonl")
    record = json.loads((tmp_path / "wiki_text_passage.text.jsonl").read_text())
    assert record["title"] == "A"
    assert record["text"].startswith("A river ran down a hill. It did.\n\nNext word")


def command(monkeypatch: pytest.MonkeyPatch, tool: str, *flags: str) -> None:
    """Run a tool as ``python tools/<tool>`` does."""
    path = Path(__file__).resolve().parents[4] / "tools" / tool
    monkeypatch.setattr(sys, "argv", [str(path), *flags])
    runpy.run_path(str(path), run_name="__main__")


def test_the_commands(
    tmp_path: Path,
    dump_path: Path,
    tiny_tokenizer_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tokenizer = ("--tokenizer-model", str(tiny_tokenizer_dir))
    flags = ("--input", str(dump_path), "--output-prefix", str(tmp_path / "wiki"), *tokenizer)
    command(monkeypatch, "preprocess_wikipedia.py", *flags, "--split", "90,10", "--min-passage-words", "3")
    train, valid = (str(tmp_path / f"wiki_{side}_text_passage") for side in ("train", "valid"))
    assert capsys.readouterr().out.endswith(f"--data-path {train} --valid-data-path {valid}\n")
    command(monkeypatch, "inspect_corpus.py", train, *tokenizer, "--passages", "100")
    shown = capsys.readouterr().out
    assert "https://en.wikipedia.org/wiki/River_%26_hill_" in shown
    assert f"{len(open_blend([train], str(tiny_tokenizer_dir)))} passages" in shown
    for wrong, words in (
        (flags, "exists; give --overwrite"),
        ((*flags, "--split", "a,b"), "--split a,b"),
        ((*flags, "--wokers", "2"), "--wokers"),
        ((*flags, "--part", "one"), "--part one: give a number and how many there are, e.g. 1/8"),
    ):
        with pytest.raises(SystemExit) as ended:
            command(monkeypatch, "preprocess_wikipedia.py", *wrong, *(("--split", "90,10") if wrong is flags else ()))
        assert ended.value.code == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert words in error
        assert error.count("\n") == 1
