"""tests/gpu/run.sh: its flags, refusals and order of work, with a Python that only records its commands."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from megatron_pz.config.parse import parse_run_config
from megatron_pz.config.validate_precision import Machine, machine_refusals
from tests.gpu import test_train

ROOT = Path(__file__).resolve().parents[3]

NOTING_PYTHON = r"""#!/usr/bin/env bash
echo "$* [model ${PZ_GPU_MODEL##*/}] [path ${PYTHONPATH##*/}] [commit $PZ_GPU_COMMIT]" >>"$NOTES"
case "$*" in
  *doctor*) exit 1 ;;
  *test_train.py) exit 1 ;;
  *--collect-only*) printf '%s\n' tests/gpu/test_rollout.py::{a,b} '2 tests collected' ;;
  *test_rollout.py::b) touch "$PZ_GPU_RESULTS/part.json" && exec sleep 30 ;;
  *pytest*) touch "$PZ_GPU_RESULTS/part.json" ;;
  *benchmarks.gpu.results*) echo "the table" ;;
esac
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Return a checkout with the real script, the recording Python and an nvidia-smi that lists a GPU."""
    root = tmp_path / "checkout"
    (root / "tests" / "gpu").mkdir(parents=True)
    shutil.copy(ROOT / "tests" / "gpu" / "run.sh", root / "tests" / "gpu")
    for name, text in {"python": NOTING_PYTHON, "nvidia-smi": "#!/bin/sh\necho NVIDIA H200\n"}.items():
        (tmp_path / "bin" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    return root


def call(root: Path, *flags: str, path: str = "") -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """Run the script; return its result and its commands to Python."""
    notes = root.parent / "notes"
    notes.unlink(missing_ok=True)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PZ_", "PYTHONPATH"))}
    path = path or f"{root.parent / 'bin'}:{environment['PATH']}"
    result = subprocess.run(
        ["/bin/bash", str(root / "tests" / "gpu" / "run.sh"), *flags],
        capture_output=True,
        text=True,
        cwd=root.parent,
        env={**environment, "PATH": path, "NOTES": str(notes)},
        check=False,
    )
    return result, notes.read_text().splitlines() if notes.exists() else []


def test_all_parts_run_and_those_that_fail_or_take_too_long_are_named_at_the_end(checkout: Path) -> None:
    result, commands = call(checkout, "--seconds", "1", "--commit", "abc")
    assert result.returncode == 1
    asked = [word for command in commands for word in command.split() if word.startswith("tests/gpu/")]
    of_rollout = ["rollout.py", "rollout.py::a", "rollout.py::b"]  # the list, then each in a separate process
    assert asked == [f"tests/gpu/test_{name}" for name in ("model.py", *of_rollout, "train.py", "benchmarks.py")]
    assert "megatron_pz.doctor" in commands[0]
    assert "benchmarks.gpu.results" in commands[-1]
    assert "benchmarks/results/20" in commands[-1] and "_H200 " in commands[-1]
    assert result.stdout.splitlines()[-2:] == ["FAILED: rollout (stopped after 1 s)", "FAILED: train"]
    assert "the table" in result.stdout
    assert all("[path checkout] [commit abc]" in command for command in commands)


def test_single_parts_with_a_model_wheels_and_a_place_for_the_result(checkout: Path) -> None:
    (checkout.parent / "small").mkdir()
    (checkout.parent / "small" / "config.json").write_text("{}")
    (checkout.parent / "whl").mkdir()
    (checkout.parent / "whl" / "a-1-py3-none-any.whl").touch()
    flags = ["--part", "benchmarks", "--part", "model", "--model", str(checkout.parent / "small")]
    result, commands = call(checkout, *flags, "--wheels", str(checkout.parent / "whl"), "--output", "here/mine")
    assert result.returncode == 0, result.stderr
    install, doctor, *parts, table = commands
    assert "pip install --quiet --no-index --no-deps" in install
    assert install.split(" [")[0].endswith("a-1-py3-none-any.whl")
    assert all("[model small] [path gpu_site]" in command for command in (doctor, *parts))
    assert ["test_benchmarks.py" in parts[0], "test_model.py" in parts[1], len(parts)] == [True, True, 2]
    assert "here/mine" in table


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--part", "speed"], "unknown part 'speed': choose model rollout train benchmarks"),
        (["--part"], "--part needs a value"),
        (["--fast"], "unknown flag '--fast'"),
        (["--model", "nowhere"], "--model nowhere: no config.json there"),
        (["--wheels", "nowhere"], "--wheels nowhere: no *.whl there"),
        (["--seconds", "soon"], "--seconds soon: give a whole number"),
    ],
)
def test_bad_flags_are_refused_in_one_line(checkout: Path, flags: list[str], words: str) -> None:
    result, commands = call(checkout, *flags)
    assert (result.returncode, commands) == (2, [])
    assert words in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_without_a_card_nothing_is_run_and_that_is_said(checkout: Path) -> None:
    (checkout.parent / "bin" / "nvidia-smi").write_text("#!/bin/sh\necho 'No devices were found' >&2\nexit 6\n")
    result, commands = call(checkout)
    assert (result.returncode, commands) == (2, [])
    assert result.stderr.strip() == "error: no NVIDIA GPU here (nvidia-smi lists none): nothing was run"


@pytest.mark.parametrize("name", test_train.PRECISIONS)
def test_the_configurations_of_the_ten_steps_are_accepted_and_run_on_an_h200(
    name: str, tmp_path: Path, tiny_qwen3_dir: Path
) -> None:
    (tmp_path / "config.yaml").write_text(test_train.CONFIG)
    flags = ["--config", str(tmp_path / "config.yaml"), "--hf-model", str(tiny_qwen3_dir), "--data-path", "x"]
    config = parse_run_config([*flags, "--save", "y", *test_train.PRECISIONS[name]], "test")
    assert machine_refusals(config, Machine((9, 0), (13, 0), (2, 20))) == []
    assert (config.model.fp8_format != "none") is (config.rollout.rollout_quantization != "none") is (name == "FP8")


def test_help_is_the_scripts_own_comment(checkout: Path) -> None:
    result, _ = call(checkout, "--help")
    assert result.returncode == 0
    assert "--part model" in result.stdout
    assert not result.stdout.startswith("#")
