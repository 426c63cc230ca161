"""tools/evaluate.py --benchmarks with vLLM, killed and continued, and divided between two ranks."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.benchmark_files import write_gsm8k, write_mmlu_pro
from tests.support.torchrun import ROOT, run_workers, shell_environment


def arguments(model: Path, data: Path, results: Path) -> list[str]:
    flags = ["--hf-model", model, "--benchmarks", "gsm8k,mmlu_pro", "--data", data, "--results", results]
    return [*map(str, flags), *"--precision fp32 --prompt-format plain --max-tokens 24 --responses-per-part 2".split()]


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gsm8k(write_mmlu_pro(tmp_path_factory.mktemp("data")))


@pytest.fixture(scope="module")
def straight(tiny_llama_dir: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the results of an evaluation without interruption on one rank."""
    results = tmp_path_factory.mktemp("straight")
    run_tool(arguments(tiny_llama_dir, data, results))
    return results


def run_tool(flags: list[str]) -> str:
    command = [sys.executable, str(ROOT / "tools/evaluate.py"), *flags]
    done = subprocess.run(command, cwd=ROOT, env=shell_environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_killed_evaluation_goes_on_to_the_same_bytes(
    straight: Path, tiny_llama_dir: Path, data: Path, tmp_path: Path
) -> None:
    flags = arguments(tiny_llama_dir, data, tmp_path)
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "tools/evaluate.py"), *flags],
        cwd=ROOT,
        env=shell_environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    first = tmp_path / tiny_llama_dir.name / "gsm8k.parts/00000.parquet"
    while not first.is_file() and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it was over before it was killed"
    assert not (tmp_path / "results.txt").exists()
    text = run_tool(flags)
    assert files(tmp_path) == files(straight)
    assert "gsm8k micro" in text and "mmlu_pro micro" in text


def test_two_ranks_give_the_bytes_of_one(straight: Path, tiny_llama_dir: Path, data: Path, tmp_path: Path) -> None:
    run_workers("tools.evaluate", 2, *arguments(tiny_llama_dir, data, tmp_path), timeout=200)
    assert files(tmp_path) == files(straight)
