"""The preprocessing benchmark's dump and figures, without its measurements."""

from __future__ import annotations

import bz2
import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks.wikipedia import dump as wikipedia_dump
from benchmarks.wikipedia.dump import make_dump
from benchmarks.wikipedia.preprocess import figures, report
from benchmarks.wikipedia.stages import decompress, decompress_as_the_pipeline
from megatron_pz.wikipedia.read.dump import read_pages
from megatron_pz.wikipedia.read.streams import plan_jobs

PROSE = "the old castle stands above the little village where several travellers rested before winter came again " * 9
PAGES = [("Hill", f"'''Hill''' {PROSE}{{{{convert|12|km}}}}"), ("River", f"River {PROSE}[[Hill|the mountain]]")]


@pytest.fixture
def small_dump(tmp_path: Path) -> Path:
    pages = "".join(
        f"<page><title>{title}</title><ns>0</ns><id>{number}</id><revision><id>{number + 50}</id>"
        f"<text>{text}</text></revision></page>\n"
        for number, (title, text) in enumerate(PAGES, start=1)
    )
    header = '<mediawiki xml:lang="en"><siteinfo><dbname>enwiki</dbname></siteinfo>\n'
    path = tmp_path / "small.xml.bz2"
    path.write_bytes(bz2.compress(f"{header}{pages}</mediawiki>\n".encode()))
    return path


def test_the_dump_is_large_and_its_copies_differ(
    small_dump: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wikipedia_dump, "STREAM_BYTES", 5000)
    large = tmp_path / "made" / "large.xml.bz2"
    size = make_dump(small_dump, large, 0.05)
    xml = bz2.decompress(large.read_bytes())
    assert size == len(xml)
    assert 50_000 <= len(xml) < 53_000
    assert large.read_bytes().count(b"BZh91AY&SY") > 8
    ElementTree.fromstring(xml)
    pages = [page for job in plan_jobs(str(large)) for page, _ in read_pages(job)]
    assert len({page.page_id for page in pages}) == len({page.title for page in pages}) == len(pages) > 20
    assert len({page.text for page in pages}) == len(pages)
    original = [page.text for page in pages[:2]]
    assert original == [text for _, text in PAGES]
    for number, page in enumerate(pages):
        words, expected = page.text.split(), original[number % 2].split()
        changed = [word for word, before in zip(words, expected, strict=True) if word != before]
        assert number < 2 or 0 < len(changed) < len(words) / 16
        assert ("{{convert|12|km}}" if number % 2 == 0 else "[[Hill|the mountain]]") in page.text
    before = large.stat().st_mtime_ns
    assert make_dump(small_dump, large, 0.05) == size
    assert large.stat().st_mtime_ns == before
    assert decompress(large, tmp_path / "large.xml") > 0
    assert (tmp_path / "large.xml").read_bytes() == xml
    assert decompress_as_the_pipeline(large) > 0


def test_figures_are_ratios_of_the_least_values() -> None:
    def stages(seconds: float, speed: float) -> dict:
        return {
            "stages": {"bz2": seconds, "text": 1.0},
            "decoder": "fast 1.0",
            "decoder_seconds": seconds / 2,
            "scanner_mb_per_s": {"installed": speed, "interpreted": speed / 40},
            "scanner": "compiled",
            "amounts": {"articles": 5, "passages": 9, "tokens": 100},
        }

    results = {
        "one worker": [{"cpu": 8.0, "wall": 9.0}, {"cpu": 6.0, "wall": 8.0}],
        "two workers": [{"cpu": 6.6, "wall": 4.0}, {"cpu": 7.0, "wall": 5.0}],
        "near duplicates": [{"cpu": 9.0, "wall": 9.5}, {"cpu": 9.5, "wall": 9.0}],
        "stages": [stages(5.0, 120.0), stages(4.0, 80.0)],
        "peers": [
            {"wikiextractor": 20.0, "read": 1.0, "tokenize": 99.0, "build": 1.0, "start_up": 9.0},
            {"wikiextractor": 25.0, "read": 1.5, "tokenize": 38.0, "build": 1.0, "start_up": 6.0},
        ],
    }
    found = figures(results, 90_000_000)
    assert found["peers_over_pipeline"] == 11
    assert found["peers_over_pipeline_without_start_up"] == 10
    assert found["pipeline_over_bz2"] == 1.5
    assert found["decoder"] == 2
    assert found["near_duplicates"] == 9
    assert (found["scanner"], found["scanner_interpreted"]) == (120, 3)
    assert (found["two_workers_wall"], found["two_workers_cpu"]) == (2, pytest.approx(1.1))
    assert found["mb_per_s"] == 15
    about = {
        "date": "2026-11-22 21:00 UTC",
        "commit": "abc",
        "processor": "CPU",
        "cores": 2,
        "load_before": 0.1,
        "load_after": 1.0,
        "xml_bytes": 90_000_000,
        "versions": {"python": "3.11.7"},
    }
    text = report(results, found, about)
    assert "commit abc" in text
    assert "11.0" in text
    assert "10.0" in text
    assert "1.50" in text
    assert "fast 1.0" in text
    json.dumps({"about": about, "figures": found, "runs": results})
