"""After a kill, the same command continues and produces the bytes of an undisturbed run."""

from __future__ import annotations

import bz2
import itertools
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from megatron_pz.runtime.errors import BadInput
from megatron_pz.wikipedia.pipeline import jobs, pipeline
from megatron_pz.wikipedia.pipeline.journal import JobResult
from megatron_pz.wikipedia.pipeline.options import OutputOptions, PreprocessOptions, RunOptions
from megatron_pz.wikipedia.pipeline.pipeline import preprocess
from megatron_pz.wikipedia.pipeline.worker import Worker
from megatron_pz.wikipedia.pipeline.working_directory import working_folder
from megatron_pz.wikipedia.read import streams
from megatron_pz.wikipedia.read.streams import Job
from megatron_pz.wikipedia.tokenize.passages import PassageOptions

HEADER = '<mediawiki xml:lang="en"><siteinfo><base>https://en.wikipedia.org/wiki/M</base></siteinfo>\n'


def article(number: int) -> str:
    text = f"The river number {number} has a town on its bank. " + f"Its castle was built in {1000 + number}. " * 6
    return (
        f"<page><title>River {number}</title><ns>0</ns><id>{number}</id>"
        f"<revision><id>{number}</id><text>{text}\n\nAn end for {number} of them.</text></revision></page>\n"
    )


@pytest.fixture
def dump(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a dump of six streams of three articles, with one job each."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # the disk is slow, and no test interrupts the power
    monkeypatch.setitem(streams.JOB_BYTES, "bz2", 1)
    monkeypatch.setattr(pipeline, "code_identity", lambda: "this")  # files may be edited while the tests run
    parts = [HEADER + article(0), *("".join(map(article, range(n, n + 3))) for n in range(1, 16, 3)), "</mediawiki>\n"]
    path = tmp_path / "dump.xml.bz2"
    path.write_bytes(b"".join(bz2.compress(part.encode()) for part in parts))
    return path


def options(dump: Path, prefix: Path, tokenizer: Path, workers: int = 1, **run: bool) -> PreprocessOptions:
    return PreprocessOptions(
        inputs=(str(dump),),
        tokenizer_model=str(tokenizer),
        output=OutputOptions(str(prefix), split=(70, 30), append_eod=True, export="jsonl"),
        cache=str(prefix.parent / "articles.zst"),
        run=RunOptions(workers, **run),
        passages=PassageOptions(max_passage_tokens=64),
    )


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def dies_by(work: Callable[[], object], calls: int) -> bool:
    """Do the work in a process that is killed at its n-th write to the disk; return whether it got that far."""
    child = os.fork()
    if child == 0:
        number = itertools.count(1)

        def counted(call: Callable[..., None]) -> Callable[..., None]:
            def counted_call(*arguments: object) -> None:
                if next(number) == calls:
                    os.kill(os.getpid(), signal.SIGKILL)
                call(*arguments)

            return counted_call

        os.fsync, os.replace = counted(os.fsync), counted(os.replace)  # type: ignore[assignment]
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.WEXITSTATUS(status) == 0
    return False


def test_killed_anywhere_it_goes_on_to_the_same_bytes(tmp_path: Path, dump: Path, tiny_tokenizer_dir: Path) -> None:
    """The kill is at every fifteenth write: while shards are written, journalled, joined, and published."""
    preprocess(options(dump, tmp_path / "whole" / "wiki", tiny_tokenizer_dir))
    whole = contents(tmp_path / "whole")
    assert len(whole) == 11
    points = 0
    for calls in itertools.count(2, 15):
        out = tmp_path / str(calls)
        if not dies_by(lambda out=out: preprocess(options(dump, out / "wiki", tiny_tokenizer_dir)), calls):
            break
        points += 1
        preprocess(options(dump, out / "wiki", tiny_tokenizer_dir, workers=1 + points % 2))
        assert contents(out) == whole, f"killed at write {calls}"
        assert not (out / "wiki.working").exists()
    assert points > 3


@pytest.fixture
def interrupted(tmp_path: Path, dump: Path, tiny_tokenizer_dir: Path, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """End a run by Ctrl-C after its jobs 0 to 3 of 7; return a list of the jobs done afterwards."""
    done: list[int] = []
    stop_at = [4]
    process = jobs.process_job

    def noted(worker: Worker, number: int, job: Job, is_stopped: Callable[[], bool]) -> JobResult:
        if number in stop_at:
            raise KeyboardInterrupt
        done.append(number)
        return process(worker, number, job, is_stopped)

    monkeypatch.setattr(jobs, "process_job", noted)
    with pytest.raises(KeyboardInterrupt):
        preprocess(options(dump, tmp_path / "wiki", tiny_tokenizer_dir))
    assert done == [0, 1, 2, 3]
    done.clear()
    stop_at.clear()
    return done


def test_what_is_finished_is_not_done_again(
    tmp_path: Path, dump: Path, tiny_tokenizer_dir: Path, interrupted: list[int]
) -> None:
    report = preprocess(options(dump, tmp_path / "wiki", tiny_tokenizer_dir))
    assert interrupted == [4, 5, 6]
    assert (report.counts["articles"], report.counts["pages"]) == (16, 16)


def test_a_job_whose_files_have_gone_is_done_again(
    tmp_path: Path, dump: Path, tiny_tokenizer_dir: Path, interrupted: list[int]
) -> None:
    for name in ("0-0000000.bin", "1-0000001.arrow", "documents-0000003.npy", "cache-0000002.zst"):
        path = tmp_path / "wiki.working" / name
        path.unlink() if not name.endswith(".bin") else path.write_bytes(path.read_bytes()[:-2])
    preprocess(options(dump, tmp_path / "wiki", tiny_tokenizer_dir))
    assert interrupted == [0, 1, 2, 3, 4, 5, 6]


def test_a_line_that_was_being_written_is_forgotten(
    tmp_path: Path, dump: Path, tiny_tokenizer_dir: Path, interrupted: list[int]
) -> None:
    journal = tmp_path / "wiki.working" / "journal.jsonl"
    journal.write_bytes(journal.read_bytes()[:-5])
    preprocess(options(dump, tmp_path / "wiki", tiny_tokenizer_dir))
    assert interrupted == [3, 4, 5, 6]


@pytest.mark.usefixtures("interrupted")
def test_another_command_does_not_touch_unfinished_work(tmp_path: Path, dump: Path, tiny_tokenizer_dir: Path) -> None:
    same = options(dump, tmp_path / "wiki", tiny_tokenizer_dir)
    before = contents(tmp_path / "wiki.working")
    for other, part in (
        (replace(same, output=replace(same.output, append_eod=False)), "append_eod"),
        (replace(same, passages=PassageOptions(max_passage_tokens=65)), "max_passage_tokens"),
        (replace(same, cache=""), "cache"),
        (replace(same, inputs=(*same.inputs, str(copy_of(dump)))), "input"),
    ):
        with pytest.raises(BadInput, match=rf"wiki\.working: holds an unfinished run with another {part}; .* --fresh"):
            preprocess(other)
        assert contents(tmp_path / "wiki.working") == before
    fresh = replace(same, passages=PassageOptions(max_passage_tokens=65), run=RunOptions(fresh=True))
    assert preprocess(fresh).counts["articles"] == 16


def copy_of(path: Path) -> Path:
    other = path.with_name(f"copy-{path.name}")
    other.write_bytes(path.read_bytes())
    return other


@pytest.mark.usefixtures("interrupted")
def test_a_program_of_another_version_does_not_go_on(
    tmp_path: Path, dump: Path, tiny_tokenizer_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "code_identity", lambda: "that")
    with pytest.raises(BadInput, match="another version of this program"):
        preprocess(options(dump, tmp_path / "wiki", tiny_tokenizer_dir))


@pytest.mark.usefixtures("interrupted")
def test_two_runs_do_not_share_a_folder(tmp_path: Path, dump: Path, tiny_tokenizer_dir: Path) -> None:
    with working_folder(str(tmp_path / "wiki"), fresh=False), pytest.raises(BadInput, match="another run writes there"):
        preprocess(options(dump, tmp_path / "wiki", tiny_tokenizer_dir))
    preprocess(options(dump, tmp_path / "wiki", tiny_tokenizer_dir))
