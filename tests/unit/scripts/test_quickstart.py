"""The quickstart's order of work, caches and refusals, with a Python that only records its commands.

The script is in a separate checkout, whose ``.venv/bin/python`` records every command and makes the files that
the real one would make. The commands themselves are tested elsewhere.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]

NOTING_PYTHON = r"""#!/usr/bin/env bash
echo "$*" >>"$NOTES"
words=("$@")
value_of() { local i; for ((i = 0; i < ${#words[@]}; i++)); do
  if [[ ${words[i]} == "$1" ]]; then echo "${words[i + 1]}"; return; fi; done; }
case "$*" in
  *megatron_pz.config.parse*) [[ $* != *--train-iters\ 13* ]] || { echo "error: unlucky" >&2; exit 2; } ;;
  *quickstart/plan.py*) echo "about 20 minutes" >&2; echo "${PRECISION:-fp32}" ;;
  *fetch_quickstart_assets*) out=$(value_of --output)
    if [[ ! -d $out ]]; then mkdir -p "$out/model"; touch "$out"/{model/tokenizer.json,enwiki.xml.bz2,leads.jsonl}
    fi ;;
  *preprocess_wikipedia*) mkdir -p "$(dirname "$(value_of --output-prefix)")"; echo "pages read" ;;
  *megatron_pz.cold_start*) mkdir -p "$(value_of --save)/hf" ;;
  *tools/evaluate.py*) reading=false; for word in "$@"; do
      if $reading; then mkdir -p "$(dirname "$word")"; touch "$word"; fi
      if [[ $word == --output ]]; then reading=true; fi
    done ;;
  *megatron_pz.train*) mkdir -p "$(value_of --save)"
    if [[ -n ${INTERRUPTED:-} ]]; then echo 1 >"$(value_of --save)/latest_checkpointed_iteration.txt"; exit 1; fi ;;
esac
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Return a checkout with the real script and configuration, and the recording Python."""
    root = tmp_path / "checkout"
    (root / "examples" / "quickstart").mkdir(parents=True)
    shutil.copy(ROOT / "examples" / "quickstart.sh", root / "examples")
    shutil.copy(ROOT / "examples" / "quickstart" / "config.yaml", root / "examples" / "quickstart")
    _executable(root / "examples" / "setup_environment.sh", "#!/bin/sh\n")
    _executable(root / ".venv" / "bin" / "python", NOTING_PYTHON)
    return root


def _executable(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def call(root: Path, *flags: str, **environment: str) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """Run the script from the checkout's parent; return its result and the shortened names of its commands."""
    notes = root.parent / "notes"
    notes.unlink(missing_ok=True)
    result = subprocess.run(
        [str(root / "examples" / "quickstart.sh"), *flags],
        capture_output=True,
        text=True,
        cwd=root.parent,
        env={**os.environ, "NOTES": str(notes), **environment},
        check=False,
    )
    return result, notes.read_text().splitlines() if notes.exists() else []


def names(commands: list[str]) -> list[str]:
    known = (
        "parse",
        "quickstart/plan",
        "fetch_quickstart_assets",
        "preprocess_wikipedia",
        "megatron_pz.cold_start",
        "tools/evaluate",
    )
    known += ("tools/evaluate", "megatron_pz.train", "convert_checkpoint", "tools/report", "tools/play")
    return [next(name for name in known if name in command).split("/")[-1].split(".")[-1] for command in commands]


def test_the_dump_is_read_on_all_cores_whatever_number_of_threads_was_asked_for(checkout: Path) -> None:
    _, commands = call(checkout, "--output", "out", OMP_NUM_THREADS="1")
    (preprocess,) = (command.split() for command in commands if "preprocess_wikipedia" in command)
    assert preprocess[preprocess.index("--workers") + 1] == str(len(os.sched_getaffinity(0)))


def test_the_first_call_does_everything_in_order(checkout: Path) -> None:
    result, commands = call(checkout, "--steps", "4", "--output", "out", "--nproc", "2")
    assert result.returncode == 0, result.stderr
    assert names(commands) == [
        "parse",
        "plan",
        "fetch_quickstart_assets",
        "preprocess_wikipedia",
        "cold_start",
        "evaluate",
        "train",
        "convert_checkpoint",
        "evaluate",
        "report",
        "play",
    ]
    train = commands[6].split()
    assert train[train.index("--train-iters") + 1] == "4"
    assert "--nproc-per-node=2" in train
    assert train[train.index("--save") + 1] == str(checkout.parent / "out" / "run"), "relative to the caller's folder"
    assert "--load" not in train
    evaluated = commands[5].split("--hf-model ")[1].split(" --name ")[0].split()
    assert evaluated[0].endswith("assets/model")
    assert evaluated[1].endswith("/hf")
    assert evaluated[1] == train[train.index("--hf-model") + 1], "training starts from the cold start"


def test_the_second_call_begins_at_reinforcement_learning(checkout: Path) -> None:
    call(checkout, "--output", "first")
    result, commands = call(checkout, "--steps", "100", "--output", "second")
    assert result.returncode == 0, result.stderr
    fresh = ["train", "convert_checkpoint", "evaluate", "report", "play"]
    assert names(commands) == ["parse", "plan", "fetch_quickstart_assets", *fresh]


def test_other_settings_make_another_cold_start(checkout: Path) -> None:
    call(checkout, "--output", "first")
    config = checkout / "examples" / "quickstart" / "config.yaml"
    config.write_text(config.read_text().replace("cold_start_iters: ", "cold_start_iters: 1"))
    _, commands = call(checkout, "--output", "second")
    assert "cold_start" in names(commands)
    assert "preprocess_wikipedia" not in names(commands)


def test_the_precision_that_was_measured_holds_for_every_command_and_keeps_its_own_cold_start(checkout: Path) -> None:
    _, commands = call(checkout, "--output", "first", PRECISION="bf16")
    computing = [command for command in commands if names([command])[0] in ("cold_start", "evaluate", "train")]
    assert len(computing) == 4
    assert all("--precision bf16" in command for command in computing)
    result, commands = call(checkout, "--output", "second", PRECISION="fp32")
    assert {"cold_start", "evaluate"} <= set(names(commands)), "what was kept in the other precision is not taken"
    assert "about 20 minutes" in result.stderr


def test_own_model_and_dump_are_used_and_nothing_is_fetched(checkout: Path) -> None:
    model = checkout.parent / "my model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    (model / "tokenizer.json").write_text("{}")
    (checkout.parent / "a.xml").write_text("<mediawiki/>")
    (checkout.parent / "b.jsonl").write_text("")
    result, commands = call(checkout, "--dump", "a.xml", "b.jsonl", "--model", "my model", "--output", "out")
    assert result.returncode == 0, result.stderr
    assert "fetch_quickstart_assets" not in names(commands)
    preprocess = next(command for command in commands if "preprocess_wikipedia" in command)
    assert f"--input {checkout.parent}/a.xml {checkout.parent}/b.jsonl --tokenizer-model {model}" in preprocess


def test_an_interrupted_run_goes_on(checkout: Path) -> None:
    result, _ = call(checkout, "--output", "out", INTERRUPTED="1")
    assert result.returncode == 1
    assert "--resume continues it" in result.stderr.splitlines()[-1]
    result, commands = call(checkout, "--output", "out", "--resume")
    assert result.returncode == 0, result.stderr
    train = next(command for command in commands if "megatron_pz.train" in command)
    assert f"--load {checkout.parent}/out/run" in train
    assert "--precision" not in train, "a resumed run keeps the precision of its checkpoint"


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (["--bogus"], "--bogus"),
        (["--steps", "0"], "--steps 0"),
        (["--steps"], "--steps needs a value"),
        (["--steps", "--nproc", "2"], "--steps needs a value"),
        (["--nproc", "two"], "--nproc two"),
        (["--model", "absent"], "no config.json"),
        (["--model", "model without tokenizer"], "no tokenizer.json"),
        (["--dump"], "--dump needs"),
        (["--dump", "absent.xml"], "absent.xml: no such file"),
        (["--output", "checkout"], "exists"),
        (["--resume"], "--resume needs"),
        (["--resume", "--output", "checkout"], "--resume needs"),
        (["--steps", "13"], "unlucky"),
    ],
)
def test_bad_flags_get_one_line_and_nothing_is_made(checkout: Path, flags: list[str], complaint: str) -> None:
    (checkout.parent / "model without tokenizer").mkdir()
    (checkout.parent / "model without tokenizer" / "config.json").write_text("{}")
    result, commands = call(checkout, *flags)
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert complaint in line
    assert names(commands) in ([], ["parse"])
    assert not (checkout / "runs").exists()
