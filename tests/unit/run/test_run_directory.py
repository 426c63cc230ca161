"""The record of starts in a run's folder, with the differences of a resume."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from megatron_pz.config.parse import load_yaml
from megatron_pz.config.schema import DataConfig, OptimizerConfig, RunConfig, TrainingConfig
from megatron_pz.monitoring.launches import read_launches
from megatron_pz.run.run_directory import CONFIG_FILE, changed_settings, describe_run, write_config
from megatron_pz.trainer.topology import Topology

FIRST = RunConfig(
    data=DataConfig(data_path=("0.3", "a", "0.7", "b")), optimizer=OptimizerConfig(lr=1e-4, clip_grad=0.5)
)


def test_the_file_reads_back_as_the_configuration(tmp_path: Path) -> None:
    write_config(FIRST, tmp_path / CONFIG_FILE)
    assert load_yaml(tmp_path / CONFIG_FILE) == FIRST
    assert changed_settings(tmp_path / CONFIG_FILE, FIRST) == {}
    assert changed_settings(tmp_path / "nowhere.yaml", FIRST) == {}


@pytest.mark.parametrize(
    "content", ["optimizer:\n  lr: 0.0001\n  of_another_version: 3\nolder: {}\n", "optimizer: [", "7"]
)
def test_a_file_of_another_version_or_cut_short_stops_no_resume(content: str, tmp_path: Path) -> None:
    (tmp_path / CONFIG_FILE).write_text(content)
    assert changed_settings(tmp_path / CONFIG_FILE, FIRST) == {}


def test_a_resume_names_what_differs_and_the_launch_keeps_it(
    topology: Topology, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    training = TrainingConfig(save=str(tmp_path))
    first = dataclasses.replace(FIRST, training=training)
    resumed = dataclasses.replace(
        first,
        data=DataConfig(data_path=("c",)),
        optimizer=OptimizerConfig(lr=2e-4, clip_grad=0.5),
        training=dataclasses.replace(training, load=str(tmp_path)),
    )
    describe_run(first, topology, 0)
    describe_run(resumed, topology, 7)
    assert capsys.readouterr().out.splitlines() == [
        "continues after iteration 7 with other settings: data.data_path ['0.3', 'a', '0.7', 'b'] -> ['c'], "
        "optimizer.lr 0.0001 -> 0.0002"
    ]
    assert [launch.changes for launch in read_launches(tmp_path)] == [
        {},
        {"data.data_path": [["0.3", "a", "0.7", "b"], ["c"]], "optimizer.lr": [1e-4, 2e-4]},
    ]
    assert load_yaml(tmp_path / CONFIG_FILE) == resumed
