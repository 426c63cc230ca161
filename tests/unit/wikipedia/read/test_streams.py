"""Inputs in every compression, and with damage: undamaged data are read, damage is reported by its byte."""

from __future__ import annotations

import bz2
import gzip
import re
import resource
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from megatron_pz.runtime.errors import BadInput
from megatron_pz.wikipedia.read import compression, streams
from megatron_pz.wikipedia.read.compression import zstd
from megatron_pz.wikipedia.read.damage import Damage, DamageLog
from megatron_pz.wikipedia.read.dump import read_pages, read_siteinfo
from megatron_pz.wikipedia.read.streams import input_kind, plan_jobs

HEADER = '<mediawiki xml:lang="de"><siteinfo><dbname>dewiki</dbname></siteinfo>\n'
END = "</mediawiki>\n"


def page_xml(number: int) -> str:
    return (
        f"<page><title>Seite {number}</title><ns>0</ns><id>{number}</id>"
        f"<revision><id>{number}</id><text>{f'Wörter &amp; {number} ' * (20 + number)}</text></revision></page>\n"
    )


XML = (HEADER + "".join(map(page_xml, range(30))) + END).encode()


def cut(content: bytes, size: int) -> list[bytes]:
    return [content[start : start + size] for start in range(0, len(content), size)]


def packed(pack: Callable[[bytes], bytes], size: int = 10**9) -> bytes:
    return b"".join(map(pack, cut(XML, size)))


SKIPPED_BY_ZSTD = b"\x5a\x2a\x4d\x18" + (3).to_bytes(4, "little") + b"any"
PACKINGS: dict[str, bytes] = {
    "plain": XML,
    "bz2 of one stream": packed(bz2.compress),
    "bz2 of many streams": packed(bz2.compress, 1000),
    "gzip": packed(gzip.compress),
    "gzip of many members, padded": packed(gzip.compress, 777) + bytes(512),
    "zst of one frame": packed(zstd().compress),
    "zst of many frames": SKIPPED_BY_ZSTD + packed(zstd().compress, 1000) + SKIPPED_BY_ZSTD,
}


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "JOB_BYTES", {"none": 900, "bz2": 500, "zst": 500})
    monkeypatch.setattr(streams, "ONE_STREAM_JOB_BYTES", 2000)
    monkeypatch.setattr(streams, "_READ", 512)
    monkeypatch.setattr(streams, "LARGEST_BLOCK", 700)


def ids(path: Path, damage: DamageLog | None = None) -> list[int]:
    damage = damage or DamageLog()
    return [int(page.page_id) for job in plan_jobs(str(path), damage) for page, _ in read_pages(job, damage)]


@pytest.mark.parametrize("packing", PACKINGS)
def test_every_packing_gives_all_pages_in_several_jobs(tmp_path: Path, packing: str) -> None:
    path = tmp_path / "dump"
    path.write_bytes(PACKINGS[packing])
    jobs = list(plan_jobs(str(path)))
    assert len(jobs) > 3
    pages = [page for job in jobs for page, _ in read_pages(job)]
    assert [page.page_id for page in pages] == [str(number) for number in range(30)]
    assert pages[7].text == "Wörter & 7 " * 27
    assert read_siteinfo(str(path)).name == "dewiki"
    assert sum(job.end - job.start for job in jobs) == len(PACKINGS[packing]), "progress ends at 100 %"


def test_the_last_jobs_are_small(tmp_path: Path) -> None:
    """The other workers wait for the last one at most as long as a quarter of a full job."""
    path = tmp_path / "dump"
    path.write_bytes(HEADER.encode() + b" " * 30_000 + END.encode())
    jobs = list(plan_jobs(str(path)))
    sizes = [job.end - job.start for job in jobs]
    assert (jobs[0].start, jobs[-1].end) == (0, path.stat().st_size)
    assert all(before.end == after.start for before, after in pairwise(jobs))
    assert sizes[:5] == [900] * 5
    assert sizes[:-1] == sorted(sizes[:-1], reverse=True)
    assert max(sizes[-10:]) == 225


@pytest.mark.parametrize("packing", [name for name in PACKINGS if name != "plain"])
@pytest.mark.parametrize("share", [0.5, 0.97])
def test_a_truncated_file_of_every_packing_is_named_with_its_last_byte(
    tmp_path: Path, packing: str, share: float
) -> None:
    content = PACKINGS[packing].rstrip(b"\0").removesuffix(SKIPPED_BY_ZSTD)
    size = int(len(content) * share)
    path = tmp_path / "dump"
    path.write_bytes(content[:size])
    with pytest.raises(BadInput, match=rf"/dump: is truncated: it ends at byte {size}\b.*--skip-damaged"):
        ids(path)


def streams_with_damage(pack: Callable[[bytes], bytes], damaged: int) -> tuple[bytes, int]:
    """Return (content, offset of the damage): header, ten streams of three pages, end, with one stream damaged."""
    texts = [HEADER, *("".join(map(page_xml, range(n, n + 3))) for n in range(0, 30, 3)), END]
    parts = [bytearray(pack(text.encode())) for text in texts]
    middle = len(parts[damaged]) // 2
    for index in range(middle, middle + 8):
        parts[damaged][index] ^= 0xFF
    return b"".join(parts), sum(map(len, parts[:damaged]))


def with_checksum(content: bytes) -> bytes:
    return zstd().compress(content, options={zstd().CompressionParameter.checksum_flag: 1})


@pytest.mark.parametrize("pack", [bz2.compress, with_checksum])
@pytest.mark.parametrize("damaged", [1, 4, 10])
def test_only_the_damaged_stream_is_skipped(
    tmp_path: Path, pack: Callable[[bytes], bytes], damaged: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    content, offset = streams_with_damage(pack, damaged)
    path = tmp_path / "dump"
    path.write_bytes(content)
    with pytest.raises(BadInput, match=rf"stream that begins at byte {offset}; download it again, or .*--skip-damaged"):
        ids(path)
    sound = [number for number in range(30) if number // 3 != damaged - 1]
    for size in (1, 500, 10**6):
        monkeypatch.setattr(streams, "JOB_BYTES", {"bz2": size, "zst": size})
        log = DamageLog(skip=True)
        assert ids(path, log) == sound
        assert {(found.path, found.offset) for found in log.found} == {(str(path), offset)}
        assert "is damaged before byte" in log.found[0].reason


def test_a_stream_with_a_broken_header_is_skipped(tmp_path: Path) -> None:
    parts = [bytearray(bz2.compress(part)) for part in cut(XML, 1500)]
    offset = sum(map(len, parts[:3]))
    parts[3][:4] = b"XXXX"
    path = tmp_path / "dump"
    path.write_bytes(b"".join(parts))
    lost = {number for number in range(30) if f"<id>{number}</id>".encode() in XML[4500:6000]}
    log = DamageLog(skip=True)
    read = ids(path, log)
    assert set(range(30)) - set(read) >= lost
    assert len(read) >= 30 - len(lost) - 2, "besides what the stream holds, the pages that it cuts"
    assert log.found[0] == Damage(str(path), offset, f"no bz2 stream at byte {offset}, where one must begin")


@pytest.mark.parametrize("packing", ["bz2 of many streams", "gzip"])
def test_of_a_truncated_file_everything_before_its_end_is_read(
    tmp_path: Path, packing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "_HELD", 0)
    content = PACKINGS[packing]
    path = tmp_path / "dump"
    path.write_bytes(content[: len(content) * 3 // 4])
    log = DamageLog(skip=True)
    read = ids(path, log)
    assert read == list(range(len(read)))
    assert len({found.offset for found in log.found}) == 1
    if "many" in packing:
        assert len(read) > 15


def test_a_damaged_page_is_skipped(tmp_path: Path) -> None:
    content = XML.replace("Wörter &amp; 9".encode(), b"W\xffrter", 1).replace(b"<id>12</id>", b"<id>1Z</id>")
    path = tmp_path / "dump"
    path.write_bytes(content)
    log = DamageLog(skip=True)
    pages = [page for job in plan_jobs(str(path)) for page, _ in read_pages(job, log)]
    assert [page.page_id for page in pages] == [str(number) for number in range(30) if number != 12]
    assert [found.reason.partition(" byte ")[2].split(maxsplit=1)[1] for found in log.found] == [
        "lacks its title or id"
    ]


@pytest.mark.parametrize("pack", [bytes, bz2.compress])
def test_the_index_of_a_dump_is_known(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "enwiki-multistream-index.txt"
    path.write_bytes(pack(b"616:10:AccessibleComputing\n616:12:Anarchism\n"))
    assert input_kind(str(path)).content == "index"
    assert list(plan_jobs(str(path))) == []


def test_what_is_in_no_stream_is_named(tmp_path: Path) -> None:
    path = tmp_path / "photo.bz2"
    path.write_bytes(bz2.compress(b"\x89PNG"))
    with pytest.raises(BadInput, match=r"holds neither a dump's XML nor \.jsonl"):
        input_kind(str(path))


def test_zst_without_a_library_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "dump.zst"
    path.write_bytes(PACKINGS["zst of one frame"])
    monkeypatch.setitem(sys.modules, "backports", None)
    monkeypatch.setitem(sys.modules, "compression", None)
    with pytest.raises(BadInput, match=r"pip install backports\.zstd"):
        list(plan_jobs(str(path)))


def test_a_large_first_stream_makes_one_stream_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "dump"
    path.write_bytes(PACKINGS["bz2 of many streams"])
    monkeypatch.setattr(compression, "LARGEST_STREAM", 100)
    assert all(job.payload for job in list(plan_jobs(str(path)))[:-1])
    assert ids(path) == list(range(30))


@pytest.mark.parametrize("piece", [1, 3, 9, 10, 11, 64])
def test_streams_are_found_wherever_the_file_is_read_in_pieces(
    piece: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compression, "_SEARCHED_AT_ONCE", piece)
    begin = b"BZh91AY&SY"
    content = begin + begin + b"BZh91AY&S" + begin + b"x" * 37 + begin[:4] + begin + b"BZ"
    expected = [match.start() for match in re.finditer(re.escape(begin), content)]
    file = tmp_path / "dump.bz2"
    file.write_bytes(content)
    starts = compression.stream_starts(str(file), "bz2")
    assert starts is not None
    assert list(starts) == expected
    for after in range(len(content)):
        following = next((start for start in expected if start > after), None)
        assert compression.next_stream(str(file), "bz2", after) == following


def test_looking_for_streams_takes_little_memory_whatever_the_file_s_size(tmp_path: Path) -> None:
    file = tmp_path / "dump.bz2"
    with file.open("wb") as sparse:
        for start in (0, 50 << 20, 250 << 20):
            sparse.seek(start)
            sparse.write(b"BZh91AY&SY")

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

    starts = compression.stream_starts(str(file), "bz2")
    assert starts is not None
    before, most = resident(), 0
    for _ in starts:
        most = max(most, resident() - before)
    assert most < 64 << 20, "the file has four times as much"


def test_a_bz2_file_may_begin_with_empty_streams(tmp_path: Path) -> None:
    path = tmp_path / "dump.xml.bz2"
    empty = bz2.compress(b"") + bz2.compress(b"", 1)
    path.write_bytes(empty + packed(bz2.compress, 1000))
    assert [page.title for job in plan_jobs(str(path)) for page, _ in read_pages(job)] == [
        f"Seite {number}" for number in range(30)
    ]
    assert read_siteinfo(str(path)).language == "de"
    path.write_bytes(empty + b"x" + packed(bz2.compress, 1000))
    with pytest.raises(BadInput, match=f"no bz2 stream at byte {len(empty)}"):
        next(plan_jobs(str(path)))
