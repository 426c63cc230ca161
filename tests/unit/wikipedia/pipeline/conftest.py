"""Inputs of the pipeline's tests."""

from __future__ import annotations

import bz2
import json
from pathlib import Path

import pytest

from megatron_pz.wikipedia.read import streams
from tests.support.small_dump import HEADER, pages, use_small_jobs


@pytest.fixture
def small_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    use_small_jobs(monkeypatch)


@pytest.fixture
def dump_path(tmp_path: Path) -> Path:
    """Return a multi-stream dump of five pages per stream, in several jobs."""
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
