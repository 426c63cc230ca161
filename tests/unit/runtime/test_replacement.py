"""The workers that their launcher may restart."""

from __future__ import annotations

from pathlib import Path

import pytest

from megatron_pz.runtime.replacement import declare_replaceable, take_declaration


def test_a_declaration_counts_for_one_death(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    error_file = str(tmp_path / "error.json")
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", error_file)
    assert not take_declaration(error_file)
    declare_replaceable()
    assert take_declaration(error_file)
    assert not take_declaration(error_file), "its successor has to be in service first"


def test_without_a_launcher_nobody_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHELASTIC_ERROR_FILE", raising=False)
    monkeypatch.chdir(tmp_path)
    declare_replaceable()
    assert not list(tmp_path.iterdir())
