"""Nothing is overwritten or partially written, and impossible input gives one line."""

from __future__ import annotations

import errno
import json
import runpy
import sys
from pathlib import Path

import pytest

from megatron_pz.corpus.passages import open_blend
from megatron_pz.runtime.errors import BadInput
from megatron_pz.wikipedia.pipeline import shards
from megatron_pz.wikipedia.pipeline.options import OutputOptions, Part, PreprocessOptions, RunOptions
from megatron_pz.wikipedia.pipeline.pipeline import preprocess
from megatron_pz.wikipedia.tokenize.passages import PassageOptions
from tests.support.small_dump import contents, run, use_small_jobs

pytestmark = pytest.mark.usefixtures("small_jobs")


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
    kept = ["wiki.working"] if failure != "full disk" else []  # the failure in the first job
    assert sorted(path.name for path in out.iterdir()) == [*kept, "wiki_text_passage.bin"]

    monkeypatch.undo()
    use_small_jobs(monkeypatch)
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
        lines = capsys.readouterr().err.splitlines()
        (error,) = (line for line in lines if not line.startswith("wikitext scanner: interpreted"))
        assert error.startswith("error: ")
        assert words in error
