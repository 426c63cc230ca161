"""Whole bz2 streams by the fast library, which must always agree with Python's module and keep no resources."""

from __future__ import annotations

import bz2
import itertools
import os
import random
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest

from megatron_pz.wikipedia.read import dump
from megatron_pz.wikipedia.read import fast_bz2 as whole_streams
from megatron_pz.wikipedia.read.damage import Damage, DamageLog
from megatron_pz.wikipedia.read.fast_bz2 import WholeStreams, decoder_name
from megatron_pz.wikipedia.read.streams import plan_jobs, read_blocks

pytest.importorskip("indexed_bzip2")

RANDOM = random.Random(3)
PROSE = " ".join(RANDOM.choices("the cat sat on a mat, bright and fair; dogs ran away".split(), k=6000)).encode()
END = 1 << 40
"""End of the bytes that may be read ahead: all of the file."""
CONTENTS = [PROSE, b"", PROSE[:70], bytes(3000) + b"x" * 1000, RANDOM.randbytes(2000), PROSE[::-1]]


def read(path: Path, whole: bool = True) -> tuple[bytes, list[Damage]]:
    """Return (content, damage) of a file."""
    log = DamageLog(skip=True)
    blocks = read_blocks(str(path), "bz2", 0, log, whole_to=path.stat().st_size if whole else 0)
    return b"".join(block.data for block in blocks), log.found


def compressed(tmp_path: Path, *streams: bytes) -> Path:
    path = tmp_path / "dump.bz2"
    path.write_bytes(b"".join(streams))
    return path


def test_sound_streams_are_read_whole(tmp_path: Path) -> None:
    streams = [bz2.compress(content) for content in CONTENTS if content]
    path = compressed(tmp_path, *streams)
    position = 0
    with path.open("rb") as file, WholeStreams(file, END) as whole:
        for content in filter(None, CONTENTS):
            found = whole.read(position)
            assert found is not None
            assert found[0] == content
            position = found[1]
        assert position == path.stat().st_size
        assert whole.read(position) is None
    assert decoder_name().startswith("indexed_bzip2 ")


def openings(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that receives the compressed size at every opening of the library."""
    sizes: list[int] = []
    library = whole_streams.indexed_bzip2.IndexedBzip2File

    def opened(file: int, parallelization: int) -> object:
        sizes.append(os.fstat(file).st_size)
        return library(file, parallelization=parallelization)

    monkeypatch.setattr(whole_streams, "indexed_bzip2", SimpleNamespace(IndexedBzip2File=opened))
    return sizes


def test_streams_are_read_together_up_to_the_jobs_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    streams = [bz2.compress(content) for content in (PROSE, PROSE[:500], PROSE[::-1], PROSE[7:], PROSE[9:])]
    path = compressed(tmp_path, *streams)
    ends = list(itertools.accumulate(map(len, streams)))
    sizes = openings(monkeypatch)
    with path.open("rb") as file, WholeStreams(file, ends[2]) as whole:
        for position, end in pairwise([0, *ends]):
            assert whole.read(position) == (bz2.decompress(path.read_bytes()[position:end]), end)
    assert sizes == [ends[2], len(streams[3]), len(streams[4])]
    sizes.clear()
    monkeypatch.setattr(whole_streams, "_READ_TOGETHER", ends[0] + 1)
    assert read(path)[1] == []
    assert sizes == [ends[1], ends[3] - ends[1], len(streams[4])]


def test_pythons_module_reads_the_streams_beside_a_damaged_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = bz2.compress(PROSE)
    damaged = stream[:2000] + bytes([stream[2000] ^ 1]) + stream[2001:]
    path = compressed(tmp_path, stream, damaged, stream, stream, stream)
    monkeypatch.setattr(whole_streams, "_READ_TOGETHER", 3 * len(stream))
    sizes = openings(monkeypatch)
    content, damage = read(path)
    assert (content, damage) == read(path, whole=False)
    assert content == 4 * PROSE
    assert len(damage) == 1
    assert sizes == [3 * len(stream), 2 * len(stream)]


def test_streams_larger_than_one_read_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = bz2.compress(PROSE), bz2.compress(PROSE[::-1])
    path = compressed(tmp_path, first, second)
    for size in (1, 7, 100, len(first), len(first) + 5, len(first) + 9):
        monkeypatch.setattr(whole_streams, "_READ", size)
        with path.open("rb") as file, WholeStreams(file, END) as whole:
            assert whole.read(0) == (PROSE, len(first))


@pytest.mark.parametrize(
    "change",
    [
        lambda stream: stream[:-1],
        lambda stream: stream[: len(stream) // 2],
        lambda stream: stream + b"\0",
        lambda stream: stream + bytes(100),
        lambda stream: stream + b"BZh9",
        lambda stream: stream + b"BZh9" + stream[-10:-4],
        lambda stream: stream + b"garbage" + bz2.compress(b""),
        lambda stream: b"BZh8" + stream[4:],
        lambda stream: bz2.compress(PROSE, 1),
        lambda stream: stream[1:],
        lambda stream: b"",
        lambda stream: bz2.compress(b""),
        lambda stream: stream[:-3] + bytes([stream[-3] ^ 1]) + stream[-2:],
    ],
)
def test_what_is_not_one_sound_stream_is_left_to_pythons_module(
    tmp_path: Path, change: Callable[[bytes], bytes], capfd: pytest.CaptureFixture[str]
) -> None:
    path = compressed(tmp_path, change(bz2.compress(PROSE)))
    with path.open("rb") as file, WholeStreams(file, END) as whole:
        assert whole.read(0) is None
    assert read(path) == read(path, whole=False)
    assert capfd.readouterr().err == ""


def test_damage_anywhere_is_what_pythons_module_says(tmp_path: Path) -> None:
    """The damage is flipped bits and holes of every kind, in every part of the middle stream."""
    sound, middle = bz2.compress(PROSE), bz2.compress(PROSE[:9000])
    dice = random.Random(5)
    damages = 0
    for number in range(120):
        stream = bytearray(middle)
        place = number % len(stream) if number < 40 else dice.randrange(len(stream))
        if number % 2:
            stream[place] ^= 1 << dice.randrange(8)
        else:
            hole = dice.choice([1, 8, 64, 512])
            stream[place : place + hole] = bytes([dice.choice([0, 0x55, 0xFF])]) * hole
        path = compressed(tmp_path, sound, bytes(stream), sound)
        found = read(path)
        assert found == read(path, whole=False), (number, place)
        damages += bool(found[1])
    assert damages > 115


def test_large_content_is_left_to_pythons_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = compressed(tmp_path, bz2.compress(bytes(50_000)))
    for largest, is_read in ((50_000, True), (49_999, False)):
        monkeypatch.setattr(whole_streams, "LARGEST_CONTENT", largest)
        with path.open("rb") as file, WholeStreams(file, END) as whole:
            assert (whole.read(0) is not None) == is_read
    monkeypatch.setattr(whole_streams, "_LARGEST_STREAM", 1000)
    monkeypatch.setattr(whole_streams, "_READ", 500)
    path = compressed(tmp_path, bz2.compress(CONTENTS[4]))
    with path.open("rb") as file, WholeStreams(file, END) as whole:
        assert whole.read(0) is None
    assert read(path) == (CONTENTS[4], [])


def test_a_result_that_is_not_whole_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Careless:
        """Returns slightly less than all data, and reports this."""

        def __init__(self, file: int, parallelization: int) -> None:
            self.raw = SimpleNamespace(readinto=lambda buffer: 10)

        def __enter__(self) -> Careless:
            return self

        def __exit__(self, *exception: object) -> None:
            pass

        def tell_compressed(self) -> int:
            return 8 * 100

    path = compressed(tmp_path, bz2.compress(PROSE))
    monkeypatch.setattr(whole_streams, "indexed_bzip2", SimpleNamespace(IndexedBzip2File=Careless))
    assert read(path) == (PROSE, [])


@pytest.mark.parametrize("streams", [[b"a <page> b", b""], [b"<page>" + PROSE, PROSE * 20, PROSE * 2 + b"</page>"]])
def test_messages_about_pages_do_not_depend_on_the_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, streams: list[bytes]
) -> None:
    """The library reads an empty stream with the one before it, and a large stream as one block."""
    path = compressed(tmp_path, bz2.compress(b"<mediawiki>"), *map(bz2.compress, streams))
    monkeypatch.setattr(dump, "LARGEST_PAGE", len(PROSE) * 4)
    monkeypatch.setattr("megatron_pz.wikipedia.read.streams.LARGEST_BLOCK", 5000)

    def damage() -> list[Damage]:
        log = DamageLog(skip=True)
        pages = [page for job in plan_jobs(str(path)) for page in dump.read_pages(job, log)]
        assert not pages
        return log.found

    with_it = damage()
    monkeypatch.setattr(whole_streams, "indexed_bzip2", None)
    assert damage() == with_it
    assert with_it


def test_without_the_library_all_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = compressed(tmp_path, *map(bz2.compress, CONTENTS))
    with_it = read(path)
    monkeypatch.setattr(whole_streams, "indexed_bzip2", None)
    assert read(path) == with_it == (b"".join(CONTENTS), [])
    assert decoder_name() == "Python's bz2"


def test_nothing_is_left_open_or_kept(tmp_path: Path) -> None:
    """There is no thread on which a fork could hang, no open file, and no copy of the streams."""

    def there_are() -> tuple[int, int, int]:
        own = Path("/proc/self")
        pages = int((own / "statm").read_text().split()[1])
        return len([*(own / "task").iterdir()]), len([*(own / "fd").iterdir()]), pages * os.sysconf("SC_PAGE_SIZE")

    content = random.Random(7).randbytes(400_000)
    path = compressed(tmp_path, *[bz2.compress(content)] * 5)
    assert read(path)[0] == 5 * content
    threads, files, memory = there_are()
    for _ in range(8):
        read(path)
    more_threads, more_files, more_memory = there_are()
    assert (more_threads, more_files) == (threads, files)
    assert more_memory - memory < 8_000_000, "40 streams of 400 kB have been read"
