"""The identity of a run covers every file that determines its output."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import megatron_pz
from megatron_pz.wikipedia.pipeline import journal


@pytest.mark.parametrize(
    "name",
    ["wikitext/links.py", "wikitext/data/names/de.toml", "wikipedia/read/page.py", "wikitext/scanner/frames.pxd",
     "corpus/passages.py", "wikipedia/pipeline/jobs.py"],
)  # fmt: skip
def test_a_changed_file_is_another_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    package = tmp_path / "package"
    for room in ("wikipedia", "wikitext", "corpus"):
        original = Path(megatron_pz.__file__).with_name(room)
        shutil.copytree(original, package / room, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    monkeypatch.setattr(journal, "__file__", str(package / "wikipedia" / "pipeline" / "journal.py"))
    before = journal.code_identity()
    (package / name).write_bytes((package / name).read_bytes() + b"\n")
    assert journal.code_identity() != before
