"""Input that the benchmarks refuse before they load a model."""

from __future__ import annotations

import importlib
import sys

import pytest


@pytest.mark.parametrize(
    ("module", "flags", "words"),
    [
        ("training.shared_prompt_packing", ["--hf-model", "m", "--repeats", "0"], "--repeats 0: must be at least 1"),
        (
            "training.megatron_vs_transformers",
            ["--hf-model", "m", "--repeats", "-1"],
            "--repeats -1: must be at least 1",
        ),
        ("rollout.overhead", ["--hf-model", "m", "--response", "0"], "--response 0: must be at least 1"),
        ("training.log_probs_memory", ["--hidden-size", "0"], "--hidden-size 0: must be at least 1"),
        ("wikipedia.consensus", ["/nowhere.xml.bz2"], "/nowhere.xml.bz2: no such file"),
        ("wikipedia.consensus", ["d", "--show", "3"], "use it with --half open"),
    ],
)
def test_wrong_flags_are_one_line(
    module: str, flags: list[str], words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [module, *flags])
    with pytest.raises(SystemExit) as stop:
        importlib.import_module(f"benchmarks.{module}").main()
    (line,) = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2
    assert words in line
