"""tools/preprocess_wikipedia.py as a process: killed, interrupted, out of disk space, and its memory."""

from __future__ import annotations

import bz2
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HEADER = '<mediawiki xml:lang="en"><siteinfo><base>https://en.wikipedia.org/wiki/M</base></siteinfo>\n'
SMALL_JOBS = (
    "import runpy, sys; from megatron_pz.wikipedia.read import streams; "
    "streams.JOB_BYTES = dict.fromkeys(streams.JOB_BYTES, 1); "
    "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
)
DEADLINE = 60.0


def article(number: int) -> str:
    sentences = " ".join(f"Its tower number {tower} was built in {1000 + number + tower}." for tower in range(40))
    return (
        f"<page><title>Castle {number}</title><ns>0</ns><id>{number}</id>"
        f"<revision><id>{number}</id><text>The castle {number} is old. {sentences}\n\nThe end of {number}.</text>"
        "</revision></page>\n"
    )


@pytest.fixture(scope="module")
def dump(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a dump of 80 streams of two articles."""
    parts = [HEADER, *(article(n) + article(n + 1) for n in range(0, 160, 2)), "</mediawiki>\n"]
    path = tmp_path_factory.mktemp("dump") / "dump.xml.bz2"
    path.write_bytes(b"".join(bz2.compress(part.encode()) for part in parts))
    return path


@pytest.fixture(scope="module")
def whole(dump: Path, tiny_tokenizer_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Return the files of an undisturbed run."""
    out = tmp_path_factory.mktemp("whole")
    ended = finish(command(dump, out, tiny_tokenizer_dir, workers=2))
    assert ended.returncode == 0, ended.stderr
    return contents(out)


def command(dump: Path, out: Path, tokenizer: Path, workers: int) -> list[str]:
    flags = f"--input {dump} --output-prefix {out / 'wiki'} --tokenizer-model {tokenizer} --workers {workers}"
    limits = "--max-passage-tokens 128 --split 90,10 --append-eod"
    return [sys.executable, "-c", SMALL_JOBS, "tools/preprocess_wikipedia.py", *flags.split(), *limits.split()]


def finish(arguments: list[str], **how: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # type: ignore[call-overload, no-any-return]
        arguments, cwd=ROOT, capture_output=True, text=True, timeout=DEADLINE, check=False, **how
    )


def last_line(ended: subprocess.CompletedProcess[str]) -> str:
    assert "Traceback" not in ended.stderr, ended.stderr
    return ended.stderr.splitlines()[-1]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def wait_until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + DEADLINE
    while not holds():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.002)


def jobs_done(out: Path) -> int:
    journal = out / "wiki.working" / "journal.jsonl"
    return journal.read_bytes().count(b'\n{"job"') if journal.exists() else 0


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


ABORTS = bytes.fromhex("425a6839314159265359123456780000000100300020002135026a180000000717724538509012345678")
"""A bz2 stream whose second run of equal bytes is 2**32 - 2 long: indexed_bzip2 1.7.0 aborts its process over it."""


@pytest.mark.parametrize("workers", [1, 2])
def test_a_stream_that_kills_its_reader_is_named_by_the_next_run(
    tmp_path: Path, dump: Path, tiny_tokenizer_dir: Path, workers: int
) -> None:
    content = dump.read_bytes()
    place = content.index(b"BZh91AY&SY", len(content) // 2)
    bad = tmp_path / "bad.xml.bz2"
    bad.write_bytes(content[:place] + ABORTS + content[place:])
    arguments = command(bad, tmp_path, tiny_tokenizer_dir, workers)
    ended = finish(arguments)
    assert ended.returncode != 0
    if f"byte {place}" not in ended.stderr:
        ended = finish(arguments)
    assert ended.returncode == 2
    assert f"in the bz2 stream that begins at byte {place}; " in last_line(ended)
    ended = finish([*arguments, "--skip-damaged"])
    assert ended.returncode == 0, ended.stderr
    manifest = json.loads((tmp_path / "wiki_train_text_passage.manifest.json").read_bytes())
    assert [damage["offset"] for damage in manifest["all_splits"]["damaged"]] == [place]
    assert manifest["all_splits"]["articles"] == 160


@pytest.fixture
def running(tmp_path: Path, dump: Path, tiny_tokenizer_dir: Path) -> Iterator[subprocess.Popen[str]]:
    """Start the tool with two workers and yield it in the middle of its jobs."""
    arguments = command(dump, tmp_path, tiny_tokenizer_dir, workers=2)
    process = subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        wait_until(lambda: jobs_done(tmp_path) >= 5 or process.poll() is not None)
        assert process.poll() is None, process.communicate()[1]
        yield process
    finally:
        process.kill()
        process.communicate()


def test_sigkill_takes_the_workers_along_and_the_same_command_goes_on(
    tmp_path: Path, running: subprocess.Popen[str], dump: Path, whole: dict[str, bytes], tiny_tokenizer_dir: Path
) -> None:
    workers = children(running.pid)
    assert len(workers) == 2
    running.kill()
    wait_until(lambda: not any(map(is_alive, workers)))
    assert 5 <= jobs_done(tmp_path) < 82
    assert not list(tmp_path.glob("wiki_*")), "nothing stands under an output's name"
    ended = finish(command(dump, tmp_path, tiny_tokenizer_dir, workers=1))
    assert ended.returncode == 0, ended.stderr
    assert contents(tmp_path) == whole


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_in_one_line_that_says_how_to_go_on(
    tmp_path: Path,
    running: subprocess.Popen[str],
    dump: Path,
    whole: dict[str, bytes],
    tiny_tokenizer_dir: Path,
    number: int,
) -> None:
    workers = children(running.pid)
    running.send_signal(number)
    error = running.communicate(timeout=DEADLINE)[1]
    assert running.returncode == 130
    assert error.splitlines()[-1] == (
        f"interrupted: finished work is kept in {tmp_path}/wiki.working; give the same command again to continue"
    )
    assert "Traceback" not in error
    assert not any(map(is_alive, workers))
    ended = finish(command(dump, tmp_path, tiny_tokenizer_dir, workers=2))
    assert ended.returncode == 0, ended.stderr
    assert contents(tmp_path) == whole


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a file system of 320 KB, too small for the corpus beside its shards, and yield it."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=320k", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no small file system can be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_full_disk_is_one_line_and_with_room_the_same_command_goes_on(
    small_disk: Path, dump: Path, whole: dict[str, bytes], tiny_tokenizer_dir: Path, workers: int
) -> None:
    ended = finish(command(dump, small_disk, tiny_tokenizer_dir, workers))
    assert ended.returncode == 2
    assert re.fullmatch(rf"error: {small_disk}: the disk is full \(.*\); make room and give .*", last_line(ended))
    assert jobs_done(small_disk) > 3
    subprocess.run(["mount", "-o", "remount,size=16m", str(small_disk)], check=True)
    before = jobs_done(small_disk)
    ended = finish(command(dump, small_disk, tiny_tokenizer_dir, workers))
    assert ended.returncode == 0, ended.stderr
    assert before > 3
    assert contents(small_disk) == whole


def test_a_full_disk_without_a_file_system_of_its_own(tmp_path: Path, dump: Path, tiny_tokenizer_dir: Path) -> None:
    """A limit on the size of files takes effect when shards are joined."""

    def limited() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (64 << 10, 64 << 10))

    ended = finish(command(dump, tmp_path, tiny_tokenizer_dir, workers=1), preexec_fn=limited)
    assert ended.returncode == 2
    assert re.fullmatch(r"error: .*: the disk is full \(.*File too large\); make room and .*", last_line(ended))
    assert jobs_done(tmp_path) == 82
    assert finish(command(dump, tmp_path, tiny_tokenizer_dir, workers=1)).returncode == 0


def test_a_killed_worker_is_one_line_and_the_same_command_goes_on(
    tmp_path: Path, running: subprocess.Popen[str], dump: Path, whole: dict[str, bytes], tiny_tokenizer_dir: Path
) -> None:
    os.kill(children(running.pid)[0], signal.SIGKILL)
    error = running.communicate(timeout=DEADLINE)[1]
    assert running.returncode == 2
    assert error.splitlines()[-1].startswith("error: a worker process was killed, most likely because memory ran out; ")
    ended = finish(command(dump, tmp_path, tiny_tokenizer_dir, workers=1))
    assert ended.returncode == 0, ended.stderr
    assert contents(tmp_path) == whole


def test_a_page_of_a_million_braces_is_a_page(tmp_path: Path, tiny_tokenizer_dir: Path) -> None:
    braces = article(7).replace("The castle 7 is old.", "The castle 7 is old. " + "{" * 1_000_000)
    dump = tmp_path / "dump.xml"
    dump.write_text(HEADER + "".join(map(article, range(20, 60))) + braces + article(8) + "</mediawiki>\n")
    arguments = command(dump, tmp_path, tiny_tokenizer_dir, workers=1)
    ended = finish([arguments[0], *arguments[3:]])
    assert ended.returncode == 0, ended.stderr
    manifest = json.loads((tmp_path / "wiki_train_text_passage.manifest.json").read_text())
    assert manifest["all_splits"]["pages"] == 42


def test_a_worker_takes_less_than_300_mb_whatever_the_input_holds(tmp_path: Path, tiny_tokenizer_dir: Path) -> None:
    """The jobs have the real size: one of 16 MB and a small one."""
    extract = tmp_path / "extract.jsonl"
    text = " ".join(f"Its tower number {tower} was built in {1000 + tower}." for tower in range(800))
    with extract.open("w") as file:
        for number in range(600):
            record = {"id": number, "title": f"Castle {number}", "text": f"Castle {number}. {text}"}
            file.write(json.dumps(record) + "\n")
    assert 17 << 20 < extract.stat().st_size < 20 << 20
    program = (
        "import resource, runpy, sys; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__'); "
        "print('peak', resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss >> 10, 'torch' in sys.modules)"
    )
    arguments = command(extract, tmp_path, tiny_tokenizer_dir, workers=2)
    ended = finish([arguments[0], "-c", program, *arguments[3:]])
    assert ended.returncode == 0, ended.stderr
    peak, torch = ended.stdout.split("peak ")[1].split()
    assert 50 < int(peak) < 300, "MB"
    assert torch == "False"
