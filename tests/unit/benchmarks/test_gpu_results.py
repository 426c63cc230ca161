"""The results that tests/gpu/conftest.py stores of a failing part, with an imitated GPU."""

from __future__ import annotations

import gc
import json
import os
import sys
import weakref
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmarks.gpu.results import Figure
from megatron_pz.hf.architecture import Architecture
from tests.gpu import conftest

NODE = "tests/gpu/test_model.py::test_parity[bf16]"


@pytest.fixture
def part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the file of the part ``model``, after one figure."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(conftest, "_place", lambda: {"device": "NVIDIA H200"})
    monkeypatch.setenv("PZ_GPU_RESULTS", str(tmp_path))
    monkeypatch.setattr(conftest, "_figures", [Figure("model", "difference", 0.25), Figure("rollout", "sync", 1.0)])
    monkeypatch.setattr(conftest, "_skipped", [])
    return tmp_path / f"model_{os.getpid()}.json"


def report(outcome: str, longrepr: object, node: str = NODE) -> pytest.TestReport:
    return pytest.TestReport(node, ("x", 1, "y"), {}, outcome, longrepr, "call")


def test_a_check_that_failed_is_in_the_result_at_once_with_the_figures_so_far(part: Path) -> None:
    crash = SimpleNamespace(reprcrash=SimpleNamespace(message="assert 0.5 < 0.1\n where 0.5 = x"))
    conftest.pytest_runtest_logreport(report("failed", crash))
    content = json.loads(part.read_text())
    assert [figure["name"] for figure in content["figures"]] == ["difference"]
    assert content["skipped"] == [
        {"part": "model", "name": "test_parity[bf16]", "reason": "assert 0.5 < 0.1", "failed": True}
    ]


def test_what_was_skipped_says_why_and_what_passed_says_nothing(part: Path) -> None:
    conftest.pytest_runtest_logreport(report("passed", None))
    conftest.pytest_runtest_logreport(report("failed", "wrong", "tests/unit/test_x.py::test_y"))
    assert not part.exists()
    conftest.pytest_runtest_logreport(report("skipped", ("file", 1, "Skipped: no vLLM")))
    (entry,) = json.loads(part.read_text())["skipped"]
    assert (entry["reason"], entry["failed"]) == ("no vLLM", False)


def test_a_failed_test_holds_no_memory() -> None:
    class Model:
        pass

    def fails() -> None:
        model = Model()
        found.append(weakref.ref(model))
        raise RuntimeError

    found: list[weakref.ref] = []
    try:
        fails()
    except RuntimeError as error:  # as pytest does for a debugger
        sys.last_type, sys.last_value, sys.last_traceback = type(error), error, error.__traceback__
    gc.collect()
    assert found[0]() is not None
    conftest.forget_failure()
    gc.collect()
    assert found[0]() is None


def test_without_a_real_model_parity_is_checked_on_a_random_one_and_the_result_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conftest, "_skipped", [])
    monkeypatch.setenv("PZ_GPU_MODEL", str(tmp_path))
    assert conftest.real_model() is None
    tiny = replace(conftest.QWEN3_06B, num_layers=1, hidden_size=32, ffn_hidden_size=32, vocab_size=50)
    monkeypatch.setattr(conftest, "QWEN3_06B", tiny)
    assert Architecture.from_hf(conftest.random_model(tmp_path / "random", torch.device("cpu"))) == tiny
    (entry,) = conftest._skipped
    assert (entry.part, entry.name, entry.failed) == ("model", "a real model", False)
    monkeypatch.setenv("PZ_GPU_MODEL", str(tmp_path / "random"))
    assert conftest.real_model() == tmp_path / "random"
