"""The findings of --check on a login node."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import pytest

from megatron_pz.cluster.job_check import (
    OWN_STATE,
    check_lead,
    check_writable,
    examine,
    requested,
    requested_gpus,
    seconds_of,
)
from megatron_pz.cluster.job_settings import PROGRAM, RLVR, TRAINING_MODULES
from megatron_pz.run.pretrain_zero import PretrainZeroObjective
from megatron_pz.run.rlvr import RlvrObjective
from megatron_pz.run.supervised import SupervisedObjective
from megatron_pz.runtime.errors import BadInput

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def job(tmp_path: Path, tiny_llama_dir: Path, tiny_corpus: str) -> dict[str, str]:
    script = tmp_path / "job.sh"
    script.write_text("#SBATCH --nodes=2\n#SBATCH --gpus-per-node=4\n#SBATCH --time=1:00:00\n")
    return {
        "CONFIG": str(ROOT / "examples/toy/config.yaml"),
        "MODEL": str(tiny_llama_dir),
        "DATA_PATH": tiny_corpus,
        "SAVE": str(tmp_path / "runs/new"),
        "LOGS": str(tmp_path / "logs"),
        "RECIPE_SCRIPT": str(script),
        "SIGNAL_LEAD": "600",
    }


def failures(environment: Mapping[str, str], *given: str) -> dict[str, str]:
    return {subject: finding for subject, finding, passed in examine(environment, given) if not passed}


def test_a_job_that_would_run_passes_and_leaves_nothing_behind(job: dict[str, str], tmp_path: Path) -> None:
    results = {subject: finding for subject, finding, _ in examine(job, [])}
    assert failures(job) == {}
    assert results["time limit"] == "1:00:00, of which the last 600 s are for a step and a checkpoint"
    assert results["memory"].startswith("8 GPUs of 80 GiB")
    assert [path.name for path in tmp_path.iterdir()] == ["job.sh"]


def test_each_fault_is_named(job: dict[str, str], tmp_path: Path, tiny_qwen3_dir: Path) -> None:
    assert "long" in failures(job | {"SIGNAL_LEAD": "3600"})["time limit"]
    assert failures(job | {"SIGNAL_LEAD": "10m"})["time limit"].startswith("SIGNAL_LEAD=10m: ")
    assert "/no/corpus" in failures(job | {"DATA_PATH": "/no/corpus"})["data"]
    assert "weights" in failures(job | {"GPU_MEMORY": "0.0001"})["memory"]
    assert failures(job | {"GPU_MEMORY": "80GB"})["memory"] == "GPU_MEMORY=80GB: give a number of GiB"
    assert "longest passage" in failures(job, "--max-prompt-length", "8")["data"]
    (tmp_path / "file").touch()
    assert "cannot be written" in failures(job | {"LOGS": str(tmp_path / "file")})["logs"]


def test_a_file_is_no_directory_for_a_run(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BadInput, match="cannot be written"):
        check_writable(tmp_path / "file" / "run")


def test_everything_that_is_absent_is_named_at_once(job: dict[str, str]) -> None:
    found = [
        text
        for subject, text, _ in examine(job | {"DATA_PATH": "/no/corpus", "MODEL": "/no/model"}, [])
        if subject == "settings"
    ]
    assert len(found) == 2
    assert found[0].startswith("--hf-model /no/model") and found[1].startswith("--data-path /no/corpus")


def checkpoint(run: Path, **common: object) -> Path:
    """Make a run directory with the header of a checkpoint of iteration 7."""
    folder = run / "iter_0000007"
    folder.mkdir(parents=True)
    (folder / "weights").write_bytes(b"four")
    (folder / "run_state.json").write_text(json.dumps({"files": {"weights": 4}, "common": common}))
    (run / "latest_checkpointed_iteration.txt").write_text("7\n")
    return folder


def test_a_directory_of_another_objective_is_named(job: dict[str, str]) -> None:
    folder = checkpoint(Path(job["SAVE"]), consumed_passages=5)
    results = {subject: finding for subject, finding, _ in examine(job, [])}
    assert results["checkpoint"] == f"continues after iteration 7 in {job['SAVE']}"
    for module in ("megatron_pz.rlvr", "megatron_pz.cold_start", "megatron_pz.baselines"):
        said = failures(job | {"MODULE": module})["checkpoint"]
        assert said.startswith(f"{folder} is of another objective than {module}: ")


def test_the_state_that_tells_an_objective_is_a_part_of_its_checkpoints() -> None:
    part = SimpleNamespace(state_dict=dict)
    run = SimpleNamespace(
        sampler=part, consumed_passages=0, engines=None, examples=part,
        questions=SimpleNamespace(stream=part), consumed_questions=0,
    )  # fmt: skip
    objectives = {PROGRAM: PretrainZeroObjective, RLVR: RlvrObjective}
    states = {
        module: objectives.get(module, SupervisedObjective).state_dict(run)  # type: ignore[arg-type]
        for module in TRAINING_MODULES
    }
    for module, key in OWN_STATE.items():
        assert {other for other, state in states.items() if key in state} == {
            other for other, name in OWN_STATE.items() if name == key
        }, module


def test_a_checkpoint_that_is_cut_short_or_gone_is_named(job: dict[str, str]) -> None:
    folder = checkpoint(Path(job["SAVE"]), consumed_passages=5)
    (folder / "weights").write_bytes(b"fo")
    assert "weights has 2 bytes instead of 4" in failures(job)["checkpoint"]
    for half_written in ("{", "[]", '{"files": {}, "common": null}'):
        (folder / "run_state.json").write_text(half_written)
        assert str(folder) in failures(job)["checkpoint"]
    shutil.rmtree(folder)
    assert f"{folder} has no usable run_state.json" in failures(job)["checkpoint"]
    assert failures(job, "--load", "/no/run")["checkpoint"] == "--load /no/run has no checkpoint"


def test_a_tool_has_no_recipe_to_check(job: dict[str, str]) -> None:
    with pytest.raises(BadInput, match=r"jobs that train; tools\.convert_checkpoint checks its flags"):
        examine({"MODULE": "tools.convert_checkpoint"}, [])


@pytest.mark.parametrize(
    ("limit", "seconds"),
    [
        ("90", 5400),
        ("08:09", 489),
        ("1:02:03", 3723),
        ("2-03", 183600),
        ("1-12:30", 131400),
        ("1-12:30:05", 131405),
        ("UNLIMITED", None),
        ("infinite", None),
        ("0", None),
    ],
)
def test_a_time_limit_is_read_as_slurm_does(limit: str, seconds: int | None) -> None:
    assert seconds_of(limit) == seconds


@pytest.mark.parametrize("limit", ["1h", "1-", "-1", "1:2:3:4", "1.5", "", "٩٠"])
def test_another_time_limit_is_refused(limit: str) -> None:
    with pytest.raises(BadInput, match=f"--time={limit}: give minutes"):
        check_lead({"time": limit}, "600")


def test_no_time_limit_leaves_time_for_any_lead() -> None:
    assert check_lead({"time": "UNLIMITED"}, "0900") == "no time limit in the script"
    assert "the last 900 s" in check_lead({"time": "1:00:00"}, "0900")


@pytest.mark.parametrize(
    ("lines", "gpus"),
    [
        ("#SBATCH --nodes=2\n#SBATCH --gpus-per-node=a100:4", 8),
        ("#SBATCH --nodes=2\n#SBATCH --gres=gpu:8", 16),
        ("#SBATCH -N 2 --gres=scratch:1,gpu:h100:4 # of each node", 8),
        ("#SBATCH -N2\n#SBATCH --gres gpu", 2),
        ("#SBATCH --gpus-per-node=0\n#SBATCH --gres=gpu:8", 8),
        ("#SBATCH -G 16\n#SBATCH --nodes=4", 16),
        ("#SBATCH --nodes=2-4\n#SBATCH --gpus-per-node=8", 16),
        ("#SBATCH --nodes=2\n#SBATCH --ntasks-per-node=4\n#SBATCH --gpus-per-task=1", 8),
        ("#SBATCH --nodes=3\n##SBATCH --gpus-per-node=8", 3),
        ("#SBATCH --nodes=3\ncd here\n#SBATCH --gpus-per-node=8", 3),
    ],
)
def test_the_gpus_of_a_script_are_counted_as_slurm_allocates_them(lines: str, gpus: int) -> None:
    assert requested_gpus(requested(f"#!/bin/bash\n#\n{lines}\n")) == gpus


def test_a_time_limit_is_found_however_it_is_written() -> None:
    for line in ("#SBATCH -t 1:00", "#SBATCH --time 1:00", "#SBATCH\t--time='1:00'", "#SBATCH -A me -t1:00\r"):
        assert requested(line)["time"] == "1:00", line


def test_a_script_that_sbatch_would_not_take_is_refused() -> None:
    for lines in ("#SBATCH --time", "#SBATCH --comment='a"):
        with pytest.raises(BadInput):
            requested(lines)
    for headers in ({"nodes": "two"}, {"gpus": "all"}, {"gres": "gpu:many"}):
        with pytest.raises(BadInput, match=next(iter(headers.values()))):
            requested_gpus(headers)
