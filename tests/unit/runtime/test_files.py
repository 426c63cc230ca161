"""Atomically written files, and folders claimed by one process."""

from __future__ import annotations

import fcntl
from pathlib import Path

import pytest

from megatron_pz.runtime.errors import BadInput
from megatron_pz.runtime.files import claimed_directory, write_text_whole, write_whole, written_whole


def claim(folder: Path) -> None:
    with claimed_directory(folder, "--results"):
        pass


def test_a_file_that_was_not_completed_leaves_the_earlier_one(tmp_path: Path) -> None:
    path = tmp_path / "curves.png"
    write_text_whole(path, "whole")

    def fail(partial: Path) -> None:
        assert partial.suffix == ".png", "matplotlib chooses the format by it"
        partial.write_text("ha")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_whole(path, fail)
    assert [(each.name, each.read_text()) for each in tmp_path.iterdir()] == [("curves.png", "whole")]


def test_a_file_gets_its_name_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with written_whole(path) as file:
        file.write(b"whole")
        assert not path.exists()
    assert [(each.name, each.read_text()) for each in tmp_path.iterdir()] == [("file", "whole")]


def test_a_claimed_directory_is_refused_until_its_claim_ends(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "results"
    with claimed_directory(folder, "--results"), pytest.raises(BadInput, match=r"--results .*results is in use by"):
        claim(folder)
    claim(folder)


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BadInput, match=r"--results .*file/out: cannot be written \(Not a directory\)"):
        claim(tmp_path / "file" / "out")


def test_a_file_system_without_locks_keeps_nobody_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "flock", lambda *_: (_ for _ in ()).throw(OSError(38, "Function not implemented")))
    claim(tmp_path)
