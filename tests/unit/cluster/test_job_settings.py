"""The settings of a job, resolved from variables and flags, and the number of processes of a node."""

from __future__ import annotations

import errno
import fcntl
import socket
from pathlib import Path

import pytest
import yaml

from megatron_pz.cluster import job_settings
from megatron_pz.cluster.job_settings import JobSettings, free_port, set_aside_if_unfinished, split_data_path
from megatron_pz.cluster.local_node import count_processes, threads_of_a_process
from megatron_pz.runtime.errors import BadInput


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a recipe in a separate directory, with the tests' directory as the checkout."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "mine" / "config.yaml"
    path.parent.mkdir()
    path.write_text("model: {hf_model: models/m}\ntraining: {seed: 5}\n")
    return path


def resolve(recipe: Path, *given: str, **variables: str) -> JobSettings:
    return job_settings.resolve({"CONFIG": str(recipe)} | variables, given, check=False)


def test_variables_replace_the_recipe_and_flags_replace_variables(recipe: Path) -> None:
    settings = resolve(recipe, "--seed", "7", MODEL="/models/m", DATA_PATH="0.7 a 0.3 b", SAVE="kept here")
    assert settings.config.model.hf_model == "/models/m"
    assert settings.config.data.data_path == ("0.7", "a", "0.3", "b")
    assert (settings.save, settings.config.training.save) == ("kept here", "kept here")
    assert settings.config.training.seed == 7
    assert resolve(recipe, "--save=elsewhere", SAVE="here").save == "elsewhere"


@pytest.mark.parametrize(
    ("text", "folder"),
    [
        ("save: /scratch/run # of mine", "/scratch/run"),
        ('save: "with space # and more"', "with space # and more"),
        ("save: 'single'", "single"),
        ("save : spaced", "spaced"),
        ("save: >-\n    folded", "folded"),
        ("save: windows\r", "windows"),
        ("save: 20261129", "20261129"),
        ("save_interval: 5", "runs/mine"),
        ('save: ""', "runs/mine"),
    ],
)
def test_the_run_directory_is_the_one_that_yaml_gives(recipe: Path, text: str, folder: str) -> None:
    recipe.write_bytes(f"training:\n  {text}\n".encode())
    assert resolve(recipe).save == folder


def test_a_run_with_a_checkpoint_goes_on_unless_the_flags_say_otherwise(recipe: Path, tmp_path: Path) -> None:
    save = tmp_path / "run"
    save.mkdir()
    (save / "latest_checkpointed_iteration.txt").write_text("40\n")
    resumed = resolve(recipe, SAVE=str(save))
    assert (resumed.iteration, resumed.flags[-2:]) == (40, ("--load", str(save)))
    directed = resolve(recipe, "--load", "elsewhere", SAVE=str(save))
    assert (directed.iteration, directed.flags.count("--load")) == (None, 1)
    assert resolve(recipe, "--save=new", SAVE=str(save)).config.training.load == ""


def test_a_directory_with_another_models_checkpoint_is_refused(recipe: Path, tmp_path: Path) -> None:
    save = tmp_path / "run"
    save.mkdir()
    (save / "latest_checkpointed_iteration.txt").write_text("40\n")
    (save / "config.yaml").write_text(yaml.safe_dump({"model": {"hf_model": "models/other"}}))
    with pytest.raises(BadInput, match=r"holds a run of models/other, and this one trains models/m"):
        resolve(recipe, SAVE=str(save))
    assert resolve(recipe, "--load", str(save), SAVE=str(save)).iteration is None
    for same in ("models/other/", "./models/other", str(tmp_path / "models/other")):
        assert resolve(recipe, SAVE=str(save), MODEL=same).iteration == 40


def test_tasks_of_an_array_have_directories_of_their_own(recipe: Path) -> None:
    array = {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "4"}
    settings = resolve(recipe, "--seed", "{task}", SAVE="runs/seed-{seed}", **array)
    assert (settings.save, settings.config.training.seed) == ("runs/seed-3", 3)
    assert resolve(recipe, SAVE="runs/{task}", **array).save == "runs/3"
    assert resolve(recipe, "--save", "runs/{task}", **array).config.training.save == "runs/3"
    for given, save in (((), "runs/x"), ((), "runs/{seed}"), (("--seed", "{task}"), "runs/x")):
        with pytest.raises(BadInput, match="all tasks of this array would write into one directory"):
            resolve(recipe, *given, SAVE=save, **array)
    with pytest.raises(BadInput, match="has a value in job arrays only"):
        resolve(recipe, SAVE="runs/{task}")
    assert resolve(recipe, SAVE="runs/{seed}").save == "runs/5"
    for unknown in ("{job}", "{Seed}", "{}"):
        with pytest.raises(BadInput, match=rf"SAVE=runs/{{task}}-{unknown}: {unknown} is not a placeholder"):
            resolve(recipe, SAVE=f"runs/{{task}}-{unknown}", **array)


def test_a_data_path_is_split_as_a_shell_does(tmp_path: Path) -> None:
    assert split_data_path("0.3 'my wiki/a' 0.7 b") == ["0.3", "my wiki/a", "0.7", "b"]
    prefix = tmp_path / "my wiki"
    Path(f"{prefix}.idx").touch()
    assert split_data_path(str(prefix)) == [str(prefix)]
    with pytest.raises(BadInput, match="No closing quotation"):
        split_data_path("'a")


def test_what_is_not_there_is_said_before_the_queue(recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "there.idx").touch()
    found = job_settings.missing(resolve(recipe, "--data-path", "0.3", "there", "0.7", "gone"))
    assert any("models/m" in line for line in found)
    assert [line for line in found if "data-path" in line] == ["--data-path gone: no file gone.idx"]


def test_a_missing_recipe_is_bad_input(recipe: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=rf"CONFIG=nowhere.yaml: no such file under {tmp_path}"):
        resolve(Path("nowhere.yaml"))
    with pytest.raises(BadInput, match="CONFIG is not set"):
        job_settings.resolve({}, [])


def test_a_run_that_ended_before_its_first_checkpoint_makes_room_for_its_next_attempt(
    recipe: Path, tmp_path: Path
) -> None:
    config, save = resolve(recipe).config, tmp_path / "run"
    for number in range(2):
        save.mkdir()
        (save / "config.yaml").write_text("model: {}")
        (save / "metrics.jsonl").write_text(str(number))
        assert set_aside_if_unfinished(save, config) == tmp_path / f"run.attempt-{number}"
        assert not save.exists()
    assert (tmp_path / "run.attempt-1/metrics.jsonl").read_text() == "1"


@pytest.mark.parametrize("kind", ["with a checkpoint", "of something else", "in use"])
def test_other_directories_stay_where_they_are(recipe: Path, tmp_path: Path, kind: str) -> None:
    config, save = resolve(recipe).config, tmp_path / "run"
    save.mkdir()
    if kind != "of something else":
        (save / "config.yaml").touch()
    if kind == "with a checkpoint":
        (save / "latest_checkpointed_iteration.txt").write_text("1")
    with (save / ".lock").open("w") as lock:
        if kind == "in use":
            fcntl.flock(lock, fcntl.LOCK_EX)
        assert set_aside_if_unfinished(save, config) is None
    assert save.is_dir()


def test_a_directory_that_cannot_be_renamed_is_one_line(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, save = resolve(recipe).config, tmp_path / "run"
    save.mkdir()
    (save / "config.yaml").touch()
    monkeypatch.chdir(save)
    with pytest.raises(BadInput, match=r"SAVE=\. holds a run without a checkpoint and cannot be renamed"):
        set_aside_if_unfinished(Path(), config)

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(BadInput, match=rf"SAVE={save} holds a run without .* \(.*Permission denied\): choose another"):
        set_aside_if_unfinished(save, config)


def test_a_port_that_is_taken_is_passed_over_and_refused_where_it_was_asked_for() -> None:
    job = {"SLURM_JOB_ID": "4711234"}
    first = free_port(job)
    assert 20000 <= first < 30000
    with socket.socket() as other:
        other.bind(("", first))
        other.listen()
        assert free_port(job) != first
        with pytest.raises(BadInput, match=f"MASTER_PORT={first} is in use"):
            free_port(job | {"MASTER_PORT": str(first)})
    for given, reason in (("two", "give a whole number of at least 1"), ("70000", "give a port of at most 65535")):
        with pytest.raises(BadInput, match=f"MASTER_PORT={given}: {reason}"):
            free_port({"MASTER_PORT": given})


def test_a_job_number_that_is_set_to_nothing_is_none() -> None:
    assert free_port({"SLURM_JOB_ID": ""}) == free_port({})


@pytest.mark.parametrize(
    ("variables", "processes"),
    [
        ({}, 4),
        ({"CUDA_VISIBLE_DEVICES": "2,3"}, 2),
        ({"CUDA_VISIBLE_DEVICES": "GPU-8f2a"}, 1),
        ({"CUDA_VISIBLE_DEVICES": ""}, 1),
        ({"CUDA_VISIBLE_DEVICES": "-1"}, 1),
        ({"CUDA_VISIBLE_DEVICES": "0,1,-1,3"}, 2),
        ({"CUDA_VISIBLE_DEVICES": "0,1", "SLURM_GPUS_ON_NODE": "8"}, 2),
        ({"CUDA_VISIBLE_DEVICES": "0,1,2,3", "SLURM_GPUS_ON_NODE": "3"}, 3),
        ({"SLURM_GPUS_ON_NODE": "8"}, 8),
        ({"SLURM_GPUS_ON_NODE": ""}, 4),
        ({"SLURM_GPUS_ON_NODE": "gpu:8"}, 8),
        ({"SLURM_GPUS_ON_NODE": "h100:2(S:0,1)"}, 2),
        ({"SLURM_GPUS_ON_NODE": "a100:4,v100:2"}, 6),
        ({"CUDA_VISIBLE_DEVICES": "0, 1 ,2"}, 3),
        ({"CUDA_VISIBLE_DEVICES": "0,1,NoDevFiles"}, 2),
        ({"CUDA_VISIBLE_DEVICES": "0,1,"}, 2),
        ({"CUDA_VISIBLE_DEVICES": "NoDevFiles", "SLURM_GPUS_ON_NODE": "8"}, 1),
        ({"CUDA_VISIBLE_DEVICES": "GPU-8f2a,GPU-17c0,3"}, 2),
        ({"CUDA_VISIBLE_DEVICES": "MIG-8f2a,MIG-17c0"}, 1),
        ({"CUDA_VISIBLE_DEVICES": "2,3", "NPROC_PER_NODE": "1"}, 1),
    ],
)
def test_a_process_for_each_gpu_that_may_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], processes: int
) -> None:
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\nfor i in 0 1 2 3; do echo GPU $i: NVIDIA H200; done\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert count_processes(variables) == processes


@pytest.mark.parametrize(
    "variables",
    [
        {"SLURM_GPUS_ON_NODE": "eight"},
        {"SLURM_GPUS_ON_NODE": "-1"},
        {"CUDA_VISIBLE_DEVICES": "0,0"},
        {"CUDA_VISIBLE_DEVICES": "GPU-8f2a,GPU-8f2a"},
        {"NPROC_PER_NODE": "٣"},
        {"NPROC_PER_NODE": "9" * 5000},
    ],
)
def test_a_number_of_gpus_that_cannot_be_read_is_refused(variables: dict[str, str]) -> None:
    ((name, value),) = variables.items()
    with pytest.raises(BadInput, match=f"{name}={value}: "):
        count_processes(variables)


def test_a_machine_without_gpus_runs_one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert count_processes({}) == 1


def test_cores_are_divided_among_the_processes() -> None:
    assert threads_of_a_process({"SLURM_CPUS_ON_NODE": "16"}, 3) == 5
    assert threads_of_a_process({"SLURM_CPUS_ON_NODE": "2"}, 8) == 1
    assert threads_of_a_process({"SLURM_CPUS_ON_NODE": "16", "OMP_NUM_THREADS": "7"}, 3) == 7
    with pytest.raises(BadInput, match=r"SLURM_CPUS_ON_NODE=16\(x2\): give a whole number"):
        threads_of_a_process({"SLURM_CPUS_ON_NODE": "16(x2)"}, 1)
    for name in ("NPROC_PER_NODE", "OMP_NUM_THREADS"):
        with pytest.raises(BadInput, match=f"{name}=two: give a whole number of at least 1"):
            threads_of_a_process({name: "two"}, count_processes({name: "two"}))
